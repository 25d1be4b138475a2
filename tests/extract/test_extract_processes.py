"""Several real processes fill one feature store: bit for bit one's own, whatever ends them, however many go on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from several import files_of, free_port
from tiny_model import TinySource

from transfer.extract.to_store import share_of_process
from transfer.store.store import FeatureStore

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ROWS = 201
SLOW = {"rows": ROWS, "seconds": 0.01}


@pytest.fixture(scope="module")
def whole(several, tmp_path_factory):
    """The files of the store of one uninterrupted process, for each number of rows once."""
    done = {}

    def of(rows, **settings):
        if rows not in done:
            store = tmp_path_factory.mktemp("whole")
            (ended,) = several.run("extract", {"store": str(store), "rows": rows, **settings}, 1)
            assert ended.code == 0, ended.err
            done[rows] = files_of(store)
        return done[rows]

    return of


def check(store, rows, wanted, kept=None):
    """The store is the one that is wanted, and each row lies beside its own label and id."""
    assert files_of(store) == wanted
    found, source = FeatureStore.open(store), TinySource(rows=rows)
    kept = range(rows) if kept is None else kept
    assert list(found.ids) == [source.ids[row] for row in kept]
    np.testing.assert_array_equal(found.labels, source.labels[kept])


# batches of 4: fewer than processes, and many; the last one whole or not
@pytest.mark.parametrize("count, rows", [(2, 1), (3, 8), (4, 1003)])
def test_any_number_of_images(several, whole, tmp_path, count, rows):
    ended = several.run("extract", {"store": str(tmp_path), "rows": rows}, count)
    assert [one.code for one in ended] == [0] * count, [one.err for one in ended]
    assert [one.out for one in ended] == [f"{rows} rows\n"] + [""] * (count - 1)
    assert all(one.err == "" for one in ended[1:])
    check(tmp_path, rows, whole(rows))


@pytest.mark.parametrize("count, devices", [(1, 8), (2, 4)])
def test_processes_of_several_devices(several, tmp_path, count, devices):
    """Batches of 16 over all devices of a process; 45 rows, so that the last batch is not whole."""
    stores = {}
    for name, processes, own in (("one", 1, 1), ("several", count, devices)):
        settings = {"store": str(tmp_path / name), "rows": 45, "batch_size": 16, "devices": own}
        ended = several.run("extract", settings, processes)
        assert ended[0].out == f"45 rows\n{own} devices\n", ended[0].err
        stores[name] = FeatureStore.open(tmp_path / name)
    assert list(stores["several"].ids) == list(stores["one"].ids)
    np.testing.assert_array_equal(stores["several"].labels, stores["one"].labels)
    for tap in ("pre_logits", "block1"):
        found, wanted = (stores[name].tap(tap)[:] for name in ("several", "one"))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_images(several, tmp_path):
    peaks = {}
    for rows in (1_000, 100_000):
        (ended,) = several.run("extract_many", {"store": str(tmp_path / str(rows)), "rows": rows}, 1)
        assert ended.code == 0, ended.err
        peaks[rows] = int(ended.out)
    assert peaks[100_000] <= 1.1 * peaks[1_000], peaks


def test_images_that_cannot_be_read_are_skipped_wherever_they_are(several, tmp_path):
    rows, broken = 45, [0, 18, 19, 44]
    stores = {count: tmp_path / str(count) for count in (1, 3)}
    for count, store in stores.items():
        settings = {"store": str(store), "rows": rows, "broken": broken, "on_error": "skip"}
        assert [one.code for one in several.run("extract", settings, count)] == [0] * count
    check(stores[3], rows, files_of(stores[1]), kept=[row for row in range(rows) if row not in broken])


def test_killed_in_the_midst_and_gone_on_with_by_others(several, whole, tmp_path):
    """First one of three dies, then process 0 of two; the others end by themselves, with one line."""
    for count, killed in ((3, 1), (2, 0)):
        settings = {"store": str(tmp_path), **SLOW}
        ended = several.run("extract", settings, count, send=signal.SIGKILL, to=[killed], when=(str(tmp_path), 24))
        assert ended[killed].code == -signal.SIGKILL
        for process, one in enumerate(ended):
            if process != killed:
                line = f"error: process {process} of {count}: process {killed} has gone; run the same command again"
                # JAX may have begun to say the same in its own way
                assert one.code == 76 and line in one.errors[-1] and "Traceback" not in one.err
        assert not FeatureStore.open(tmp_path, incomplete=True).complete
    ended = several.run("extract", {"store": str(tmp_path), "rows": ROWS}, 4)
    assert [one.code for one in ended] == [0] * 4 and "going on" in ended[0].err
    check(tmp_path, ROWS, whole(ROWS))


def test_shards_have_one_writer_each(several, tmp_path):
    """Of three processes one is killed, two are asked to stop, and five, one without a shard, complete the store."""
    shards = {"shards": {"shard_rows": 64, "chunk_rows": 8}}
    settings = {"store": str(tmp_path / "store"), **SLOW, "seconds": 0.03, **shards}
    ended = several.run("extract", settings, 3, send=signal.SIGKILL, to=[1], when=(settings["store"], 12))
    assert [one.code for one in ended] == [76, -signal.SIGKILL, 76], [one.err for one in ended]
    ended = several.run("extract", settings, 2, send=signal.SIGTERM, to=[0], when=(settings["store"], 3))
    assert [one.code for one in ended] == [75] * 2, [one.err for one in ended]
    assert several.run("extract", {**settings, "seconds": 0}, 5)[0].code == 0
    (one,) = several.run("extract", {"store": str(tmp_path / "wanted"), "rows": ROWS, **shards}, 1)
    assert one.code == 0
    check(tmp_path / "store", ROWS, files_of(tmp_path / "wanted"))
    assert FeatureStore.open(tmp_path / "store").metadata["shard_rows"] == 64


def test_sigterm_to_one_and_to_all(several, whole, tmp_path):
    """Each process ends its batch and says that the command goes on; and so does one alone."""
    for count, to in ((3, [2]), (2, [0, 1, 0, 1]), (1, [0, 0])):
        settings = {"store": str(tmp_path), **SLOW}
        ended = several.run("extract", settings, count, send=signal.SIGTERM, to=to, when=(str(tmp_path), 24))
        assert [one.code for one in ended] == [75] * count, [one.err for one in ended]
        assert all(len(one.errors) == 1 and "stopped on request" in one.errors[0] for one in ended)
        # of several, the others may have told a process before its own signal came
        told = [one.err.count("SIGTERM: finishing") for one in ended]
        assert max(told) == 1 and all(process in to for process in range(count) if told[process])
        assert not FeatureStore.open(tmp_path, incomplete=True).complete
    assert several.run("extract", {"store": str(tmp_path), "rows": ROWS}, 2)[0].code == 0
    check(tmp_path, ROWS, whole(ROWS))


def test_an_error_of_one_ends_all(several, tmp_path):
    ended = several.run("extract", {"store": str(tmp_path), "broken": [17], **SLOW}, 2)
    assert [one.code for one in ended] == [1, 76]
    assert ended[0].errors == ["error: process 0 of 2: train/0017.jpg is not an image"]
    assert ended[1].errors[0].startswith("error: process 1 of 2: process 0 has failed; its own error says why")


def test_a_store_of_other_settings_is_named_once(several, tmp_path):
    assert several.run("extract", {"store": str(tmp_path), "rows": 5}, 1)[0].code == 0
    ended = several.run("extract", {"store": str(tmp_path), "rows": 6}, 2)
    assert [one.code for one in ended] == [1, 76] and "num_images was 5, now 6" in ended[0].err
    assert "process 0 has failed" in ended[1].err


def test_extract_py_as_two_processes(tmp_path):
    """The script itself, as if from two shells."""
    config = f"--config={REPOSITORY / 'configs' / 'quickstart.py'}"
    few = ["--config.data.train_per_class=4", "--config.data.validation_per_class=2", "--config.batch_size=8"]
    coordinator = f"--coordinator=localhost:{free_port()}"
    command = [sys.executable, str(REPOSITORY / "extract.py"), config, *few, f"--workdir={tmp_path}", coordinator]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    both = [
        subprocess.Popen(
            [*command, "--num_processes=2", f"--process_id={process}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == f"Features: {tmp_path / 'features'}\n" and said[1] == ("", "")
    assert [len(FeatureStore.open(tmp_path / "features" / split)) for split in ("train", "validation")] == [40, 20]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    "runs", [[], [(0, 3)], [(0, 40), (44, 48), (60, 1003)], [(8 * i, 8 * i + 4) for i in range(9)]]
)
def test_shares_are_equal_and_cover_all(runs, count):
    shares = [share_of_process(runs, 4, index, count) for index in range(count)]
    batches = [[(at, min(at + 4, stop)) for start, stop in part for at in range(start, stop, 4)] for part in shares]
    wanted = [(at, min(at + 4, stop)) for start, stop in runs for at in range(start, stop, 4)]
    assert [batch for part in batches for batch in part] == wanted
    sizes = {len(part) for part in batches}
    assert max(sizes) - min(sizes) <= 1
