"""A program for each device computes what one program over all of them does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_program_a_device_in_place_of_one_over_all():
    path = os.pathsep.join([str(HERE.parent / "support"), str(HERE.parents[1])])
    done = subprocess.run(
        [sys.executable, HERE / "on_four_devices.py"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == report["mesh"] == 4
    assert report["programs"] == [[0], [1], [2], [3]] and report["backbones"] == 1
    assert report["sharded"] and report["shapes"] == [[21, 5], [21, 6, 6, 5]]
    assert report["largest_error"] <= 1e-6
