"""The short form of the network campaign: each page of a bad source once."""

import json
import os
import subprocess
import sys

import pytest

from tests.campaigns.figures import REPOSITORY
from tests.campaigns.network import PAGES


@pytest.mark.slow
def test_every_bad_source_once(tmp_path):
    output = tmp_path / "network.json"
    command = [sys.executable, "-m", "tests.campaigns.network", f"--trials={len(PAGES)}", f"--output={output}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["held"] == figures["done"] == len(PAGES) == len(figures["parts"])
