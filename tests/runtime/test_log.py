"""Lines on stderr as text and as JSON, and the line that Kubernetes reads at a container's end."""

import json
import subprocess
import sys

import pytest

from transfer.runtime import log

CHILD = """
import sys
from absl import flags, logging
from transfer.cli import main
from transfer.errors import TransferError
from transfer.runtime import log
from transfer.runtime.progress import Progress
flags.FLAGS.mark_as_parsed()
logging.use_absl_handler()
main.prepare_logging()
log.use(sys.argv[1], logging.get_absl_handler())

def fail():
    with Progress("counting", 4, "things") as shown:
        shown.update(3)
    logging.warning("half a %s", "line\\nand more")
    log.write("SIGTERM: …")
    raise TransferError(sys.argv[2])

sys.exit(main.guarded(fail, debug=False))
"""


def run(form: str, error: str = "a file is damaged; copy it again") -> tuple[int, list[str]]:
    command = [sys.executable, "-c", CHILD, form, error]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


def test_each_line_is_an_object():
    code, lines = run("json")
    objects = [json.loads(line) for line in lines]
    assert code == 1 and all({"time", "level", "process", "message"} <= each.keys() for each in objects)
    progress, warning, notice, error = objects
    assert progress["message"].startswith("counting: 3/4 things") and progress["level"] == "INFO"
    assert (progress["stage"], progress["done"], progress["total"]) == ("counting", 3, 4)
    assert warning["message"] == "half a line\nand more" and warning["level"] == "WARNING"
    assert notice["message"] == "SIGTERM: …"
    assert (error["message"], error["level"]) == ("a file is damaged; copy it again", "ERROR")
    assert error["time"][10] == "T" and error["time"].endswith("Z") and error["process"] == 0


def test_text_is_as_ever():
    code, lines = run("text")
    assert code == 1 and lines[-2:] == ["SIGTERM: …", "error: a file is damaged; copy it again"]
    assert not any(line.startswith("{") for line in lines)


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_line_of_an_error_is_kuberneteses_too(tmp_path, monkeypatch, form):
    file = tmp_path / "termination-log"
    monkeypatch.setenv("TERMINATION_LOG", str(file))
    run(form)
    assert not file.exists(), "outside of a pod there is none, and none is made"
    file.touch()
    run(form)
    assert file.read_text() == "a file is damaged; copy it again"
    code, lines = run(form, "a\udcff.png is damaged")
    assert code == 1 and r"a\udcff.png is damaged" in lines[-1]
    assert file.read_text() == r"a\udcff.png is damaged"


def test_a_name_that_is_not_utf8_can_be_said_at_once(capfd):
    log.write("a\udcff.png")
    assert capfd.readouterr().err == "a\\udcff.png\n"
