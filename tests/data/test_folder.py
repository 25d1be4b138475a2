"""Folders and zips of class folders, as people make them."""

import copy
import io
import logging
import os
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from real_formats import encoded, pixels, write_files, write_zip

from transfer.data import BrokenImage, containers, folder, open_source
from transfer.data.decode import decode
from transfer.data.loader import load_all
from transfer.data.splits import check_classes, make_splits, splits_to_train
from transfer.errors import TransferError, UsageError

IMAGE = pixels(1, 8, 6)[0]
PNG = encoded(IMAGE)


@pytest.fixture(params=["folder", "zip", "stored zip"])
def write(request, tmp_path):
    """Writes files as a folder or a zip and returns its spec."""

    def write_it(files):
        if request.param == "folder":
            return f"folder:{write_files(tmp_path / 'set', files)}"
        compression = zipfile.ZIP_STORED if request.param == "stored zip" else zipfile.ZIP_DEFLATED
        return f"folder:{write_zip(tmp_path / 'set.zip', files, compression)}"

    return write_it


def test_classes_and_files_are_sorted_and_what_is_hidden_is_left_alone(write):
    spec = write(
        {
            "b/2.PNG": PNG,
            "b/10.png": PNG,
            "a b/x.jpeg": encoded(IMAGE, "JPEG"),
            "a b/deeper/y.ppm": encoded(IMAGE, "PPM"),
            "a b/notes.txt": b"not an image",
            "b/.hidden.png": b"",
            "b/._2.png": b"",
            ".cache/z.png": PNG,
            "__MACOSX/b/2.png": PNG,
            "b/Thumbs.db": b"",
            "readme.png": PNG,
        }
    )
    source = open_source(spec)
    assert source.class_names == ("a b", "b")
    assert source.ids == ["a b/deeper/y.ppm", "a b/x.jpeg", "b/10.png", "b/2.PNG"]
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    for index in (0, 2, 3):
        np.testing.assert_array_equal(source.image(index), IMAGE)


def test_a_class_folder_without_images_is_said_and_stays_a_class(write, caplog):
    spec = write(
        {"train/b/1.png": PNG, "train/a": None, "train/c/notes.txt": b"", "train/c": None, "test/b/1.png": PNG}
    )
    with caplog.at_level(logging.WARNING):
        source = open_source(spec, "train")
    assert source.class_names == ("a", "b", "c") and source.labels.tolist() == [1]
    assert "no images in class folder a, c of 'train'" in caplog.text


def test_one_folder_around_the_splits_is_looked_through(write):
    source = open_source(write({"animals/train/b/1.png": PNG, "animals/test/b/2.png": PNG}), "test")
    assert source.ids == ["test/b/2.png"]


def test_sizes_are_uniform_or_not(write):
    other = encoded(pixels(1, 6, 8)[0])
    spec = write({"a/1.png": PNG, "a/2.png": PNG, "b/1.png": other, "b/2.png": b"broken"})
    source = open_source(spec)
    assert source.uniform_shape is None
    assert source.shared_shape([0, 1, 3]) == (8, 6, 3)  # a broken one is for the decoder to name
    with pytest.raises(TransferError, match=r"b/1.png is \(6, 8, 3\)"):
        load_all(source)


@pytest.mark.parametrize(
    "files, split, error, words",
    [
        ({"train/a/1.png": PNG, "test/a/1.png": PNG}, None, UsageError, "name one as the split: test, train"),
        ({"train/a/1.png": PNG, "test/a/1.png": PNG}, "val", UsageError, "no split 'val'; there is test, train"),
        ({"a/1.csv": b"", "a/2.txt": b""}, None, TransferError, "no images in class folders; there are 1 .csv, 1 .txt"),
        ({"train/a/1.png": PNG, "test/a/1.png": PNG, "stray.png": PNG}, None, UsageError, "as the split: test, train"),
        (
            {"train/a/1.png": PNG, "val/a/1.png": PNG},
            "trian",
            UsageError,
            "no split 'trian'; there is train, val; did you mean train.$",
        ),
        ({"set/a/b/1.png": PNG}, "set/c", UsageError, "no split 'set/c'; there is a"),
        (
            {"a": None, "1.png": PNG},
            None,
            TransferError,
            "no images in class folders; 1 lie beside them: put each into",
        ),
        (
            {"train/a": None, "train/a/1.txt": b""},
            "train",
            TransferError,
            "no images in class folders of 'train'; there",
        ),
    ],
)
def test_a_folder_without_the_right_shape(write, files, split, error, words):
    with pytest.raises(error, match=words):
        open_source(write(files), split)


def test_the_fingerprint_sees_content_but_not_dates(tmp_path):
    path = write_files(tmp_path / "set", {"a/1.png": PNG, "b/1.png": PNG})
    before = open_source(str(path)).fingerprint
    os.utime(path / "a" / "1.png", (0, 0))
    assert open_source(str(path)).fingerprint == before
    (path / "a" / "1.png").write_bytes(encoded(pixels(1, 9, 9)[0]))
    assert open_source(str(path)).fingerprint != before


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = Image.fromarray(IMAGE)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        stored = image.convert(mode)
    stream = io.BytesIO()
    stored.save(stream, "JPEG" if mode == "CMYK" else "PNG")
    data = stream.getvalue()
    decoded = decode(data, "here")
    assert decoded.shape == (8, 6, 3) and decoded.dtype == np.uint8
    if mode in ("L", "LA", "I;16"):
        for channel in range(3):
            np.testing.assert_array_equal(decoded[..., channel], np.asarray(image.convert("L")))
    if mode == "RGBA":
        np.testing.assert_array_equal(decoded, IMAGE)


JPEG = encoded(pixels(1, 40, 40)[0], "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"GIF89a" + bytes(3),
        b"<!doctype html>",
        JPEG[: len(JPEG) // 2],
        JPEG[:-200],
        PNG[:60],
        PNG[:30],
    ],
)
def test_a_broken_image_is_named(write, data):
    source = open_source(write({"a/good.png": PNG, "a/bad one.jpg": data}))
    with pytest.raises(BrokenImage, match="a/bad one.jpg: not a readable image"):
        source.image(source.ids.index("a/bad one.jpg"))


def test_a_size_that_stands_far_behind_in_the_file_is_found(write):
    """Behind a large colour profile, for example."""
    data = encoded(IMAGE, "JPEG", icc_profile=bytes(100_000))
    assert open_source(write({"a/1.jpg": data})).uniform_shape == (8, 6, 3)


def test_a_damaged_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/1.png": PNG, "a/2.png": PNG})
    data = bytearray(path.read_bytes())
    data[50] ^= 0xFF  # inside the first member
    path.write_bytes(data)
    source = open_source(str(path))
    with pytest.raises(BrokenImage, match="a/1.png: cannot be read .damaged zip"):
        source.image(0)
    np.testing.assert_array_equal(source.image(1), IMAGE)
    path.write_bytes(data[:-30])
    with pytest.raises(TransferError, match="a.zip: a damaged or truncated zip"):
        open_source(str(path))


def test_members_are_read_where_they_lie(tmp_path):
    """Behind a name and an extra field of any length; of a part of one as many bytes as are asked for."""
    path = tmp_path / "a.zip"
    files = {"a/1.png": (PNG, b""), f"a/{'ü' * 60}.png": (PNG[::-1] * 9, b"\x99\x99\x03\0abc"), "a/3.png": (b"", b"")}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w") as archive:
            for name, (content, extra) in files.items():
                member = zipfile.ZipInfo(name)
                member.extra, member.compress_type = extra, compression
                archive.writestr(member, content)
        container = containers.Zip(str(path))
        members = {member.filename: member for member in container.members}
        for name, (content, _) in files.items():
            assert container.read(members[name]) == content
            assert container.read(members[name], 10**6) == content
            part = container.read(members[name], 20)
            assert content.startswith(part) and len(part) <= 20
            assert compression == zipfile.ZIP_DEFLATED or len(part) == min(20, len(content))
        entries = {"/".join(entry.parts): entry.identity for entry in container.entries()}
        assert entries == {name: b"%d:%d" % (len(of[0]), zlib.crc32(of[0])) for name, of in files.items()}


def test_a_member_that_is_not_as_the_zip_says(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/1.png": PNG * 2})
    container = containers.Zip(str(path))
    (member,) = container.members
    with open(path, "ab") as file:
        file.write(b"PK\x03\x04" + bytes(25))  # a header that lacks a byte

    def changed(**fields):
        other = copy.copy(member)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    longer = "damaged zip: wrong checksum"
    for other, message in {
        changed(file_size=len(PNG), CRC=zlib.crc32(PNG)): longer,  # its beginning would pass
        changed(file_size=2 * len(PNG) + 1): longer,
        changed(CRC=member.CRC ^ 1): longer,
        changed(header_offset=container.size): "damaged zip",
        changed(header_offset=-1): "damaged zip",
        changed(header_offset=1): "damaged zip",
        changed(compress_type=zipfile.ZIP_LZMA): "packed by a method other than deflate",
    }.items():
        with pytest.raises(ValueError, match=f"{message}$"):
            container.read(other)
    assert container.read(member) == PNG * 2


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BrokenImage, match="^images: .*a.png: cannot be read .no regular file"):
        folder.open_images([tmp_path / "a.png"]).image(0)


def test_a_link_to_a_folder_above_is_named(tmp_path):
    write_files(tmp_path / "set", {"cat/a.png": PNG, "dog/b.png": PNG})
    (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set" / "cat")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "set")
    with pytest.raises(TransferError, match="^folder:.*set: .*more is a link to a folder that holds it$"):
        open_source(f"folder:{tmp_path / 'set'}")
    (tmp_path / "set" / "cat" / "more").unlink()
    assert open_source(f"folder:{tmp_path / 'set'}").ids == ["cat/a.png", "dog/again/a.png", "dog/b.png"]


def test_the_real_zip(shared_data):
    """55,000 real JPEG files: listed at once, decoded by threads to the pixels that Pillow gives."""
    path = shared_data / "cifar10_jpeg.zip"
    source = open_source(f"folder:{path}", "test")
    assert len(source) == 5000 and np.bincount(source.labels).tolist() == [500] * 10
    assert source.ids[501] == "test/automobile/0001.jpg" and source.class_names[9] == "truck"
    images = load_all(source)
    with zipfile.ZipFile(path) as archive:
        for index in (0, 501, 4999):
            expected = np.asarray(Image.open(io.BytesIO(archive.read(source.ids[index]))).convert("RGB"))
            np.testing.assert_array_equal(images[index], expected)


@pytest.mark.parametrize(
    "names, words",
    [
        (("a.txt",), "1 .txt"),
        (("cat/b.mp4", "a.TXT", "cat/deep/c.txt"), "2 .txt, 1 .mp4"),
        (("README", ".hidden", "v1.0 of the long ending"), "2 without ending"),
        (("1.png", "2.png", "cat/b.pdf"), "1 .pdf, 2 images beside the class folders"),
        ([f"{i}.k{i:02d}" for i in range(11)], ", ".join(f"1 .k{i:02d}" for i in range(8)) + ", …"),
        ((".DS_Store", "cat/Thumbs.db", "desktop.ini"), None),
    ],
)
def test_what_is_left_out_is_counted_by_kind(write, names, words, monkeypatch):
    spec = write({"cat/a.png": PNG, **dict.fromkeys(names, b"x")})
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: said.append(text % values))
    assert len(open_source(spec)) == 1
    assert said == ([] if words is None else [f"{spec}: left out: {words}"])


def test_what_is_left_out_of_a_split_is_counted_alone(write, monkeypatch):
    spec = write({"s/t/cat/a.png": PNG, "s/t/cat/a.txt": b"", "s/v/cat/b.png": PNG, "s/v/b.txt": b"", "c.txt": b""})
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: said.append(text % values))
    open_source(spec, "t")
    assert said == [f"{spec}: left out of 't': 1 .txt"]


def test_another_image_of_the_same_size_is_another_data_set(tmp_path):
    (tmp_path / "cat").mkdir()
    fingerprints = set()
    for level in (0, 1):
        Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / "cat" / "a.ppm")
        fingerprints.add(open_source(f"folder:{tmp_path}").fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    "files, words",
    [
        ({"1.png": PNG, "2.png": PNG, "a": None}, "2 lie beside them: put each into a folder that is named after its"),
        ({"a/1.mp4": b"", "b/1.mp4": b""}, "no images in class folders; there are 2 .mp4$"),
        ({"a": None, "b": None}, "no images in class folders$"),
    ],
)
def test_a_folder_without_class_folders_of_images_says_what_to_do(write, files, words):
    with pytest.raises(TransferError, match=words):
        open_source(write(files))


def test_images_of_one_class_are_nothing_to_train_on(write):
    source = open_source(write({"it's <b>/1.png": PNG, "it's <b>/2.png": PNG, "none": None}))
    with pytest.raises(TransferError, match="all images to train on are of one class, .it's <b>."):
        check_classes(source)
    check_classes(open_source("digits"))


@pytest.mark.parametrize("split", [None, "new"])
def test_a_flat_folder_has_images_without_labels(write, split, caplog):
    above = f"{split}/" if split else ""
    spec = write({f"{above}{name}": PNG for name in ("2.png", "10.png", "b.png")} | {f"{above}a.txt": b""})
    config = {"source": spec, "train": split}
    with caplog.at_level(logging.INFO):
        sources = splits_to_train(config)
    assert list(sources) == ["train"] and "train: 3 images without labels" in caplog.text
    assert sources["train"].ids == [f"{above}10.png", f"{above}2.png", f"{above}b.png"]
    assert sources["train"].class_names == ()
    with pytest.raises(
        TransferError, match="its images have no labels, .* named after its class, list them in a table"
    ):
        splits_to_train(config, "classes")


PETS = {f"train/{name}.jpg": PNG for name in ("cat.0", "cat.1", "dog.0", "dog.1")}


def test_classes_are_in_the_names_of_files(write):
    spec = write(PETS | {"train/more/dog.2.jpg": PNG, "train/notes.txt": b"", "test1/1.jpg": PNG})
    source = open_source(spec, "train", class_in_name=r"(\w+)\.")
    assert source.class_names == ("cat", "dog")
    assert dict(zip(source.ids, source.labels.tolist(), strict=True)) == {
        **{"train/cat.0.jpg": 0, "train/cat.1.jpg": 0, "train/dog.0.jpg": 1, "train/dog.1.jpg": 1},
        "train/more/dog.2.jpg": 1,
    }
    train, validation = make_splits(
        {"source": spec, "train": "train", "class_in_name": r"^(\w+)\.", "validation_fraction": 0.4}
    )
    assert {*train.ids, *validation.ids} == {*source.ids} and train.image(0).shape == source.image(0).shape


@pytest.mark.parametrize(
    "pattern, split, words",
    [
        (r"([a-z]+)\.", "test1", "folder:.*: there is no class in the name 1.jpg$"),
        (r"\w+", "train", "needs one group, .* which is the class; it has 0$"),
        (r"(cat|dog)(.)", "train", "which is the class; it has 2$"),
        ("(cat", "train", "no regular expression .missing"),
        ("(x*)", "train", r"there is no class in the name \w+\.\d\.jpg$"),
    ],
)
def test_no_class_in_a_name(pattern, split, words, write):
    with pytest.raises(UsageError, match=f"^config.data.class_in_name=.*{words}"):
        open_source(write(PETS | {"test1/1.jpg": PNG}), split, class_in_name=pattern)


def test_of_two_splits_one_may_not_lack_labels(write):
    spec = write({"train/a/1.png": PNG, "train/b/1.png": PNG, "test1/1.png": PNG, "test2/1.png": PNG})
    with pytest.raises(TransferError, match="lie in class folders, of the other in none; without .*csv:FILE"):
        splits_to_train({"source": spec, "train": "train", "validation": "test1"})
    assert list(splits_to_train({"source": spec, "train": "test2", "validation": "test1"})) == ["train", "validation"]


SIGNS = {"Train/0/1.png": PNG, "Train/1/1.png": PNG, "Test/1.png": PNG, "Meta/0.png": PNG}
NO_CLASSES = {
    "signs": (SIGNS, None, "like a class: Meta, Test, Train; .*--config.data.train=Train.; .* rename its folder"),
    "flat": ({"train/cat.0.jpg": PNG, "test1/1.jpg": PNG}, None, "test1, train; none holds folders of classes: put"),
    "a stray image in one": ({"Val/a/1.png": PNG, "Val/1.png": PNG, "b/a/1.png": PNG}, None, "class: Val; .*=Val or b"),
    "among classes": ({"cat/1.png": PNG, "dog/1.png": PNG, "IMAGES/1.png": PNG}, None, "class: IMAGES; none holds"),
    "an empty one": ({"cat/1.png": PNG, "dog/1.png": PNG, "validation": None}, None, "class: validation; none holds"),
    "below a split": ({"train/train/a/1.png": PNG}, "train", "of 'train' named .* class: train; .*train=train/train."),
    "the official signs": ({"F/Images/00000/1.ppm": PNG}, "F", "of 'F' named .* class: Images; .*train=F/Images."),
    "below a path": ({"a/b/test/c/1.png": PNG, "a/b/d/e/1.png": PNG}, "a/b", "class: test; .*=a/b/d or a/b/test."),
    "of two kinds": (
        {"fit/0/1.png": PNG, "held/1.png": PNG},
        None,
        "kind: fit with .*, held with images; .*=fit",
    ),
}


@pytest.mark.parametrize("files, split, words", NO_CLASSES.values(), ids=NO_CLASSES)
def test_splits_are_no_classes(write, files, split, words):
    with pytest.raises(UsageError, match=words) as caught:
        open_source(write(files), split)
    assert "\n" not in str(caught.value)


ADVISED = {
    "signs": (SIGNS, "Train", ["Train/0/1.png", "Train/1/1.png"]),
    "a path": (
        {"F/Images/7/1.png": PNG, "F/Images/8/1.png": PNG},
        "F/Images/",
        ["F/Images/7/1.png", "F/Images/8/1.png"],
    ),
    "a path in a folder": ({"around/F/Images/7/1.png": PNG, "around/1.txt": b""}, "./F/Images", ["F/Images/7/1.png"]),
}


@pytest.mark.parametrize("files, split, ids", ADVISED.values(), ids=ADVISED)
def test_the_split_that_the_message_advises(write, files, split, ids):
    source = open_source(write(files), split)
    assert source.ids == ids and source.class_names == tuple(id_.split("/")[-2] for id_ in ids)


OF_SYSTEMS = ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", "$Recycle.Bin")


@pytest.mark.parametrize("name", OF_SYSTEMS)
@pytest.mark.parametrize("split", [None, "s"])
def test_what_a_system_leaves_is_no_class_and_no_image(write, name, split, monkeypatch):
    above = f"{split}/" if split else ""
    files = {f"{at}{name}/1.png": PNG for at in ("", above, f"{above}a/", f"{above}a/deeper/")}
    spec = write(files | {f"{above}a/1.png": PNG, f"{above}b/1.png": PNG})
    scandir = os.scandir  # which root may do everywhere

    def guarded(path):
        if name in str(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = open_source(spec, split)
    assert source.class_names == ("a", "b") and source.ids == [f"{above}a/1.png", f"{above}b/1.png"]
