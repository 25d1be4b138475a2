"""WebDataset tars, as people make them, damaged ones, and those that are no tars."""

import bz2
import gzip
import io
import logging
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from real_formats import encoded, pixels, shard_files, tar_bytes

from transfer.data import BrokenImage, open_source, tar_index
from transfer.data.loader import load_all
from transfer.errors import TransferError

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
        assert line.startswith(f"{spec}: samples left out: {said}") and "\n" not in line
    with pytest.raises(TransferError, match="no sample has one image and a label: 1 |no sample .*: 2 "):
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
            assert "ends early" in str(error) or "no sample has" in str(error)
        else:
            assert len(source) < 6
            assert any("without the end of a tar, maybe cut off: a.tar" in line for line in caplog.messages)


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
    monkeypatch.setattr(tar_index, "listed", lambda *args, real=tar_index.listed: made.append(1) or real(*args))
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
    """An index takes no more than 40 bytes a row beside the names."""
    count = 1_000_000
    keys = np.frombuffer(b"".join(b"%09d" % row for row in range(count)), np.uint8)
    numbers = np.arange(1, count + 1, dtype=np.int64)
    index = tar_index.TarIndex(keys, numbers * 9, numbers, numbers, numbers.astype(np.int32), [], {}, True)
    assert sum(array.nbytes for array in index[:5]) <= 40 * count
    assert [index.key(row) for row in (0, 1, count - 1)] == ["000000000", "000000001", "000999999"]
