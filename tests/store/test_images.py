"""Images written over in place are found by the checksums of their files, and are read no oftener than they must be."""

import numpy as np
import pytest
from stores import BATCH, ROWS, fill, writer

from transfer.store.format import read_metadata
from transfer.store.images import SEEN, changed, changes, describe_changes


class Files:
    """A source of files whose checksums and dates are numbers; keeps the rows that were read."""

    def __init__(self, ids: list[str], fingerprint: str = "a") -> None:
        self.ids, self.fingerprint, self.labels = ids, fingerprint, np.zeros(len(ids), int)
        self.checksums, self.stamps = np.arange(len(ids)) + 7, np.arange(len(ids)) + 100
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def file_checksums_read(self, rows: range) -> np.ndarray:
        return self.checksums[list(rows)]

    def file_checksums(self, rows: list[int]) -> np.ndarray:
        self.read += rows
        return self.checksums[rows]

    def file_stamps(self, rows: list[int]) -> np.ndarray | None:
        return self.stamps[rows]


def names(split: str, count: int = ROWS) -> list[str]:
    return [f"{split}/{row}" for row in range(count)]


def stored(path, source: Files, stop: int = ROWS) -> None:
    """A store of the source's rows before `stop`."""
    settings = dict(ids=source.ids, labels=source.labels, content=source.file_checksums_read)
    with writer(path, fingerprint={"images": source.fingerprint}, **settings) as store:
        if stop == ROWS:
            fill(store)
            store.finish()
        else:
            store.write(0, {"pre_logits": np.zeros((stop, 3))})


def look(path, source: Files) -> tuple[list[str], list[int]]:
    """Ids that have changed, and the rows that were read to see it."""
    source.read = []
    return changed(str(path), read_metadata(str(path)), source), sorted(source.read)


def test_files_are_read_again_where_they_may_have_been_written_to(tmp_path) -> None:
    source = Files(names("train"))
    stored(tmp_path, source)
    assert look(tmp_path, source) == ([], [*range(ROWS)])
    assert look(tmp_path, source) == ([], [])
    assert np.array_equal(np.fromfile(tmp_path / SEEN, "<i8"), source.stamps)
    source.stamps[[2, 5]] += 1  # touched
    assert look(tmp_path, source) == ([], [2, 5]) and look(tmp_path, source) == ([], [])
    source.stamps[[2, 5]] += 1
    source.checksums[5] += 1
    assert look(tmp_path, source) == look(tmp_path, source) == (["train/5"], [2, 5])
    (tmp_path / SEEN).write_bytes(b"half")
    assert look(tmp_path, source) == (["train/5"], [*range(ROWS)])


def test_of_a_store_that_is_not_complete_what_has_been_computed_counts(tmp_path) -> None:
    source = Files(names("train"))
    stored(tmp_path, source, stop=BATCH)
    source.checksums[[1, 6]] += 1
    assert look(tmp_path, source) == (["train/1"], [0, 1, 2, 3])


@pytest.mark.parametrize("without", ["file_checksums_read", "file_stamps"])
def test_where_images_are_no_files_nothing_is_read(tmp_path, monkeypatch, without: str) -> None:
    source = Files(names("train"))
    stored(tmp_path, source)
    monkeypatch.setattr(source, without, lambda rows: None)
    source.checksums += 1
    assert look(tmp_path, source) == ([], [])


def test_images_that_came_went_or_moved_to_another_split(tmp_path) -> None:
    train, test = Files(names("train")), Files(names("test"))
    paths = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    stored(paths["train"], train)
    stored(paths["test"], test)
    today = {paths["train"]: train, paths["test"]: test}
    assert changes(today) == ""
    test.checksums[[3, 1]] += 1
    test.stamps[[3, 1]] += 1
    assert changes(today) == "2 images changed: test/1, test/3"
    # test/0 is a training image now, test/1 is gone, train/new is new
    train, moved = Files([*train.ids, "test/0", "train/new"], "b"), Files(test.ids[2:], "b")
    train.checksums[-2], moved.checksums = test.checksums[0], test.checksums[2:]
    train.checksums[0] += 1
    train.stamps[0] += 1
    today = {paths["train"]: train, paths["test"]: moved}
    assert changes(today) == "2 images changed: test/3, train/0; 1 more: train/new; 1 fewer: test/1"
    assert changes({paths["train"]: Files(names("other"), "c")}) == "", "another data set"
    (tmp_path / "test" / "zarr.json").unlink()
    # what is new may be of the split that has no store now
    assert changes(today) == "1 image changed: train/0"


def test_changes_in_words() -> None:
    assert describe_changes([]) == ""
    assert describe_changes(["a"], ["b", "c"], ["d"]) == "1 image changed: a; 2 more: b, c; 1 fewer: d"
    assert describe_changes(list("abcdef")) == "6 images changed: a, b, c, d, e, …"
