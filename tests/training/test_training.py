"""The resumable loop: what is printed and kept, and that a resumed run ends as one that was never stopped."""

import json
import os
import signal
import time

import jax
import measured
import numpy as np
import pytest
from etils import epath

from transfer.errors import TransferError
from transfer.heads import linear
from transfer.runtime import preemption
from transfer.training import checkpoints
from transfer.training.loop import run_epochs, whole_epochs
from transfer.training.metrics import Metrics
from transfer.training.run import Part, Run


def problem(seed: int = 0, num_features: int = 8):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 50)
    features = random.normal(size=(50, num_features)).astype(np.float32) + labels[:, None]
    epoch = linear.make_epoch(features[:40], labels[:40], features[40:], labels[40:], batch_size=16, learning_rate=1e-2)
    return epoch, linear.init_state(num_features, 3, linear.init_key(0))


def train(epoch, state, epochs, workdir):
    return run_epochs(whole_epochs(epoch), state, epochs, workdir, rows=40)


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other))


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    epoch, state = problem()
    whole = train(epoch, state, 7, epath.Path(tmp_path / "whole"))
    parts = epath.Path(tmp_path / "parts")
    for epochs in (1, 4, 7):
        resumed = train(epoch, state, epochs, parts)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert same(resumed.state, whole.state) and same(resumed.best, whole.best)
    assert measured.rows(parts) == whole.history
    times = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [row["rows_per_second"] for row in times] == pytest.approx([40 / row["seconds"] for row in times], rel=1e-3)
    assert all(row["seconds"] > 0 for row in times), "those of an earlier process are kept"
    assert sorted(row["time"] for row in times) == [row["time"] for row in times]


@pytest.mark.parametrize("line", ["5", '"time"', "[1]", "null", "[" * 100_000, "{"])
def test_times_of_a_damaged_file_are_forgotten(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"time": 1.5}}\n{line}\n')
    Metrics(epath.Path(tmp_path), [{"epoch": 1}, {"epoch": 2}]).close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"epoch": 1, "time": 1.5}, {"epoch": 2}]


def test_only_the_newest_checkpoint_stays(tmp_path):
    """Whatever an earlier version of Orbax calls what it has begun; what is not ours stays."""
    for name in ("1", "1.orbax-checkpoint-tmp-1700000000", "2.orbax-checkpoint-tmp", "mine"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    run = Run({"params": np.zeros(1)})
    run.add(run.state, {"loss": 1.0, "accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5})
    run.add(run.state, {"loss": 1.0, "accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5})
    checkpoints.Checkpoints(epath.Path(tmp_path)).save(run)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "mine"]


def test_finished_run_does_nothing(tmp_path, capsys):
    epoch, state = problem()
    first = train(epoch, state, 3, epath.Path(tmp_path))

    def not_again(state, index):
        raise AssertionError("trained again")

    capsys.readouterr()
    second = train(not_again, state, 3, epath.Path(tmp_path))
    assert "nothing to do" in capsys.readouterr().out
    assert second.history == first.history and same(second.state, first.state)


@pytest.mark.parametrize("seconds, epochs", [(30.0, [4]), (-1.0, [1, 2, 3, 4])])
def test_a_checkpoint_where_one_is_due_and_at_the_end(seconds, epochs, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoints.Checkpoints, "save", lambda self, run: saved.append(run.epoch))
    row = {"loss": 1.0, "accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5}
    parts = whole_epochs(lambda state, index: (state, row))
    run_epochs(parts, {"params": np.zeros(1)}, 4, epath.Path(tmp_path), checkpoint_seconds=seconds)
    assert saved == epochs


def test_a_line_an_epoch_as_keras_prints_it(tmp_path, capsys):
    epoch, state = problem()
    train(epoch, state, 2, epath.Path(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    names = [part.split(":")[0] for part in lines[0].split(" - ")[1:]]
    assert names == ["loss", "accuracy", "val_loss", "val_accuracy"]


def test_best_is_the_first_epoch_of_the_highest_validation_accuracy(tmp_path):
    scores = [0.2, 0.5, 0.5, 0.1]

    def epoch(state, index):
        return {"params": state["params"] + 1}, {"loss": np.float32(1), "validation_accuracy": scores[index]}

    run = train(epoch, {"params": np.zeros(())}, 4, epath.Path(tmp_path))
    assert run.best_epoch == 2
    assert run.best["params"] == 2 and run.state["params"] == 4


def test_checkpoint_of_another_model_is_refused(tmp_path):
    train(*problem(), 1, epath.Path(tmp_path))
    with pytest.raises(TransferError, match="another model"):
        train(*problem(num_features=9), 2, epath.Path(tmp_path))


def test_divergence_is_named(tmp_path):
    def epoch(state, index):
        return state, {"loss": np.float32("nan"), "accuracy": np.float32(0)}

    with pytest.raises(TransferError, match="loss is nan in epoch 1"):
        train(epoch, {"params": np.zeros(3)}, 2, epath.Path(tmp_path))


def test_interrupt_saves_what_was_done(tmp_path):
    epoch, state = problem()

    def interrupted(state, index):
        if index == 3:
            raise KeyboardInterrupt
        return epoch(state, index)

    with pytest.raises(KeyboardInterrupt):
        train(interrupted, state, 5, epath.Path(tmp_path / "a"))
    resumed = train(epoch, state, 5, epath.Path(tmp_path / "a"))
    whole = train(epoch, state, 5, epath.Path(tmp_path / "b"))
    assert resumed.history == whole.history and same(resumed.state, whole.state)


def test_sigterm_ends_after_an_epoch_and_the_run_goes_on(tmp_path):
    epoch, state = problem()

    def told(state, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            while not preemption.requested():
                time.sleep(0.001)
        return epoch(state, index)

    before = signal.getsignal(signal.SIGTERM)
    preemption.install()
    try:
        with pytest.raises(preemption.Preempted) as stopped:
            train(told, state, 5, epath.Path(tmp_path / "a"))
    finally:
        preemption._requested.clear()
        preemption._requested_at = 0.0
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.exit_code == 75
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["3"]
    resumed = train(epoch, state, 5, epath.Path(tmp_path / "a"))
    whole = train(epoch, state, 5, epath.Path(tmp_path / "b"))
    assert resumed.history == whole.history and same(resumed.state, whole.state)


def test_stopped_within_an_epoch_that_has_no_parts_keeps_the_last_whole_one(tmp_path):
    epoch, state = problem()

    def stopped(state, index):
        if index == 3:
            raise preemption.Preempted
        return epoch(state, index)

    with pytest.raises(preemption.Preempted):
        train(stopped, state, 5, epath.Path(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_whole_epochs_do_not_go_on_within_one(tmp_path):
    state = {"params": np.zeros(3)}

    def parts(state, indices, position=None):
        yield Part(state, None, lambda: {"epoch": 0, "batches": 3})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_epochs(parts, state, 2, epath.Path(tmp_path))
    assert checkpoints.newest(epath.Path(tmp_path)) == (0, 3)
    with pytest.raises(TransferError, match="stopped within an epoch, where these settings cannot go on"):
        train(lambda state, index: (state, {}), state, 2, epath.Path(tmp_path))


@pytest.mark.parametrize("what", ["latest", "progress"])
def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch, what):
    train(*problem(), 2, epath.Path(tmp_path))
    if what == "latest":
        monkeypatch.setattr(checkpoints, "checksum", lambda tree: 1)
    else:
        monkeypatch.setattr(checkpoints, "_sha256", lambda value: "1")
    with pytest.raises(TransferError, match="is damaged .* delete it, and training begins anew"):
        train(*problem(), 3, epath.Path(tmp_path))


def test_a_checksum_tells_any_changed_word_and_none_by_the_sharding():
    random = np.random.default_rng(0)
    tree = {"a": random.normal(size=(7, 5)).astype(np.float32), "b": np.arange(3, dtype=np.int32), "c": np.int32(4)}
    expected = checkpoints.checksum(tree)
    assert expected == checkpoints.checksum(jax.tree.map(jax.numpy.asarray, tree))
    for place in range(35):
        changed = tree["a"].copy()
        changed.view(np.uint32).flat[place] ^= 1 << (place % 32)
        assert checkpoints.checksum({**tree, "a": changed}) != expected
    assert int(checkpoints._sum_on_devices(tree["a"])) == checkpoints._sum_on_host(tree["a"])
