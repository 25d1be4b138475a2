"""WebDataset tars, as people make them, damaged ones, and those that are no tars."""

import bz2
import gzip
import io
import json
import logging
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow
import pytest
from real_formats import encoded, pixels, shard_files, tar_bytes, write_files

from transfer.data import BrokenImage, open_source
from transfer.data.loader import load_all
from transfer.data.shard_rows import Columns, ShardSource
from transfer.data.shards import Shard
from transfer.data.splits import make_splits
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import tars

IMAGES = pixels(6, 8, 6)
PNG = encoded(IMAGES[0])
JPEG = encoded(IMAGES[0], "JPEG")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of indexes of this test alone."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def opened(tmp_path, files, **options):
    """The source of one shard of `files`."""
    (tmp_path / "a.tar").write_bytes(tar_bytes(files, **options))
    return open_source(f"wds:{tmp_path}/a.tar")


# members of a sample `x` -> its class
LABELS = {
    "a number": ({"x.png": PNG, "x.cls": b"7"}, "7"),
    "a number and an end of line": ({"x.png": PNG, "x.cls": b" 7\r\n"}, "7"),
    "a number below zero": ({"x.png": PNG, "x.cls": b"-1"}, "-1"),
    "a name": ({"x.png": PNG, "x.cls": "façade".encode()}, "façade"),
    "json with a number": ({"x.png": PNG, "x.json": b'{"label": 7, "caption": "a cat"}'}, "7"),
    "json with a name": ({"x.png": PNG, "x.json": b'{"label": "cat"}'}, "cat"),
    "json of a number alone": ({"x.png": PNG, "x.json": b"7"}, "7"),
    "text": ({"x.png": PNG, "x.txt": b"cat\n"}, "cat"),
    "cls before json before text": ({"x.txt": b"c", "x.json": b'{"label": "b"}', "x.cls": b"a", "x.png": PNG}, "a"),
    "json without a label": ({"x.json": b'{"id": 1}', "x.txt": b"c", "x.png": PNG}, "c"),
    "broken json beside cls": ({"x.json": b"{", "x.cls": b"a", "x.png": PNG}, "a"),
    "capitals": ({"x.PNG": PNG, "x.CLS": b"a"}, "a"),
    "other members": ({"x.png": PNG, "x.cls": b"a", "x.npy": b"?", "x.seg.png": b"?", "x.__url__": b"?"}, "a"),
}


@pytest.mark.parametrize("members", LABELS)
def test_the_label_of_a_sample(members, tmp_path):
    files, label = LABELS[members]
    source = opened(tmp_path, files)
    assert source.class_names == (label,) and source.ids == ["a.tar/x"]
    np.testing.assert_array_equal(source.image(0), IMAGES[0])


# members of the samples beside a good one -> what is said of them
LEFT_OUT = {
    "no label": ({"x.png": PNG}, "1 without a label (first: a.tar/x)"),
    "no image": ({"x.cls": b"1", "y.cls": b"2"}, "2 without an image (first: a.tar/x)"),
    "two images": ({"x.png": PNG, "x.jpg": JPEG, "x.cls": b"1"}, "1 with several images (first: a.tar/x)"),
    "an empty label": ({"x.png": PNG, "x.cls": b" \n"}, "1 without a label (first: a.tar/x)"),
    "a label in lines": ({"x.png": PNG, "x.txt": b"a\nb"}, "1 whose .txt is no label (first: a.tar/x)"),
    "no UTF-8": ({"x.png": PNG, "x.cls": b"\xff"}, "1 whose .cls is no label (first: a.tar/x)"),
    "a long label": ({"x.png": PNG, "x.txt": b"a" * (1 << 21)}, "1 whose .txt is no label (first: a.tar/x)"),
    "no JSON": ({"x.png": PNG, "x.json": b"{"}, "1 whose .json is no label (first: a.tar/x)"),
    "deep JSON": ({"x.png": PNG, "x.json": b"[" * 100_000}, "1 whose .json is no label (first: a.tar/x)"),
    "several labels": ({"x.png": PNG, "x.json": b'{"label": [1, 2]}'}, "1 whose .json is no label (first: a.tar/x)"),
    "a fraction": ({"x.png": PNG, "x.json": b'{"label": 0.5}'}, "1 whose .json is no label (first: a.tar/x)"),
    "true": ({"x.png": PNG, "x.json": b'{"label": true}'}, "1 whose .json is no label (first: a.tar/x)"),
    "a hostile name": ({"\x1b[2Jx.png": PNG}, "1 without a label (first: a.tar/\\x1b[2Jx)"),
    "two kinds": ({"x.png": PNG, "y.cls": b"1"}, "1 without a label (first: a.tar/x); 1 without an image (first: a.t"),
}


@pytest.mark.parametrize("members", LEFT_OUT)
def test_samples_that_are_no_labelled_images_are_counted(members, tmp_path, caplog):
    files, said = LEFT_OUT[members]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files | {"good.png": PNG, "good.cls": b"5"}))
    spec = f"wds:{tmp_path}/a.tar"
    for _ in range(2):  # from the kept index as well
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            source = open_source(spec)
        assert source.ids == ["a.tar/good"] and source.class_names == ("5",)
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"{spec}: left out: {said}") and "\n" not in line
    with pytest.raises(TransferError, match="there is no image with a label: [12] w"):
        opened(tmp_path, files)


def test_numbers_are_classes_by_their_value_and_none_is_made_up(tmp_path):
    files = {}
    for row, label in enumerate((10, 2, 1, 10)):
        files |= {f"{row}.png": PNG, f"{row}.cls": str(label).encode()}
    source = opened(tmp_path, files)
    assert source.class_names == ("1", "2", "10") and source.labels.tolist() == [2, 1, 0, 2]


def test_members_of_a_sample_may_lie_apart_and_in_folders(tmp_path):
    files = {
        "./b/x.png": PNG,
        "./a.b/x.png": encoded(IMAGES[1]),
        "./b/x.cls": b"1",
        "./a.b/x.cls": b"0",
        "b/.x.cls": b"",
    }
    source = opened(tmp_path, files)
    assert source.ids == ["a.tar/b/x", "a.tar/a.b/x"] and source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(source.image(1), IMAGES[1])


LONG = "deep/" * 60 + "naïve-" + "n" * 120


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_kind_of_tar(form, tmp_path):
    base = "deep/" * 20 + "n" * 80 if form == tarfile.USTAR_FORMAT else LONG
    source = opened(
        tmp_path, {f"{base}.png": PNG, f"{base}.cls": b"3", "short.png": PNG, "short.cls": b"4"}, format=form
    )
    assert source.ids == [f"a.tar/{base}", "a.tar/short"]
    np.testing.assert_array_equal(source.image(0), IMAGES[0])


def test_what_is_no_regular_file_is_passed_over(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        for name, kind in (("d.png", tarfile.DIRTYPE), ("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name, content in (("x.png", PNG), ("x.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), time.time()  # a float: with a header of its own
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    source = open_source(f"wds:{tmp_path}")
    assert source.ids == ["a.tar/x"]
    np.testing.assert_array_equal(source.image(0), IMAGES[0])


GOOD = tar_bytes(shard_files(IMAGES, [0, 1, 2, 0, 1, 2]))


def header(name=b"x.png", size=b"00000000010", kind=b"0"):
    """The header of a member, which may lie."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + b"0" * 11 + b"\0 " + b" " * 7)
    block = (block[:148] + b" " * 8 + kind).ljust(512, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


DAMAGED = {
    "cut off in an image": (GOOD[:700], "ends early: 000000.png is .* bytes, 188 follow; copy or download it again$"),
    "cut off in a header": (GOOD[: tarfile.BLOCKSIZE * 3 - 12], "ends early|there is no header"),
    "a flipped bit in a header": (
        bytes([GOOD[0] ^ 1]) + GOOD[1:],
        "no tar, or a packed one .unpack it: images are read by position.: there is no",
    ),
    "a flipped bit in a later one": (
        GOOD[:1024] + bytes([GOOD[1024] ^ 1]) + GOOD[1025:],
        "damaged at byte 1024: there is no header",
    ),
    "a page of the web": (b"<html>" * 1000, "no tar"),
    "gzip": (gzip.compress(GOOD), "no tar, or a packed one"),
    "bzip2": (bz2.compress(GOOD) * 9, "no tar, or a packed one"),
    "a size beyond the file": (
        header(size=b"77777777777"),
        "ends early: x.png is said to have 8589934591 bytes, 0 foll",
    ),
    "a size of 96 bits": (header(size=b"\x80" + b"\xff" * 11), "ends early: x.png is said to have 309485009821345068"),
    "a size below zero": (header(size=b"-0000000100"), "there is no header"),
    "a name of a gigabyte": (
        header(kind=b"L", size=b"10000000000") + bytes(512),
        "said to have 1073741824 bytes, 512 follow",
    ),
    "a name as long as the rest": (
        header(kind=b"L", size=b"00010000000") + bytes(512),
        "said to have 2097152 bytes, 512 follow",
    ),
    "a size in a record": (
        header(kind=b"x", size=b"00000000014") + b"12 size=-99\n".ljust(512, b"\0") + header(),
        "holds a file of more than 8 GB",
    ),
    "holes": (header(kind=b"S", size=b"00000000000"), "or one with holes"),
    "holes of POSIX": (
        header(kind=b"x", size=b"00000000026") + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + header() + bytes(512),
        "or one with holes",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_tar_is_one_line_that_names_it(what, tmp_path, cache):
    data, words = DAMAGED[what]
    (tmp_path / "train-0.tar").write_bytes(GOOD)
    (tmp_path / "train-1.tar").write_bytes(data)
    with pytest.raises(TransferError, match=words) as caught:
        open_source(f"wds:{tmp_path}")
    assert str(caught.value).startswith(f"{tmp_path}/train-1.tar: ") and "\n" not in str(caught.value)
    assert len(list(cache.iterdir())) == 1  # of the other one


def test_every_cut_is_noticed(tmp_path, caplog):
    """At every block: an error, or a warning where it falls between two members."""
    for end in range(0, len(GOOD.rstrip(b"\0")) // 512 * 512, 512):
        (tmp_path / "a.tar").write_bytes(GOOD[:end])
        caplog.clear()
        try:
            source = open_source(f"wds:{tmp_path}")
        except TransferError as error:
            assert "ends early" in str(error) or "there is no image" in str(error)
        else:
            assert len(source) < 6
            assert any(
                "1 or more cut off, as a tar without its end may be (first: a.tar/" in line for line in caplog.messages
            )


def test_what_lies_before_a_cut_is_read_where_errors_are_skipped(tmp_path, caplog, cache):
    """The sample that is cut is counted, and the member in which the cut is is named."""
    (tmp_path / "train-0.tar").write_bytes(GOOD)
    (tmp_path / "train-1.tar").write_bytes(GOOD[: GOOD.index(b"000003.png") + 600])
    settings = {"source": f"wds:{tmp_path}", "train": "train", "validation_fraction": 0.25, "stratify": False}
    with pytest.raises(
        TransferError, match=r"train-1.tar: ends early: 000003.png is said to have \d+ bytes, 88 follow"
    ):
        make_splits(settings)
    for _ in range(2):  # what is damaged is listed each time
        caplog.clear()
        train, validation = make_splits(settings, on_error="skip")
        assert len(train) + len(validation) == 9 and len(list(cache.iterdir())) == 1
        cut, *_ = (line for line in caplog.messages if "as far as it goes" in line)
        assert cut.startswith(f"wds:{tmp_path}: train-1.tar is read as far as it goes: ends early: 000003.png is said")
    with pytest.raises(TransferError, match="there is no image with a label: it is empty"):
        (tmp_path / "a.tar").write_bytes(b"<html>" * 1000)
        open_source(f"wds:{tmp_path}/a.tar", skip_damage=True)
    assert len(open_source(f"folder:{write_files(tmp_path / 'f', {'a/a.png': PNG})}", skip_damage=True)) == 1


ALL_MARKS = [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
# settings, what the `.json` of three samples say -> names, labels
SEVERAL = {
    "a list": ({"labels": "tags"}, [["b", "a"], [], ["c"]], ("a", "b", "c"), [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
    "a list of numbers": ({"labels": "tags"}, [[10, 9], [9], [10]], ("9", "10"), [[1, 1], [1, 0], [0, 1]]),
    "marks in a list": ({"labels": "tags"}, [[1, 0, 1], [0, 0, 0], [True, 1, 0.0]], ("0", "1", "2"), ALL_MARKS),
    "two marks in a list": ({"labels": "tags"}, [[1, 0], [0, 1], [1, 0]], ("0", "1"), [[1, 0], [0, 1], [1, 0]]),
    "a list with nothing": ({"labels": "tags"}, [["b", None], ["a"], [None]], ("a", "b"), [[0, 1], [1, 0], [0, 0]]),
    "a label with a space": ({"labels": "tags"}, ["a b", ["c"], ["a b", "c"]], ("a b", "c"), [[1, 0], [0, 1], [1, 1]]),
    "marks": (
        {"labels": "old,torn"},
        [{"old": 1, "torn": 0}, {"old": 0, "torn": False}, {"old": True, "torn": 1}],
        ("old", "torn"),
        [[1, 0], [0, 0], [1, 1]],
    ),
    "values": ({"value": "x,y"}, [{"x": 1, "y": 2.5}, {"x": -1, "y": 0}, {"x": 1e3, "y": "7"}], ("x", "y"), None),
    "a class of another name": ({"label": "tags"}, ["b", 7, "b"], ("7", "b"), [1, 0, 1]),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_what_json_says_under_names_that_are_given(kind, tmp_path):
    columns, said, names, labels = SEVERAL[kind]
    files = {}
    for row, says in enumerate(said):
        says = says if isinstance(says, dict) else {"tags": says}
        files |= {f"{row}.png": PNG, f"{row}.cls": b"1", f"{row}.json": json.dumps({"label": 3, **says}).encode()}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    (tmp_path / "b.tar").write_bytes(tar_bytes({"9.png": PNG, "9.json": files["1.json"], "8.png": PNG}))
    for _ in range(2):  # from the kept table, too
        source = open_source(f"wds:{tmp_path}/*.tar", columns=columns)
        assert source.class_names == names and source.ids[3] == "b.tar/9" and len(source) == 4
        expected = [[1, 2.5], [-1, 0], [1000, 7]] if labels is None else labels
        np.testing.assert_array_equal(source.labels, [*expected, expected[1]])
    assert source.target == {"label": "classes", "labels": "labels", "value": "values"}[next(iter(columns))]
    assert len(open_source(f"wds:{tmp_path}/a.tar").class_names) == 1  # what was kept is not of these settings


@pytest.mark.parametrize(
    "columns, says, words",
    [
        ({"value": "x"}, {"x": "tall"}, "column x: line a.tar/0 has tall, which is no finite number"),
        ({"value": "x"}, {"x": float("nan")}, "nothing in column x, the first is line a.tar/0"),
        ({"labels": "x,y"}, {"x": 1, "y": 3}, "column y should hold 1 and 0"),
        ({"labels": "x"}, {"x": ["a"]}, "column x holds 1 different labels"),
        ({"labels": "x"}, {"y": ["a"]}, "no image with a label: 1 without a label"),
        ({"labels": "x"}, {"x": {"a": 1, "b": 0}}, "no image with a label: 1 whose .json is no label"),
        ({"labels": "x"}, {"x": [{"kind": "a"}, {"kind": "b"}]}, "no image with a label: 1 whose .json is no label"),
        ({"label": "x"}, {"x": ["a"]}, "no image with a label: 1 whose .json is no label"),
        ({"label": "x"}, {"x": "\ud800"}, "no image with a label: 1 whose .json is no label"),
        ({"label": "x,y"}, {"x": "a"}, "label is one column"),
        ({"label": "x", "value": "y"}, {"x": "a", "y": 1}, "config.data.columns: one of label, labels, value is given"),
    ],
)
def test_what_json_cannot_say(columns, says, words, tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"0.png": PNG, "0.json": json.dumps(says).encode()}))
    with pytest.raises((TransferError, UsageError), match=words) as caught:
        open_source(f"wds:{tmp_path}/a.tar", columns=columns)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_the_samples_that_are_read(tmp_path):
    """Stores of the version that listed no others have this one."""
    files = {"0.png": bytes(5), "0.cls": b"7", "1.cls": b"7", "2.png": bytes(7), "3.png": bytes(8), "3.cls": b"4"}
    assert opened(tmp_path, files).fingerprint.startswith("d63fe4e47d8bb0ab")


def test_joined_tars_are_read_to_their_end(tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + tar_bytes(shard_files(IMAGES[:2], [3, 4], first=6)))
    source = open_source(f"wds:{tmp_path}")
    assert len(source) == 8 and source.labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(load_all(source), np.concatenate([IMAGES, IMAGES[:2]]))


def test_a_broken_image_is_named(tmp_path):
    source = opened(tmp_path, {"x.jpg": JPEG, "x.cls": b"1", "y.jpg": JPEG[:-99], "y.cls": b"1"})
    assert source.image(0).shape == (8, 6, 3)
    with pytest.raises(BrokenImage, match=r"^wds:.*/a\.tar: a\.tar/y: not a readable image"):
        source.image(1)


def test_ids_and_labels_stay_when_a_shard_is_added(tmp_path):
    for shard in range(2):
        rows = slice(3 * shard, 3 * shard + 3)
        files = shard_files(IMAGES[rows], [0, 1, 2], 3 * shard)
        (tmp_path / f"train-{shard:06d}.tar").write_bytes(tar_bytes(files))
    before = open_source(f"wds:{tmp_path}", "train")
    (tmp_path / "train-000002.tar").write_bytes(tar_bytes(shard_files(IMAGES[:2], [1, 2])))
    after = open_source(f"wds:{tmp_path}", "train")
    assert after.ids[:6] == list(before.ids) and after.ids[6:] == ["train-000002.tar/000000", "train-000002.tar/000001"]
    assert after.labels[:6].tolist() == before.labels.tolist() and after.fingerprint != before.fingerprint


def test_an_index_is_made_once_and_again_when_the_shard_is_written_to(tmp_path, cache, monkeypatch):
    made = []
    monkeypatch.setattr(tars, "members", lambda *args, real=tars.members: made.append(1) or real(*args))
    first = opened(tmp_path, shard_files(IMAGES, [0, 1, 2, 0, 1, 2]))
    again = open_source(first.name)
    load_all(first)
    assert len(made) == 1 and again.ids == first.ids and again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(load_all(again), IMAGES)
    changed = opened(tmp_path, shard_files(IMAGES[::-1], [0, 1, 2, 0, 1, 2]))
    assert len(made) == 2 and len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(load_all(changed), IMAGES[::-1])
    assert changed.file_stamps([0, 5]).tolist() != again.file_stamps([0, 5]).tolist()
    assert changed.file_checksums([0, 5]).tolist() == first.file_checksums_read([5, 0]).tolist()


@pytest.mark.parametrize("damage", [b"", b"PK", GOOD])
def test_a_damaged_index_is_made_again(damage, tmp_path, cache):
    first = opened(tmp_path, shard_files(IMAGES, [0, 1, 2, 0, 1, 2]))
    (index,) = cache.iterdir()
    whole = index.read_bytes()
    index.write_bytes(damage or whole[:-100])
    again = open_source(first.name)
    assert again.ids == first.ids and index.read_bytes() == whole


def test_where_no_index_can_be_kept_it_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "file" / "below"))
    assert len(opened(tmp_path, shard_files(IMAGES, [0] * 6))) == 6
    assert any("indexes of shards are not kept" in line for line in caplog.messages)


OPEN = """
import sys
from transfer.data import open_source
source = open_source(sys.argv[1])
print(len(source), source.fingerprint)
"""


def test_two_processes_at_once_make_one_index(tmp_path, cache):
    (tmp_path / "a.tar").write_bytes(GOOD)
    command = [sys.executable, "-c", OPEN, f"wds:{tmp_path}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=100)[0] for process in both}
    source = open_source(f"wds:{tmp_path}")
    assert said == {f"6 {source.fingerprint}\n"} and len(list(cache.iterdir())) == 1


def test_a_shard_on_a_bucket(tmp_path):
    import fsspec

    with fsspec.open(f"memory://{tmp_path.name}/train-0.tar", "wb") as stream:
        stream.write(GOOD)
    source = open_source(f"wds:memory://{tmp_path.name}/train-{{0..0}}.tar")
    assert source.ids[0] == "train-0.tar/000000"
    np.testing.assert_array_equal(load_all(source), IMAGES)


def test_ids_at_ten_million_rows_are_made_when_they_are_asked_for():
    """A row takes no more than 40 bytes beside its name."""
    count = 1_000_000
    numbers = np.arange(count)
    what = pyarrow.array(["cat", "dog"] * (count // 2))
    columns = {"key": [b"%09d" % row for row in range(count)], "place": numbers, "size": numbers, "0": what}
    table = pyarrow.table(columns | {"why": pyarrow.nulls(count, pyarrow.string())})
    source = ShardSource("x", [Shard("a.tar", "a.tar", 0, 0, None)], [table], Columns())
    assert (
        sum(array.nbytes for array in (*source.arrays[0].values(), source._rows[0], source.labels)) <= (40 + 9) * count
    )
    assert [source.ids[row] for row in (0, 1, -1)] == ["a.tar/000000000", "a.tar/000000001", "a.tar/000999999"]
