"""`transfer status`: a row for each workdir, and an exit code that a script can act on."""

import json
import time

import pytest

from transfer.__main__ import main
from transfer.cli import status as command

NOW = {
    "state": "running",
    "time": time.time(),
    "processes": 1,
    "restarts": 0,
    "stage": "train",
    "done": 640,
    "total": 1280,
}
NOW |= {"stage": "train", "done": 640, "total": 1280, "unit": "images", "rate": 251.26, "seconds_left": 150}
OLD = NOW["time"] - 7200

# What the first process and others have written, the row as it is shown, the exit code.
RUNS = {
    "running": ([{"state": "running"}], "running train 640/1280 images (50%) 251.3 150 1 s ago 0 1", 3),
    "done": ([{"state": "done"}], "done train 640/1280 images (50%) 251.3 1 s ago 0 1", 0),
    "stopped": ([{"state": "stopped", "restarts": 2}], "stopped train", 5),
    "stale": ([{"state": "running", "time": OLD}], "stale train 640/1280 images (50%) 251.3 7201 s ago 0 1", 6),
    "failed": ([{"state": "failed", "error": "no\x1b[31m room"}], "failed train", 7),
    "another is silent": ([{"state": "running"}, {"state": "running", "time": OLD}], "stale train", 6),
    "another failed": ([{"state": "running"}, {"state": "failed", "error": "no room"}], "failed train", 7),
    "another has not begun again": (
        [{"state": "running", "started": NOW["time"] - 9}, {"state": "failed", "time": NOW["time"] - 10}],
        "running train",
        3,
    ),
    "a number of processes that is none": ([{"state": "running", "processes": 10**15}], "running train", 3),
    "of an earlier count": ([{"state": "running"}], "running train", 3),
    "unknown total": ([{"total": "none", "seconds_left": "none"}], "running train 640 images 251.3 1 s ago 0 1", 3),
    "no stage yet": ([{"stage": None, "done": None, "rate": None}], "running 1 s ago 0 1", 3),
    "numbers that are none": ([{"done": "\x1b", "total": 10**400, "restarts": [1]}], "running 1 s ago [1] 1", 3),
}


def put(folder, statuses):
    folder.mkdir()
    for process, of in enumerate(statuses):
        given = {key: value for key, value in {**NOW, "processes": len(statuses), **of}.items() if value is not None}
        given = {key: None if value == "none" else value for key, value in given.items()}
        (folder / (f"status-{process}.json" if process else "status.json")).write_text(json.dumps(given))


@pytest.mark.parametrize(("statuses", "row", "code"), RUNS.values(), ids=RUNS)
def test_a_row_and_a_code(tmp_path, monkeypatch, capsys, request, statuses, row, code):
    monkeypatch.setattr("time.time", lambda: NOW["time"] + 1)
    put(tmp_path / "run", statuses)
    if request.node.callspec.id == "of an earlier count":
        (tmp_path / "run" / "status-3.json").write_text(json.dumps({"state": "failed"}))
    assert main(["status", str(tmp_path / "run")]) == code
    headings, shown, *rest = capsys.readouterr().out.splitlines()
    assert headings.split()[:4] == ["workdir", "state", "stage", "done"]
    assert " ".join(shown.split()).startswith(f"{tmp_path / 'run'} {row}")
    errors = {"failed": r"no\x1b[31m room", "another is silent": "process 1: has not been heard of"}
    errors |= {"another failed": "process 1: no room"}
    assert rest == [f"{tmp_path / 'run'}: {text}" for case, text in errors.items() if case == request.node.callspec.id]


def test_several_workdirs_have_the_worst_code(tmp_path, capsys):
    put(tmp_path / "a", [{"state": "done"}])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "result.json").write_text("{}")
    assert main(["status", str(tmp_path / "a"), str(tmp_path / "old")]) == 0
    assert main(["status", str(tmp_path / "a"), str(tmp_path / "later")]) == 4
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in out[1:3]] == ["done", "done"] and "not begun" in out[5]


def test_it_watches_until_none_is_running(tmp_path, monkeypatch, capsys):
    put(tmp_path / "run", [{"state": "running"}])

    def finish(seconds):
        (tmp_path / "run" / "status.json").write_text(json.dumps({**NOW, "state": "done"}))

    monkeypatch.setattr("time.time", lambda: NOW["time"] + 1)
    monkeypatch.setattr(command.time, "sleep", finish)
    assert main(["status", "--watch", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "running" in out and "done" in out.splitlines()[-1]


def test_the_help_says_the_codes(capsys):
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "0 done, 3 running, 4 not begun, 5 stopped, 6 stale, 7 failed" in words
