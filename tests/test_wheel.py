"""The wheel, alone in an environment and outside of the repository: it brings all that the commands need."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from transfer.experiment import config_file

REPOSITORY = Path(__file__).parent.parent
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.md", "transfer", "configs")
# A run of seconds: few images, a head in closed form.
SETTINGS = (
    "--config.data.train_per_class=8",
    "--config.data.validation_per_class=4",
    "--config.few_shot=None",
    "--config.head.name=ridge",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy of the sources, for setuptools leaves its `build/` in them and takes it for theirs."""
    pytest.importorskip("setuptools", "70.1")
    folder, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(made)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program of a new environment, which has the wheel and finds what that requires in this one, in a folder.

    Lines of a .pth file become places to import from, but no .pth file in those is read: not that of `pip install -e`.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "required.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    install = ["--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", *install, "--ignore-installed", wheel], check=True, timeout=120)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / program), *arguments]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)

    return run


def test_it_holds_what_the_package_and_its_configs_are(wheel):
    listed = subprocess.run(["git", "ls-files", "transfer"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    expected = {name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()}
    expected |= {f"transfer/configs/{name}.py" for name in config_file.packaged()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.slow
def test_experiments_run_outside_of_the_repository(installed, tmp_path):
    where = installed("python", "-c", "import transfer; print(transfer.__file__)", folder=tmp_path)
    assert where.stdout.strip().endswith("site-packages/transfer/__init__.py"), where.stderr
    assert not where.stdout.startswith(str(REPOSITORY))

    done = installed("transfer", "extract", "--config=quickstart", *SETTINGS, folder=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("Features: runs/quickstart/features\n"), done.stderr
    shutil.copy(REPOSITORY / "configs" / "quickstart.py", tmp_path / "mine.py")
    trained = ["--config=mine.py", *SETTINGS, "--workdir=runs/quickstart"]
    done = installed("python", "-m", "transfer", "train", *trained, folder=tmp_path)
    assert done.returncode == 0 and "complete, 80 images; nothing to do" in done.stderr, done.stderr
    assert json.loads((tmp_path / "runs/quickstart/result.json").read_text())["num_train"] == 80

    # the script takes the run for its own
    script = [sys.executable, str(REPOSITORY / "train.py"), "--config=quickstart", *SETTINGS]
    again = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr


WRONG = {
    "no such name": (["extract", "--config=quikstart"], 2, "did you mean quickstart?"),
    "a path of the clone": (["train", "--config=configs/quickstart.py"], 2, "--config=quickstart"),
    "nothing": (["train"], 2, "--config=NAME or --config=PATH.py"),
    "no such setting": (["train", "--config=quickstart", "--config.head.nme=ridge"], 2, "mean config.head.name?"),
    "no images": (["train", "--config=your_images"], 1, "folder:photos: no such file or folder"),
}


@pytest.mark.slow
def test_what_is_wrong_is_one_line(installed, tmp_path):
    for arguments, code, message in WRONG.values():
        done = installed("transfer", *arguments, folder=tmp_path)
        last = done.stderr.splitlines()[-1]
        assert (done.returncode, last.startswith("error: "), message in last) == (code, True, True), done.stderr
    assert not list(tmp_path.iterdir())
