"""The short form of the flip campaign: a few bytes of everything that is kept on disk, each noticed or harmless."""

import json
import os
import subprocess
import sys

import pytest

from tests.campaigns.figures import REPOSITORY


@pytest.mark.slow
def test_a_few_changes_are_noticed_or_harmless(tmp_path):
    pytest.importorskip("onnx")
    output = tmp_path / "flip.json"
    command = [sys.executable, "-m", "tests.campaigns.flip", "--changes=90", "--batch=6", f"--output={output}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["held"] == figures["done"] == 90 and len(figures["parts"]) >= 8
