"""Zips and tars as people make them: looked through, read by position, or named for what they are before all else."""

import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from real_formats import encoded, pixels, write_files, write_zip

from transfer.data import open_source
from transfer.errors import TransferError, UsageError

IMAGE = pixels(1, 8, 6)[0]
PNG = encoded(IMAGE)
PETS = {"cat/1.png": PNG, "cat/2.png": PNG, "dog/1.png": PNG}
IDS = sorted(PETS)
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path, files, form=tarfile.GNU_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def below(folder, files=None):
    return {f"{folder}/{name}": content for name, content in (files or PETS).items()}


def written(path, files):
    return write_tar(path, files) if path.suffix == ".tar" else write_zip(path, files)


AROUND = {
    "the folder itself": (below("pets"), None, IDS),
    "in two": (below("Downloads/pets"), None, IDS),
    "beside what macOS adds": ({**below("pets"), **below("__MACOSX/pets")}, None, IDS),
    "beside a text": ({**below("pets"), "readme.txt": b"x", "pets/licence.txt": b"x"}, None, IDS),
    "with a stray image": ({**below("pets"), "pets/cover.png": PNG, "other.png": PNG}, None, IDS),
    "of dots": (below("."), None, IDS),
    "of dots and folders": (below("./pets/."), None, IDS),
    "one split": (below("pets/train"), None, IDS),
    "around splits": ({**below("pets/train"), **below("pets/test")}, "train", [f"train/{id_}" for id_ in IDS]),
    "twice around splits": ({**below("a/b/train"), **below("a/b/test")}, "test", [f"test/{id_}" for id_ in IDS]),
}


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize("files, split, ids", AROUND.values(), ids=AROUND)
def test_what_lies_around_the_classes_is_looked_through(tmp_path, files, split, ids, ending):
    source = open_source(str(written(tmp_path / f"a{ending}", files)), split)
    assert source.class_names == ("cat", "dog") and source.ids == ids and source.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(source.image(2), IMAGE)


@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_a_folder_beside_the_class_folders_is_not_looked_past(tmp_path, ending):
    path = written(tmp_path / f"a{ending}", {**below("train"), **below("test")})
    with pytest.raises(UsageError, match="holds folders of class folders; name one as the split: test, train"):
        open_source(str(path))
    with pytest.raises(UsageError, match="of 'pets' named like a part .*=pets/test or pets/train"):
        open_source(str(written(tmp_path / f"b{ending}", {**below("pets/train"), **below("pets/test")})), "pets")


@pytest.mark.parametrize("of_dos", [False, True])
def test_names_as_windows_writes_them(tmp_path, of_dos):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in {**below("pets"), "pets/notes.txt": b"x"}.items():
            member = zipfile.ZipInfo("x")
            member.filename, member.create_system = name.replace("/", "\\"), 0 if of_dos else 3
            archive.writestr(member, content)
        if of_dos:
            archive.writestr("pets/dog/2.png", PNG)
    source = open_source(str(tmp_path / "a.zip"))
    assert source.class_names == ("cat", "dog") and source.ids == IDS + (["dog/2.png"] if of_dos else [])
    np.testing.assert_array_equal(source.image(0), IMAGE)


@pytest.mark.parametrize("raw", ["Blüte".encode(), b"Bl\xfcte"])
def test_names_that_a_zip_does_not_say_the_encoding_of(tmp_path, raw):
    path = write_zip(tmp_path / "a.zip", {"Blxxte/1.png" if len(raw) == 6 else "Blxte/1.png": PNG, "cat/1.png": PNG})
    path.write_bytes(path.read_bytes().replace(b"Blxxte", raw).replace(b"Blxte", raw))
    assert open_source(str(path)).class_names == ("Blüte" if len(raw) == 6 else raw.decode("cp437"), "cat")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tars_of_every_form(tmp_path, form):
    names = [f"cat/{'n' * length}.png" for length in (10, 80, 95)] + ["dog/ü.png", "dog/caf\udce9.png"]
    if form != tarfile.USTAR_FORMAT:
        names.append(f"dog/{'m' * 240}/{'n' * 240}.png")
    images = pixels(len(names), 8, 6)
    files = {name: encoded(image) for name, image in zip(names, images, strict=True)}
    source = open_source(str(write_tar(tmp_path / "a.tar", files, form)))
    assert source.ids == sorted(names)
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(source.image(source.ids.index(name)), image)
    assert source.uniform_shape == (8, 6, 3)


def test_a_tar_of_the_program_tar(tmp_path):
    write_files(tmp_path / "set", {**PETS, f"cat/{'n' * 150}.png": PNG, ".hidden/1.png": PNG})
    (tmp_path / "set" / "cat" / "link.png").symlink_to("1.png")
    for form in ("gnu", "posix", "ustar"):
        command = ["tar", f"--format={form}", "-cf", tmp_path / f"{form}.tar", "-C", tmp_path / "set"]
        options = ["--exclude=n*"] if form == "ustar" else []
        subprocess.run([*command, *options, "."], check=True)
        source = open_source(str(tmp_path / f"{form}.tar"))
        assert len(source) == (3 if options else 4) and source.class_names == ("cat", "dog")
        np.testing.assert_array_equal(source.image(0), IMAGE)


def test_a_member_that_comes_twice_is_the_last(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/1.png": encoded(pixels(1, 2, 2)[0]), "b/1.png": PNG})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a/1.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    source = open_source(str(path))
    assert source.ids == ["a/1.png", "b/1.png"]
    np.testing.assert_array_equal(source.image(0), IMAGE)


def test_a_tar_that_is_written_over_is_noticed(tmp_path):
    path = write_tar(tmp_path / "a.tar", PETS)
    source = open_source(str(path))
    before, checksums = source.file_stamps([0, 1]), source.file_checksums([0, 1])
    data = path.read_bytes()
    path.write_bytes(data.replace(PNG, PNG[::-1]))
    os.utime(path, ns=(1, 1))
    assert (source.file_stamps([0, 1]) != before).all() and (source.file_checksums([0, 1]) != checksums).all()


def header(**fields):
    member = tarfile.TarInfo("cat/1.png")
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT)


DAMAGED = {
    "cut off": (header(size=1000) + bytes(500), "ends early: .*cat/1.png.* is said to have 1000 bytes, 500 follow"),
    "no header": (header(size=0) + b"x" * 512, "damaged at byte 512: there is no header of a member"),
    "half a header": (header(size=0) + header()[:200], "damaged at byte 512"),
}


@pytest.mark.parametrize("data, words", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_tar_is_named(tmp_path, data, words):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(TransferError, match=f"^folder:.*a.tar: .*{words}"):
        open_source(str(tmp_path / "a.tar"))


def seven_zip():
    return b"7z\xbc\xaf\x27\x1c" + bytes(60)


PACKED = {
    "a.tgz": (lambda tar: gzip.compress(tar), "packed by gzip, which .*: unpack it once (tar -xzf a.tgz) and give the"),
    "a.tar.xz": (lambda tar: lzma.compress(tar), "packed by xz, .* (tar -xJf a.tar.xz)"),
    "a.7z": (lambda tar: seven_zip(), "a 7z archive, .* (7z x a.7z)"),
    "a.rar": (lambda tar: b"Rar!\x1a\x07\x01\0", "a RAR archive"),
    "a.tar": (lambda tar: gzip.compress(tar), "packed by gzip"),
    "b.zip": (lambda tar: PNG, "one image; give the folder of class folders that it lies in"),
    "c.zip": (lambda tar: b"something else", "a damaged or truncated zip archive"),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_is_not_read_by_position_is_named_before_anything_starts(tmp_path, name):
    pack, words = PACKED[name]
    path = tmp_path / name
    path.write_bytes(pack(write_tar(tmp_path / "plain", PETS).read_bytes()))
    words = words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(TransferError, match=f"^folder:{path}: {words}"):
        open_source(str(path))


@pytest.mark.parametrize(
    "method, words",
    [(zipfile.ZIP_LZMA, "packed by the method lzma, not deflate"), (zipfile.ZIP_BZIP2, "packed by the method bzip2")],
)
def test_images_in_a_zip_that_are_packed_in_another_way(tmp_path, method, words):
    path = write_zip(tmp_path / "a.zip", PETS, method)
    with pytest.raises(TransferError, match=f"^folder:{path}: cat/1.png is {words}.*: unpack the zip once, and give"):
        open_source(str(path))


def test_an_encrypted_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", PETS)
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        if data.startswith(b"PK\x01\x02", at):
            data[at + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(TransferError, match=f"^folder:{path}: cat/1.png is encrypted: unpack the zip once"):
        open_source(str(path))


def test_a_zip_of_zips(tmp_path):
    inner = write_zip(tmp_path / "train.zip", PETS).read_bytes()
    path = write_zip(tmp_path / "a.zip", {"train.zip": inner, "test.zip": inner})
    with pytest.raises(TransferError, match=f"^folder:{path}: no images .*; there are 2 .zip: unpack them$"):
        open_source(str(path))
