"""Progress: a bar on a terminal, lines elsewhere, and nothing of what is over at once."""

import io
import logging
import textwrap
import time

import nbclient
import nbformat
import numpy as np
import pytest

from transfer import Extractor, create_model
from transfer.preprocess import Preprocessing
from transfer.runtime import progress
from transfer.runtime.progress import Progress
from transfer.weights import cache


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_last_line_says_how_much_was_done(lines):
    with Progress("counting", 4, "things") as shown:
        shown.update(3)
    assert len(lines()) == 1 and lines()[0].startswith("counting: 3/4 things, ")


def test_a_line_now_and_then(lines, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("counting", None, "things") as shown:
        for _ in range(3):
            time.sleep(0.002)
            shown.update()
    assert [line.split(",")[0] for line in lines()] == [f"counting: {n} things" for n in (1, 2, 3)]


@pytest.mark.parametrize("process", [0, 1])
def test_of_what_several_processes_share_each_says_the_whole(process, lines, monkeypatch, capfd):
    """100 of 400 were there, the other has done 50; now and then, and at the end of the first."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_COUNTS", 0.0)
    monkeypatch.setattr(progress.distributed, "process_count", lambda: 2)
    monkeypatch.setattr(progress.distributed, "process_index", lambda: process)
    told = []
    monkeypatch.setattr(
        progress.distributed, "share_count", lambda name, count: told.append((name, count)) or count + 50
    )
    with Progress("counting", 400, "things", done=100, shared=True) as shown:
        shown.start_time -= 10
        for _ in range(2):
            time.sleep(0.002)
            shown.update(25)
    assert [count for _, count in told] == [25, 50, 50]
    said = lines() if process == 0 else capfd.readouterr().err.splitlines()
    label = "" if process == 0 else "process 1 of 2: "
    assert [line.split(" things,")[0] for line in said] == [f"{label}counting: {n}/400" for n in (175, 200)]
    assert said[-1].endswith(" things, 10.0 things/s, 20 s left")
    with Progress("counting", 2, "things", shared=True):
        pass
    first, *same, other = [name for name, _ in told]
    assert same == [first, first] and other != first, "what others did before under this title is not counted"


def test_what_is_over_within_the_delay_is_not_seen(lines, monkeypatch):
    terminal = Terminal()
    with Progress("counting", 4, "things", delay=60) as shown:
        shown.update(4)
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("counting", 4, "things", delay=60) as shown:
        shown.update(4)
    assert lines() == [] and "counting" not in terminal.getvalue()


def test_a_bar_on_a_terminal(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("counting", 4, "things", done=1) as shown:
        shown.update(3)
    assert "counting: 100%" in terminal.getvalue() and lines() == []


@pytest.mark.slow
def test_a_bar_and_the_seconds_in_a_notebook(tmp_path):
    code = """
        import time
        from transfer.runtime import progress
        with progress.Progress("counting", 4, "things") as shown:
            shown.update(4)
        progress.NOTICEABLE_SECONDS = 0.1
        with progress.waiting("a long fit"):
            time.sleep(0.5)
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "counting: 100%" in text and "4.00/4.00" in text and "a long fit: 0 s" in text
    assert "Warning" not in text and "INFO" not in text


def test_features_of_many_images_are_counted(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("transfer.extract.extractor.NOTICEABLE_SECONDS", 0.0)
    model = create_model("lenet5", weights=False, channels=3)
    extractor = Extractor(model, tap="pre_logits", batch_size=2, preprocessing=Preprocessing((28, 28)))
    assert len(extractor(np.zeros((3, 28, 28, 3), np.uint8))) == 3
    assert "features: 100%" in terminal.getvalue() and "3.00/3.00" in terminal.getvalue()


def test_an_error_ends_it_without_a_line(lines):
    with pytest.raises(KeyError), Progress("counting", 4, "things") as shown:
        shown.update()
        raise KeyError
    assert lines() == []


def test_hashing_a_file_counts_its_bytes(lines, monkeypatch, tmp_path):
    (tmp_path / "weights").write_bytes(b"abc" * 1000)
    monkeypatch.setattr(cache, "NOTICEABLE_SECONDS", 0.0)
    found = cache.digests(tmp_path / "weights")
    assert lines()[0].startswith("hashing weights: 3000/3000 B") and len(found["sha256"]) == 64


def test_work_without_steps_says_that_it_goes_on(lines, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with progress.waiting("thinking"):
        time.sleep(0.1)
    assert len(lines()) >= 2 and all(line == "thinking: 0 s so far" for line in lines())


def test_work_without_steps_that_is_over_at_once_is_not_seen(lines, monkeypatch):
    terminal = Terminal()
    with progress.waiting("thinking"):
        pass
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.waiting("thinking"):
        pass
    assert lines() == [] and terminal.getvalue() == ""


def test_work_without_steps_counts_seconds_on_a_terminal(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "NOTICEABLE_SECONDS", 0.01)
    with pytest.raises(KeyError), progress.waiting("thinking"):
        time.sleep(0.05)
        raise KeyError
    assert terminal.getvalue() == "\rthinking: 0 s \n" and lines() == []
