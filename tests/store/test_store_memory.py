"""Writing, opening, streaming and verifying a store take the memory of a few chunks, however many rows it has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = 100_000, 1_000_000
# KiB of a row: eight float32, its label, its id.
ROW = (8 * 4 + 8 + len("train/00000000")) / 1024
# Sets no array aside for all rows: ids and labels are made where they are asked for.
CHILD = """
import sys
import numpy as np
from benchmarks.on_demand import OnDemand
from transfer.store.store import FeatureStore
from transfer.store.format import read_metadata
from transfer.store.verify import verify
from transfer.store.writer import StoreWriter
path, rows = sys.argv[1], int(sys.argv[2])
BATCH, WIDTH = 4096, 8

def write():
    ids, labels = OnDemand(rows, lambda i: f"train/{i:08d}"), OnDemand(rows, lambda i: i % 10)
    with StoreWriter(path, taps={"pre_logits": (WIDTH,)}, labels=labels, ids=ids, class_names="0123456789",
                     data="made", fingerprint={}, batch_size=BATCH) as store:
        for start, stop in store.pending():
            for first in range(start, stop, BATCH):
                count = min(BATCH, stop - first)
                batch = np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], WIDTH, axis=1)
                store.write(first, {"pre_logits": batch})
        store.finish()

def read():
    store = FeatureStore.open(path)
    total = 0
    for i in range(store.num_chunks):
        rows_of = store.chunk(i)
        features, labels, ids = store.features[rows_of], store.label_rows[rows_of], store.id_rows[rows_of]
        assert ids[0] == f"train/{rows_of.start:08d}" and labels[0] == rows_of.start % 10
        total += len(features)
    assert total == rows == len(store)

def check():
    assert not verify(path, read_metadata(path))

globals()[sys.argv[3]]()
# of this program alone: ru_maxrss would begin with what its parent had
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def peak(path: Path, rows: int, what: str) -> int:
    """KiB of memory, at most, of a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(path / str(rows)), str(rows), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = {what: [peak(tmp_path, rows, what) for rows in (FEW, MANY)] for what in ("write", "read", "check")}
    # a few chunks more may be under way at once; with all rows in memory it would be all of this and more
    assert all(many - few <= 0.3 * (MANY - FEW) * ROW for few, many in peaks.values()), peaks
