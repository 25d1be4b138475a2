"""The short form of the kill campaign: every kind of work killed at a few moments ends as without."""

import json
import os
import subprocess
import sys

import pytest

from tests.campaigns.figures import REPOSITORY


@pytest.mark.slow
def test_killed_at_a_few_moments(tmp_path):
    output = tmp_path / "kill.json"
    command = [sys.executable, "-m", "tests.campaigns.kill", "--moments=8", "--cold", f"--output={output}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["held"] == figures["done"] >= 8 and len(figures["parts"]) >= 4
