"""Training killed by SIGKILL at several points and run again ends as an uninterrupted run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
from killed_training import EPOCHS, make_files, train
from killing import outcomes

POINTS = [1, 6, 7, 15, 23]


def last_checkpoint(workdir: Path, item: str) -> list[bytes]:
    import jax

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir.resolve() / "checkpoints" / str(EPOCHS) / item)
    return [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(tree))]


def test_killed_at_several_points(tmp_path):
    make_files(tmp_path)
    script = Path(__file__).with_name("killed_training.py")
    command = [sys.executable, str(script), str(tmp_path), *map(str, POINTS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    codes, reached = outcomes(done.stdout)
    assert set(codes[:-1]) <= {0, -signal.SIGKILL} and codes[-1] == 0 and reached[-1] == EPOCHS, done.stdout
    assert codes.count(-signal.SIGKILL) >= 4, done.stdout

    train(tmp_path, "whole")
    killed, whole = (tmp_path / name for name in ("killed", "whole"))
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for item in ("latest", "best"):
        assert last_checkpoint(killed, item) == last_checkpoint(whole, item)
    results = [json.loads((run / "result.json").read_text()) for run in (killed, whole)]
    for result in results:
        del result["seconds_train"]
    assert results[0] == results[1]
