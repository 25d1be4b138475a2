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

# Two tasks on two nodes that are one; like Slurm's, it ends with the highest exit code. With FAKE_SIGNAL it signals
# what runs in its tasks, shells and all, as Slurm does before the time is over.
SRUN = """#!/usr/bin/env bash
[[ $1 == --label && $3 == --kill-on-bad-exit=0 && $4 == --wait=600 ]] || exit 99
echo "$2" >>"$CALLS"
shift 4
export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE='1(x2)'
set -m
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=0 "$@" &
  tasks[task]=$!
done
if [[ -n ${FAKE_SIGNAL:-} ]]; then
  until [[ -e $FAKE_SIGNAL.0 && -e $FAKE_SIGNAL.1 ]]; do sleep 0.05; done
  for task in "${tasks[@]}"; do kill -TERM -- "-$task"; done
fi
code=0
for task in "${tasks[@]}"; do
  wait "$task" || { ended=$?; code=$((ended > code ? ended : code)); }
done
exit $code
"""
JOB = str(os.getpid())


@pytest.fixture
def submit(tmp_path):
    """Runs the script as Slurm does, in the folder that the job was submitted from."""
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
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
    }

    def run(*arguments: str, cwd: Path = tmp_path, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=240)

    return run


def calls(folder: Path, verb: str) -> list[str]:
    """What was asked of Slurm that starts with it."""
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(verb)]


def test_the_options_are_those_of_slurm():
    lines = SCRIPT.read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1", "--open-mode=append"} < set(options)
    # Slurm reads them up to the first command
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x4)"}, 64),
        # the smallest node's, where nodes differ
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x2),32,128"}, 32),
        ({"SLURM_JOB_CPUS_PER_NODE": "64", "SLURM_NTASKS_PER_NODE": "8"}, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x4)", "SLURM_CPUS_PER_TASK": "16"}, 16),
    ],
)
def test_every_task_gets_its_cores(submit, tmp_path, variables, cores):
    assert "--exclusive" in SCRIPT.read_text()
    (tmp_path / "job.py").touch()
    assert submit("job.py", **variables).returncode == 0
    assert calls(tmp_path, "--cpus") == [f"--cpus-per-task={cores}"]


# Exit codes of the two tasks, then the job's own and whether it goes back into the queue.
ENDS = {
    "done": ((0, 0), 0, False),
    "asked to stop": ((75, 75), 0, True),
    "asked to stop, one had done its share": ((0, 75), 0, True),
    "one was killed": ((137, 76), 137, False),
    "both lost the other": ((76, 76), 0, True),
    "one failed, so the other lost it": ((1, 76), 1, False),
    "wrong arguments": ((2, 2), 2, False),
}


@pytest.mark.parametrize(("codes", "expected", "requeued"), ENDS.values(), ids=ENDS)
def test_what_was_asked_to_stop_or_lost_a_peer_is_queued_again(submit, tmp_path, codes, expected, requeued):
    (tmp_path / "job.py").write_text(f"import os, sys; sys.exit({codes}[int(os.environ['SLURM_PROCID'])])")
    done = submit("job.py")
    assert done.returncode == expected, done.stderr
    assert calls(tmp_path, "requeue") == [f"requeue {JOB}"] * requeued
    assert (tmp_path / f"transfer-{JOB}.stalled").exists() == requeued


# Does what is written beside it: what the run's status says afterwards, and ends with the code.
PROGRESS = """
import json, os, pathlib, sys
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
if os.environ["SLURM_PROCID"] == "0":
    status = json.loads(os.environ["SAYS"])
    workdir.joinpath("status.json").write_text(json.dumps({**status, "heartbeat": os.getpid()}))
sys.exit(76)
"""


def test_the_count_of_times_in_the_queue_starts_again_with_progress(submit, tmp_path):
    (tmp_path / "job.py").write_text(PROGRESS)
    (tmp_path / "run").mkdir()
    # no progress where no more is done of a stage than ever before
    says = [("extract", 10), ("extract", 8), ("extract", 10), ("extract", 20), ("head", 1), ("extract", 20)]
    says += [("head", 0)] * 2
    expected = [0, 1, 2, 0, 0, 1, 2, None]
    for (stage, count), stalled in zip(says, expected, strict=True):
        status = json.dumps({"stage": stage, "done": count})
        # in one word or two
        workdir = [f"--workdir={tmp_path / 'run'}"] if stage == "head" else ["--workdir", str(tmp_path / "run")]
        done = submit("job.py", *workdir, SAYS=status, REQUEUE_LIMIT="2")
        if stalled is None:
            assert done.returncode == 76 and "3 times in a row without progress" in done.stderr
        else:
            assert done.returncode == 0 and f"({stalled} of 2 times without progress)" in done.stderr, done.stderr
    assert len(calls(tmp_path, "requeue")) == 7
    assert not (tmp_path / f"transfer-{JOB}.stalled").exists()


def test_what_cannot_be_counted_has_an_end(submit, tmp_path):
    (tmp_path / "job.py").write_text("raise SystemExit(75)")
    (tmp_path / f"transfer-{JOB}.stalled").mkdir()
    assert submit("job.py").returncode == 75 and calls(tmp_path, "requeue") == []


# Saves when it is told to, as ours do; the shell around it is told, too.
SAVES = """
import os, pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.2)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(os.environ["FAKE_SIGNAL"] + "." + os.environ["SLURM_PROCID"]).touch()
time.sleep(60)
"""


def test_the_notice_before_the_time_is_over_reaches_the_processes_and_they_save(submit, tmp_path):
    (tmp_path / "job.py").write_text(SAVES)
    done = submit("job.py", FAKE_SIGNAL=str(tmp_path / "ready"))
    assert done.returncode == 0, done.stderr
    assert "ended with 75" in done.stderr and calls(tmp_path, "requeue")


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
    workdir = f"--workdir={tmp_path / 'run'}"
    done = submit("train.py", *files, "--epochs=2", "--batch_size=16", workdir, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["epochs"], result["num_train"], result["num_validation"]) == (2, 101, 30)
    # only one of them prints
    assert done.stdout.count("Epoch 2/2") == done.stdout.count("Workdir:") == 1
