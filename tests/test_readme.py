"""What the README says is what its commands print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transfer import __main__ as command

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()


def test_table_of_models(capsys):
    assert command.main(["models", "--markdown"]) == 0
    shown = README.partition("<!-- models -->\n")[2].partition("<!-- /models -->")[0]
    assert shown == capsys.readouterr().out


@pytest.mark.slow
def test_quick_start(tmp_path):
    arguments = ["--config=configs/quickstart.py", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    trained, random, pixels = (row["mean"] for row in result["few_shot"]["rows"])
    assert trained > random + 0.02 and trained > pixels + 0.02
    # low bits differ between machines, so that one in 360 images may fall to the other side
    quoted = [float(mean) for mean in re.findall(r" (0\.\d{3})  0\.\d{3}$", README, re.MULTILINE)]
    assert quoted == pytest.approx([trained, random, pixels], abs=0.01)
