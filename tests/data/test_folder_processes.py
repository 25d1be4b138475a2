"""A folder that several real processes open: one lists it, and all have the same listing and the same images."""

import os

import pytest
from real_formats import write_files

from transfer.data import open_source

pytestmark = pytest.mark.slow

# sizes that differ, a name that is no UTF-8, one that takes six characters in JSON, and no image; a megabyte of names
FILES = {f"{name}/{'x' * 150}{row:05d}.png": b"x" * row for name in ("cat", "dog") for row in range(4000)}
ODD = {"dog/é.png": b"12", os.fsdecode(b"cat/caf\xe9.png"): b"1", "cat/0.ppm": b"P6 1 1 255 abc", "cat/notes.txt": b""}


def test_one_process_asks_the_storage(several, tmp_path):
    write_files(tmp_path / "images", FILES | ODD)
    wanted = open_source(f"folder:{tmp_path / 'images'}")
    ended = several.run("list_images", {"folders": [str(tmp_path)] * 3}, 3)
    assert [one.code for one in ended] == [0, 0, 0], [one.err for one in ended]
    for asked, one in zip((3, 0, 0), ended, strict=True):
        assert f"asked {asked} times: {len(wanted)} {wanted.fingerprint}" in one.err.splitlines()


@pytest.mark.parametrize("name, data", [("dog/é.png", b"123"), ("cat/0.ppm", b"P6 1 1 255 abd")])
def test_another_image_under_the_same_name_is_noticed(several, tmp_path, name, data):
    """As where each machine has a copy of its own."""
    for process, changed in enumerate(({}, {name: data})):
        write_files(tmp_path / str(process) / "images", ODD | changed)
    ended = several.run("list_images", {"folders": [str(tmp_path / "0"), str(tmp_path / "1")]}, 2)
    line = f"images/{name} is not the file that process 0 has there; all processes need the same images"
    assert ended[1].code == 1 and ended[1].errors == [f"error: process 1 of 2: {line}"], ended[1].err


def test_what_process_0_does_not_find_ends_all(several, tmp_path):
    """The other one has the images, and waits for the listing."""
    (tmp_path / "0").mkdir()
    write_files(tmp_path / "1" / "images", ODD)
    ended = several.run("list_images", {"folders": [str(tmp_path / "0"), str(tmp_path / "1")]}, 2)
    assert [one.code for one in ended] == [1, 76] and "images" in ended[0].errors[0]
    assert ended[1].errors[0].startswith("error: process 1 of 2: process 0 has failed; its own error says why")
