"""Starting: what is not imported before it is needed, and compiled programs that outlive the process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transfer.store import feature_files

pytestmark = pytest.mark.usefixtures("compiled_quickly")

REPOSITORY = Path(__file__).parent.parent
# What some command does without -> milliseconds that it takes to import: the total of `python -X importtime -c "import
# NAME"`, the least of five on two cores. What takes less than 20 is not here, nor is what every command imports.
HEAVY = {
    "jax": 474,
    "flax": 827,
    "optax": 602,
    "orbax": 984,  # orbax.checkpoint
    "tensorstore": 92,
    "sklearn": 795,  # sklearn.base
    "scipy": 967,  # scipy.stats
    "tensorflow_datasets": 387,
    "tensorboardX": 109,
    "pyarrow": 119,
    "fsspec": 65,
    "h5py": 81,
    "numpy": 62,
    "jinja2": 44,
    "tqdm": 39,
    "requests": 117,
    "urllib3": 85,
    "shtab": 55,
    "packaging": 42,  # packaging.requirements
    "importlib.metadata": 33,
    "tabulate": 44,
}

# What may be installed beside this package, is heavy, and is imported by some of our libraries where it is there.
OTHERS = ("torch", "tensorflow", "keras", "pandas", "matplotlib")


def imported(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The process, and the top-level modules that it imported."""
    others = folder / "others"
    others.mkdir(exist_ok=True)
    for name in OTHERS:
        (others / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    command = [sys.executable, "-X", "importtime", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(others)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done, {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the process says on stderr beside its imports."""
    return [line for line in done.stderr.splitlines() if not line.startswith("import time:")]


@pytest.fixture
def training(tmp_path):
    """Trains on two small files of one seed in `tmp_path / RUN`, with other flags beside."""
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        labels = random.integers(0, 3, 30)
        feature_files.write(tmp_path / f"{split}.p", random.normal(size=(30, 5)).astype(np.float32), labels)
    files = ["--training_file=train.p", "--validation_file=validation.p", "--epochs=2"]

    def train(run: str, *others: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
        done, modules = imported([str(REPOSITORY / "train.py"), *files, f"--workdir={run}", *others], tmp_path)
        assert done.returncode == 0, done.stderr
        return done, modules

    return train


@pytest.mark.parametrize("command", [["train.py"], ["extract.py"], ["-m", "transfer", "train"]], ids=" ".join)
def test_help_and_wrong_flags_start_nothing_heavy(command, tmp_path):
    start = [str(REPOSITORY / command[0])] if command[0] != "-m" else command
    done, modules = imported([*start, "--help"], tmp_path)
    assert "--config" in done.stdout and "absl" in modules
    assert not modules & set(HEAVY)


@pytest.mark.slow
def test_a_second_run_compiles_nothing_and_imports_only_what_a_head_needs(training, tmp_path):
    cache = tmp_path / "compiled"
    first, _ = training("one", f"--compilation_cache={cache}")
    entries = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert any("epoch" in name for name in entries)
    second, modules = training("two", f"--compilation_cache={cache}")
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == entries
    assert second.stdout.replace("two", "one") == first.stdout and told(second) == told(first) == []
    assert "jax" in modules and not modules & {"flax", "sklearn", "scipy", "tensorflow_datasets", "h5py"}


@pytest.mark.slow
def test_off_keeps_nothing(training, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    training("run", "--compilation_cache=off")
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
def test_jax_s_own_variable_is_respected(training, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    training("run")
    assert list((tmp_path / "compiled").glob("*-cache"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_warning(training, tmp_path):
    (tmp_path / "file").write_text("")
    done, _ = training("run", f"--compilation_cache={tmp_path / 'file' / 'below'}")
    (line,) = told(done)
    assert "below: Not a directory; compiled programs are not kept" in line


@pytest.mark.slow
def test_half_an_entry_is_one_warning_once(training, tmp_path):
    cache = tmp_path / "compiled"
    training("one", f"--compilation_cache={cache}")
    for entry in cache.glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:100])
    done, _ = training("two", f"--compilation_cache={cache}")
    (line,) = told(done)
    assert "Error reading persistent compilation cache entry" in line
    done, _ = training("three", f"--compilation_cache={cache}")
    assert told(done) == []


def test_a_cache_above_its_limit_loses_what_was_not_used_for_longest(tmp_path, monkeypatch):
    from transfer.runtime import cache

    monkeypatch.setattr(cache, "LIMIT", 400)
    for age in range(5):
        entry = tmp_path / f"{age}-cache"
        entry.write_bytes(bytes(100))
        os.utime(entry, (1000 - age, 1000))
    cache._prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache"]
