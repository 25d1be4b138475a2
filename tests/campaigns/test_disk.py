"""The short form of the disk campaign: full disks and read-only folders end in one line, and nothing is lost."""

import json
import os
import subprocess
import sys

import pytest

from tests.campaigns.disk import CANNOT
from tests.campaigns.figures import REPOSITORY


@pytest.mark.slow
def test_a_few_disks_run_full(tmp_path):
    output = tmp_path / "disk.json"
    command = [sys.executable, "-m", "tests.campaigns.disk", "--trials=8", "--cold", f"--output={output}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500
    )
    if done.returncode == CANNOT:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["held"] == figures["done"] >= 8 and len(figures["parts"]) >= 6
