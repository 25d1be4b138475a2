"""Runs the short form of a campaign, as a test does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.campaigns.figures import REPOSITORY


def run(campaign: str, *flags: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`python -m tests.campaigns.CAMPAIGN FLAGS…`, and its figures, empty where it has made none."""
    output = folder / f"{campaign}.json"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{campaign}", *flags, f"--output={output}"],
        cwd=REPOSITORY,
        # of a program it matters here what it leaves, not how fast it is, and most of a run's time is compilation
        env=os.environ | {"TMPDIR": str(folder), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return done, json.loads(output.read_text()) if output.exists() else {}
