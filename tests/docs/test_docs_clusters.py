"""What `docs/clusters.md` says is so: its commands, flags, files and seconds; and its two terminals really train."""

import inspect
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from transfer import config as settings
from transfer.cli import status
from transfer.runtime import distributed, preemption, progress
from transfer.runtime.files import lock

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "clusters.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_files_and_fields_that_it_names_are_there():
    for path in re.findall(r"\b(?:scripts|configs)/[\w.\-]+", PAGE):
        assert (REPOSITORY / path).is_file(), path
    fields = settings.default()
    for name in re.findall(r"config\.([a-z_.]+\w)", PAGE):
        assert name.split(".")[0] in fields and (
            name.count(".") == 0 or name.split(".")[1] in fields[name.split(".")[0]]
        )


def test_flags_that_it_names_are_there():
    shown = [
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60).stdout
        for command in (
            [sys.executable, "train.py", "--helpfull"],
            ["scripts/tpu_pod.py", "--help"],
            [sys.executable, "-m", "transfer", "features", "--help"],
            [sys.executable, "-m", "transfer", "status", "--help"],
        )
    ]
    # test_docs_on_the_day.py has those of other programs
    foreign = r"^(gcloud|kubectl|docker|sbatch|mpirun|squeue|git)\b(.*\\\n)*.*\n"
    ours = re.sub(foreign, "", PAGE, flags=re.MULTILINE)
    others = {"--ntasks-per-node", "--max-log-requests"}
    for flag in set(re.findall(r"(?<![\w-])--[a-z][\w\-]*", ours)) - others:
        assert any(re.search(rf"{flag}\b", text) for text in shown) or flag.startswith("--config"), flag


def test_seconds_and_codes_are_the_programs():
    defaults = inspect.signature(distributed.initialise).parameters
    for name in ("lost_seconds", "connect_seconds"):
        assert f"`--{name}` ({defaults[name].default})" in PAGE
    assert f"| {preemption.EXIT_PREEMPTED} | the same command goes on" in PAGE
    assert f"`--hang_seconds` ({progress.HANG_SECONDS})" in PAGE
    for state, code in status.CODES.items():
        assert re.search(rf"^\\| {state} \\|[^|]*\\| {code} \\|$", PAGE, re.MULTILINE), state
    assert f"for {lock.EXPIRY_SECONDS:.0f} seconds" in " ".join(PAGE.split())


# The commands are the page's, but shorter.
LESS = ["--config.head.epochs=5", "--config.few_shot.seeds=1"]


@pytest.mark.slow
def test_two_terminals_train_one_head(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    page = section("Two terminals of a laptop").replace("\\\n", " ")
    commands = re.findall(r"```\npython (train\.py .*)\n```", page)
    assert len(commands) == 2
    started = [
        subprocess.Popen(
            [
                sys.executable,
                *shlex.split(command.replace("8476", str(port)).replace("runs/two", f"{tmp_path}/two")),
                *LESS,
            ],
            cwd=REPOSITORY,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["validation_accuracy"] > 0.9 and result["few_shot"]["rows"][-1]["mean"] > 0.94
    assert "Workdir" in ended[0][0] and "Workdir" not in ended[1][0]
    verify = shlex.split(section("Is the store all right?").partition("```\n")[2].partition("\n```")[0])
    checked = subprocess.run(
        [sys.executable, *(word.replace("runs/two", f"{tmp_path}/two") for word in verify[1:])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stderr
