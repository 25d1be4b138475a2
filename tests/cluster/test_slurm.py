"""`scripts/slurm.sbatch` with an `srun` that starts its tasks on this machine: exit codes, requeueing, a real run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "slurm.sbatch"

# Two tasks on two nodes that are one; like Slurm's, it ends with the highest exit code.
SRUN = """#!/usr/bin/env bash
[[ $1 == --kill-on-bad-exit=0 && $2 == --wait=600 ]] || exit 99
shift 2
export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE='1(x2)'
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=0 "$@" &
  tasks[task]=$!
done
code=0
for task in "${tasks[@]}"; do
  wait "$task" || { ended=$?; code=$((ended > code ? ended : code)); }
done
exit $code
"""


@pytest.fixture
def submit(tmp_path):
    """Runs the script as Slurm does, in the repository."""
    programs = {"srun": SRUN, "scontrol": '#!/bin/sh\necho "$@" >>"$CALLS"\n'}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "CALLS": str(tmp_path / "calls"),
        # the port is made of the number of the job
        "SLURM_JOB_ID": str(os.getpid()),
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment | more, capture_output=True, text=True, timeout=240
        )

    return run


def test_the_options_are_those_of_slurm():
    lines = SCRIPT.read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1", "--open-mode=append"} < set(options)
    # Slurm reads them up to the first command
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize(
    ("code", "restarts", "expected", "requeued"),
    [(0, 0, 0, False), (75, 0, 0, True), (75, 3, 75, False), (1, 0, 1, False)],
)
def test_a_job_that_was_asked_to_stop_is_queued_again(submit, tmp_path, code, restarts, expected, requeued):
    (tmp_path / "job.py").write_text(f"import os, sys; sys.exit({code} if os.environ['SLURM_PROCID'] == '1' else 0)")
    done = submit(str(tmp_path / "job.py"), SLURM_RESTART_COUNT=str(restarts), REQUEUE_LIMIT="3")
    assert done.returncode == expected, done.stderr
    assert (tmp_path / "calls").exists() == requeued
    if requeued:
        assert (tmp_path / "calls").read_text() == f"requeue {os.getpid()}\n"


def test_without_a_command_it_says_so(submit):
    done = submit()
    assert done.returncode == 2 and "the command is missing" in done.stderr


@pytest.mark.slow
def test_two_tasks_train_one_head(submit, tmp_path):
    random = np.random.default_rng(0)
    for name, rows in (("train", 101), ("validation", 30)):
        labels = random.integers(0, 3, rows)
        features = random.normal(size=(rows, 8)).astype(np.float32) + labels[:, None]
        np.savez(tmp_path / f"{name}.npz", features=features, labels=labels)
    files = [
        f"--{name}_file={tmp_path / short}.npz" for name, short in (("training", "train"), ("validation", "validation"))
    ]
    done = submit("train.py", *files, "--epochs=2", "--batch_size=16", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["epochs"], result["num_train"], result["num_validation"]) == (2, 101, 30)
    # only one of them prints
    assert done.stdout.count("Epoch 2/2") == done.stdout.count("Workdir:") == 1
