"""The short form of the clock campaign: extraction and training on clocks that jump end as on others."""

import json
import os
import subprocess
import sys

import pytest

from tests.campaigns.figures import REPOSITORY


@pytest.mark.slow
def test_on_a_few_clocks(tmp_path):
    output = tmp_path / "clock.json"
    command = [sys.executable, "-m", "tests.campaigns.clock", "--trials=4", "--cold", f"--output={output}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["held"] == figures["done"] == 4
