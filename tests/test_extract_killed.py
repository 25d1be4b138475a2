"""Extraction killed by SIGKILL at several points and run again gives the store of an uninterrupted run, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from killed_extraction import BROKEN, extract
from killing import outcomes

from transfer.features import FeatureStore

# Files in the store at which a run is killed: during its creation (labels, ids, metadata come to 9 files), then with
# the first batches of three files each (of 48), then near the end.
POINTS = [2, 9, 12, 25, 40, 50]


def files_of(store):
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    # a killed writer leaves the temporary file of a chunk that the next one overwrites, or not
    return {name: data for name, data in files.items() if not name.endswith(".__lock")}


def test_killed_at_several_points(tmp_path):
    script = Path(__file__).with_name("killed_extraction.py")
    command = [sys.executable, str(script), str(tmp_path / "killed"), *map(str, POINTS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    codes, files = outcomes(done.stdout)
    # a slow machine may let a child come further than the point, or even to its end
    killed_midway = {count for code, count in zip(codes, files, strict=True) if code and count < files[-1]}
    assert set(codes) <= {0, -signal.SIGKILL} and codes[-1] == 0 and len(killed_midway) >= 4, done.stdout
    extract(tmp_path / "whole")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    store = FeatureStore.open(tmp_path / "killed")
    assert len(store) == 61 - len(BROKEN) == len(set(store.ids)) and store.complete
    assert np.isfinite(store.features[:]).all()
