"""A head trained by several real processes is one process' own, whatever ends them, however many go on."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import measured
import numpy as np
import orbax.checkpoint as ocp
import pytest
from head_runs import CLASSES, WIDTH, make_files

from transfer.evaluation.predictions import Predictions
from transfer.heads import linear
from transfer.runtime.files import lock

pytestmark = pytest.mark.slow

# Relative to the largest value: the same sums, added in another order.
TOLERANCE = 1e-5
# 126 chunks of 8 rows, in 11 windows an epoch of 3 or 4 batches of 32.
STREAMED = {"head.order": "chunks", "head.window": 100, "stream": True}
# Three windows an epoch, of 13 batches or fewer.
WIDE = {**STREAMED, "head.window": 400, "head.epochs": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    make_files(made)
    return made


@pytest.fixture(scope="module")
def run(several, folder):
    """Trains in a workdir; returns the processes."""

    def of(workdir, count, config=None, **more):
        own = {key: more.pop(key) for key in ("slow", "full", "check_seconds") if key in more}
        settings = {"folder": str(folder), "workdir": str(workdir), "config": config or {}, **own}
        return several.run("head", settings, count, **more)

    return of


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """Workdirs of uninterrupted runs."""
    done = {}

    def of(count, config):
        key = count, *config
        if key not in done:
            done[key] = tmp_path_factory.mktemp("finished")
            ended = run(done[key], count, config)
            assert [one.code for one in ended] == [0] * count, [one.err for one in ended]
        return done[key]

    return of


def arrays(workdir, item):
    state = linear.init_state(WIDTH, CLASSES, linear.init_key(0))
    target = state if item == "latest" else {"params": state["params"]}
    (folder,) = (path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / item, target)
    return jax.tree.map(np.asarray, tree)


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([[json.loads(line)[name] for name in ("loss", "validation_loss")] for line in lines])


def assert_close(workdir, other):
    def close(found, wanted):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * max(np.abs(wanted).max(), 1e-30))

    for item in ("latest", "best"):
        jax.tree.map(close, arrays(workdir, item), arrays(other, item))
    close(metrics(workdir), metrics(other))
    results = [json.loads((run / "result.json").read_text()) for run in (workdir, other)]
    assert results[0]["best_epoch"] == results[1]["best_epoch"] and results[0]["num_train"] == 1003
    assert results[0]["validation_accuracy"] == pytest.approx(results[1]["validation_accuracy"], abs=1e-6)


def assert_equal(workdir, other):
    for item in ("latest", "best"):
        jax.tree.map(np.testing.assert_array_equal, arrays(workdir, item), arrays(other, item))
    assert measured.rows(workdir) == measured.rows(other)


@pytest.mark.parametrize(
    "config, count", [({}, 3), ({"mesh.model": 2}, 2), (STREAMED, 2)], ids=["rows", "classes", "streamed"]
)
def test_several_processes_train_what_one_does(finished, config, count):
    one, several = finished(1, STREAMED if config == STREAMED else {}), finished(count, config)
    assert_close(several, one)
    result = json.loads((several / "result.json").read_text())
    assert result["num_devices"] == count and result["streamed"] == (config == STREAMED)
    found, expected = (Predictions.read(workdir / "predictions.npz") for workdir in (several, one))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-4)
    assert result["measures"]["accuracy"]["value"] == pytest.approx(result["validation_accuracy"], abs=1e-6)


def test_the_first_alone_prints(run, tmp_path):
    ended = run(tmp_path / "run", 2)
    # Gloo prints a line of its own, in C++
    lines = [[line for line in one.out.splitlines() if not line.startswith("[Gloo]")] for one in ended]
    assert lines[0][2] == "(1003, 1, 1, 6) (1003,)" and lines[0][-1] == f"Workdir: {tmp_path / 'run'}"
    assert [line.split(" - ")[0] for line in lines[0][4:-4]] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert lines[0][-4].startswith("validation: accuracy 0.") and lines[0][-3].startswith("to compare with: always ")
    assert lines[0][-2] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert lines[1] == []
    again = run(tmp_path / "run", 2)
    assert "nothing to do" in again[0].out and [one.code for one in again] == [0, 0]


def test_sigterm_within_an_epoch(run, finished, tmp_path):
    """As many go on bit for bit; others up to the order of additions, from the same place."""
    for count, then in ((2, 2), (2, 1)):
        workdir = tmp_path / f"{count} {then}"
        reads = 20 * count  # within the second epoch, of 14 windows with those of validation
        when = (str(workdir / "read"), reads)
        ended = run(workdir, count, STREAMED, slow=0.03, send=signal.SIGTERM, to=[count - 1], when=when)
        assert [one.code for one in ended] == [75] * count, [one.err for one in ended]
        assert "run the same command again" in ended[0].err
        assert not (workdir / "result.json").exists() and list((workdir / "checkpoints_within_epoch").iterdir())
        ended = run(workdir, then, STREAMED)
        assert [one.code for one in ended] == [0] * then, [one.err for one in ended]
        assert "batches into the next one" in ended[0].out
        assert not any(path.name.isdigit() for path in (workdir / "checkpoints_within_epoch").iterdir())
        (assert_equal if then == count else assert_close)(workdir, finished(count, STREAMED))


def test_within_a_late_epoch(run, finished, tmp_path):
    """Saved by the clock and at SIGTERM, in the sixth epoch or later; then the same command goes on."""
    config = {**WIDE, "checkpoint_seconds": 0.1}
    when = (str(tmp_path / "read"), 3 * 4 * 6)  # processes, windows with that of validation, epochs
    ended = run(tmp_path, 3, config, slow=0.05, send=signal.SIGTERM, to=[1], when=when)
    assert [one.code for one in ended] == [75] * 3, [one.err for one in ended]
    ended = run(tmp_path, 3, config)
    assert [one.code for one in ended] == [0] * 3, [one.err for one in ended]
    (line,) = [line for line in ended[0].out.splitlines() if line.startswith("Going on after epoch ")]
    assert int(line.split()[4].rstrip(",.")) >= 5
    assert_equal(tmp_path, finished(3, WIDE))


def test_one_that_cannot_save_lets_none_say_that_all_is_saved(run, tmp_path):
    """The first has no room for its part of the checkpoint, at SIGTERM; from the one before all go on."""
    config, read = {**WIDE, "head.epochs": 3}, tmp_path / "read"
    ended = run(tmp_path, 3, config, slow=0.05, full=0, send=signal.SIGTERM, to=[2], when=(str(read), 20))
    assert [one.code for one in ended] == [1, 76, 76], [one.err for one in ended]
    assert "File too large" in ended[0].errors[-1], [one.err for one in ended]
    for one in ended[1:]:
        assert "process 0 has failed" in one.errors[-1] and "saved" not in one.err
    ended = run(tmp_path, 3, config)
    assert [one.code for one in ended] == [0] * 3, [one.err for one in ended]
    assert not list(tmp_path.glob("checkpoints*/*tmp*"))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stop", [0, signal.SIGTERM])
def test_a_workdir_that_is_removed_is_noticed_and_nothing_said_to_be_saved(run, tmp_path, count, stop):
    read = tmp_path / "run" / "read"

    def remove():
        while len(list(read.glob("*"))) < 12 * count:
            time.sleep(0.01)
        (tmp_path / "run").rename(tmp_path / "moved")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(remove)
        more = {"send": stop, "to": [count - 1], "when": (str(tmp_path / "moved"), 1)} if stop else {}
        seconds = 100 if stop else 0.1
        ended = run(tmp_path / "run", count, {**STREAMED, "head.epochs": 9}, slow=0.05, check_seconds=seconds, **more)
    assert ended[0].code in (1, 76) and {one.code for one in ended} <= {1, 76} and 1 in [one.code for one in ended]
    assert all("is saved" not in one.err for one in ended)
    assert any(f"{tmp_path / 'run'} is gone: it was removed" in line for one in ended for line in one.errors)


def test_killed_and_gone_on_with_by_one(run, finished, tmp_path):
    config = {**STREAMED, "checkpoint_seconds": 0.0}
    workdir = tmp_path / "run"
    when = (str(workdir / "read"), 40)
    ended = run(workdir, 2, config, slow=0.03, send=signal.SIGKILL, to=[0], when=when)
    assert ended[0].code == -signal.SIGKILL and ended[1].code == 76
    assert "process 0 has gone; run the same command again" in ended[1].errors[-1]
    (ended,) = run(workdir, 1, config)
    assert ended.code == 0 and "Going on after epoch" in ended.out
    assert_close(workdir, finished(1, STREAMED))


def test_a_second_run_of_the_same_workdir(run, tmp_path):
    with lock.hold(tmp_path, "workdir"):
        for count in (1, 2):
            ended = run(tmp_path, count)
            assert ended[0].code == 1 and f"the workdir {tmp_path} is in use by process" in ended[0].errors[-1]
            assert [one.code for one in ended] == [1, 76][:count] and "Traceback" not in ended[-1].err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config, message",
    [
        ({"stream": True}, "take config.head.order=chunks with it"),
        ({"head.window": 5}, "config.head.window=5 has no use with config.head.order=rows"),
        ({"head.scaling": "standard"}, "config.head.scaling=standard needs one process"),
        ({"head.order": "random"}, "config.head.order='random' is not one of rows, chunks"),
        ({"mesh.model": 3}, "config.mesh.model=3: a head's devices have to be"),
    ],
)
def test_settings_that_contradict_each_other(run, tmp_path, config, message):
    ended = run(tmp_path / "run", 2, config)
    # who is later may be told by the other that it has gone
    assert 2 in [one.code for one in ended] and {one.code for one in ended} <= {2, 76}
    assert any(message in line for one in ended for line in one.errors)
    assert not (tmp_path / "run").exists()
