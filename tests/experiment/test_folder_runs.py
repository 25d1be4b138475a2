"""Runs on a folder of small images of one's own: what is said of them, and what becomes of those that go wrong."""

import contextlib
import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import config, experiment
from transfer.__main__ import main
from transfer.data.folder import Folder
from transfer.data.splits import make_splits
from transfer.errors import TransferError
from transfer.evaluation.predictions import Predictions
from transfer.runtime.files.kvstore import Directory
from transfer.store.format import read_metadata
from transfer.store.writer import StoreWriter

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def encoded(seed: int, kind: str = "PNG", **options) -> bytes:
    """Noise of 32x32."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def png(seed: int) -> bytes:
    """All of one size."""
    return encoded(seed, compress_level=0)


JPEG = encoded(96, "JPEG")


@pytest.fixture
def photos(tmp_path):
    """Three class folders of six images."""
    folder = tmp_path / "photos"
    for label, name in enumerate(("cat", "dog", "eel")):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            (folder / name / f"{number}.png").write_bytes(png(10 * label + number))
    return folder


def test_images_without_labels_have_features_and_no_head(tmp_path):
    for number in range(5):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(png(number))
    (tmp_path / "flat" / "page.png").write_bytes(b"<html>")
    stores, facts = extract(tmp_path / "flat", tmp_path / "run", on_error="skip")
    assert list(stores) == ["train"] and list(stores["train"].ids) == [f"{number}.png" for number in range(5)]
    assert facts["skipped"] == {"train": {"images": 1, "of": 6, "first": ["page.png"], "classes": {}}}
    with pytest.raises(TransferError, match="its images have no labels"):
        experiment.train(settings(tmp_path / "flat"), epath.Path(tmp_path / "run"))


def settings(photos, **changed):
    chosen = config.default()
    chosen.model.name, chosen.tap, chosen.image_size, chosen.batch_size = "vgg11_slim.cifar10", "block2:avg", 32, 4
    chosen.data.source, chosen.data.validation_fraction = f"folder:{photos}", 0.34
    chosen.update_from_flattened_dict(changed)
    return chosen


def extract(photos, workdir, **changed):
    return experiment.extract(settings(photos, **changed), epath.Path(workdir))


def test_extraction_says_what_there_is_and_refuses_one_class(photos, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        extract(photos, tmp_path / "run")
    assert "train: 11 images of 3 classes: cat, dog, eel" in caplog.text
    assert "validation: 7 images of 3 classes: cat, dog, eel" in caplog.text
    (photos / "dog").rename(tmp_path / "dog")
    (photos / "eel").rename(tmp_path / "eel")
    with pytest.raises(TransferError, match="all images to train on are of one class, 'cat'"):
        extract(photos, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def train(photos, workdir, **changed):
    return experiment.train(settings(photos, **changed), epath.Path(workdir))


def spoil(photos):
    """An image of each class that cannot be read, each in another way, and what is said of them."""
    (photos / "cat" / "0.png").write_bytes(b"<html>not found</html>")
    (photos / "dog" / "1.png").write_bytes(png(3)[:-2000])
    (photos / "eel" / "2.png").unlink()
    (photos / "eel" / "2.png").symlink_to("nowhere.png")


LINES = (
    "train: 2 of 11 images could not be read and were skipped: dog/1.png, eel/2.png (1 of dog, 1 of eel)",
    "validation: 1 of 7 images could not be read and was skipped: cat/0.png (1 of cat)",
)
FACTS = {
    "train": {"images": 2, "of": 11, "first": ["dog/1.png", "eel/2.png"], "classes": {"dog": 1, "eel": 1}},
    "validation": {"images": 1, "of": 7, "first": ["cat/0.png"], "classes": {"cat": 1}},
}


# a head of epochs, and one that is fitted in one go
@pytest.mark.slow
@pytest.mark.parametrize("head", [{"head.epochs": 2}, {"head.name": "ridge"}], ids=["epochs", "in one go"])
def test_skipped_images_are_said_everywhere_and_every_time(photos, tmp_path, caplog, head):
    spoil(photos)
    for _ in range(2):
        caplog.clear()
        result = train(photos, tmp_path / "run", on_error="skip", **head)
        assert [caplog.text.count(line) for line in LINES] == [1, 1]
        kept = json.loads((tmp_path / "run" / "result.json").read_text())
        assert kept == result and kept["skipped"] == FACTS and kept["num_train"] == 9
        report = (tmp_path / "run" / "report.html").read_text("utf-8")
        assert all(line in report for line in LINES)
    with pytest.raises(TransferError, match="eel/2.png: cannot be read|cat/0.png: not a readable|dog/1.png: not a"):
        extract(photos, tmp_path / "other")


def test_skipped_images_are_counted_over_all_runs(photos, tmp_path, caplog, monkeypatch):
    spoil(photos)

    def stopped(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("transfer.store.writer.StoreWriter.finish", stopped)
        extract(photos, tmp_path / "run", on_error="skip")
    _, facts = extract(photos, tmp_path / "run", on_error="skip")
    assert facts["skipped"] == FACTS and all(line in caplog.text for line in LINES)


@pytest.mark.parametrize("lost, left", [(["eel"], "2 of 3"), (["cat", "dog"], "1 of 3")])
def test_a_class_that_is_skipped_altogether_is_an_error(photos, tmp_path, lost, left):
    for name in lost:
        for path in (photos / name).iterdir():
            path.write_bytes(b"<html>not found</html>")
    words = f"train: no image of class {', '.join(lost)} could be read, so that {left} classes are left"
    for run in (train, train, extract):
        with pytest.raises(TransferError, match=words):
            run(photos, tmp_path / "run", on_error="skip")
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_class_that_only_the_validation_side_has_lost(photos, tmp_path):
    stores, _ = extract(photos, tmp_path / "whole")
    for id_ in stores["validation"].ids:
        if id_.startswith("dog/"):
            (photos / id_).write_bytes(b"")
    with pytest.raises(TransferError, match="validation: no image of class dog could be read, so that 2 of 3"):
        train(photos, tmp_path / "run", on_error="skip")


@pytest.fixture
def odd_photos(photos):
    """The same in names that are not UTF-8, of a class and of all images."""
    for path in photos.glob("*/*"):
        os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/\xff" + path.name.encode())
    os.rename(os.fsencode(photos / "cat"), os.fsencode(photos) + b"/caf\xe9")
    return photos


def written_over(photos):
    """Two classes' images, of one size, exchanged."""
    one, other = (photos / "cat" / "0.png").read_bytes(), (photos / "dog" / "0.png").read_bytes()
    (photos / "cat" / "0.png").write_bytes(other)
    (photos / "dog" / "0.png").write_bytes(one)


def turned(photos):
    """The same size and the same date."""
    path, before = photos / "eel" / "1.png", (photos / "eel" / "1.png").stat()
    path.write_bytes(png(99))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed(photos):
    """Files keep their dates when names are exchanged."""
    for path in (photos / "eel" / "1.png", photos / "eel" / "2.png"):
        os.utime(path, (0, 0))
        path.rename(photos / "eel" / f"{3 - int(path.stem)}.tmp")
    for number in (1, 2):
        (photos / "eel" / f"{number}.tmp").rename(photos / "eel" / f"{number}.png")


def linked(photos):
    (photos / "dog" / "2.png").unlink()
    (photos / "dog" / "2.png").symlink_to("nowhere.png")


CHANGES = {
    "written over": (written_over, "2 images changed: cat/0.png, dog/0.png;"),
    "the same date": (turned, "1 image changed: eel/1.png;"),
    "renamed": (renamed, "2 images changed: eel/1.png, eel/2.png;"),
    "a link to nothing": (linked, "1 image changed: dog/2.png;"),
    "one more": (lambda photos: (photos / "cat" / "new.png").write_bytes(png(1)), "1 more: cat/new.png;"),
    "fewer": (
        lambda photos: [(photos / "dog" / f"{n}.png").unlink() for n in (0, 5)],
        "2 fewer: dog/0.png, dog/5.png;",
    ),
    "another size": (lambda photos: (photos / "cat" / "5.png").write_bytes(JPEG), "1 image changed: cat/5.png;"),
    "all of it": (
        lambda photos: [written_over(photos), (photos / "eel" / "5.png").rename(photos / "eel" / "6.png")],
        "2 images changed: cat/0.png, dog/0.png; 1 more: eel/6.png; 1 fewer: eel/5.png;",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_images_that_have_changed_are_named_by_the_next_run(photos, tmp_path, change, words, capsys):
    stores, _ = extract(photos, tmp_path / "run")
    change(photos)
    with pytest.raises(TransferError) as caught:
        extract(photos, tmp_path / "run", on_error="skip")
    assert f"{words} take another --workdir, or delete {tmp_path / 'run'}" in str(caught.value)
    said = ""
    for store in stores.values():
        capsys.readouterr()
        main(["features", "verify", store.path])
        said += "".join(capsys.readouterr())
    for name in words.split(": ")[1].split(";")[0].split(", "):
        assert name in said
    extract(photos, tmp_path / "other", on_error="skip")


def test_other_settings_are_not_images_that_have_changed(photos, tmp_path):
    extract(photos, tmp_path / "run", **{"data.train_per_class": 2})
    other = {"data.train_per_class": 3}
    with pytest.raises(TransferError, match="made with other settings: data.train_per_class was 2 and is 3"):
        extract(photos, tmp_path / "run", **other)
    shared = {"features": str(tmp_path / "run" / "features"), **other}
    with pytest.raises(TransferError, match="3 more: .* take another --config.features and --workdir, or delete"):
        extract(photos, tmp_path / "other", **shared)
    extract(photos, tmp_path / "whole")
    divided = {"features": str(tmp_path / "whole" / "features"), "data.seed": 5}
    with pytest.raises(TransferError, match="was made with other settings: images was"):
        extract(photos, tmp_path / "third", **divided)


def as_zip(photos, file):
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(photos.glob("*/*")):
            archive.write(path, path.relative_to(photos))
    return file


@pytest.mark.parametrize("change", ["written over", "one more", "all of it"])
def test_members_of_a_zip_are_named_too(photos, tmp_path, change):
    file = as_zip(photos, tmp_path / "photos.zip")
    extract(file, tmp_path / "run")
    as_zip(photos, file)  # other dates, the same members
    extract(file, tmp_path / "run")
    change, words = CHANGES[change]
    change(photos)
    as_zip(photos, file)
    with pytest.raises(TransferError) as caught:
        extract(file, tmp_path / "run")
    assert words in str(caught.value)


def test_a_damaged_member_of_a_zip_has_not_changed(photos, tmp_path):
    file = as_zip(photos, tmp_path / "photos.zip")
    data = bytearray(file.read_bytes())
    data[1000] ^= 255
    file.write_bytes(data)
    stores, facts = extract(file, tmp_path / "run", on_error="skip")
    assert sum(found["images"] for found in facts["skipped"].values()) == 1
    assert [main(["features", "verify", store.path]) for store in stores.values()] == [0, 0]


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read as a whole."""
    found = []

    def read(self, locator, limit=None, original=Folder.read):
        if limit is None:
            found.append(os.path.relpath(locator, self.path))
        return original(self, locator, limit)

    monkeypatch.setattr(Folder, "read", read)
    return found


def test_images_that_are_the_same_are_not_read_again(photos, tmp_path, reads):
    """A touch, a copy and a clone change dates; their bytes are compared once."""

    def again():
        reads.clear()
        extract(photos, tmp_path / "run")
        return sorted(reads)

    assert len(again()) == 18 and again() == []
    (photos / "cat" / "3.png").touch()
    assert again() == ["cat/3.png"] and again() == []
    shutil.copytree(photos, tmp_path / "copy")
    shutil.rmtree(photos)
    (tmp_path / "copy").rename(photos)
    assert len(again()) == 18 and again() == []
    for split in ("train", "validation"):
        (tmp_path / "run" / "features" / split / ".seen").unlink()
    assert len(again()) == 18 and again() == []


def test_a_store_that_is_only_read_is_read(photos, tmp_path, monkeypatch, reads):
    extract(photos, tmp_path / "run")
    (photos / "cat" / "3.png").touch()

    def refuse(self, key, value):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Directory, "write", refuse)
    reads.clear()
    extract(photos, tmp_path / "run")
    assert set(reads) == {"cat/3.png"}


def test_what_changes_while_a_run_is_stopped(photos, tmp_path, monkeypatch):
    """Rows that are there are compared before the others are computed."""
    writing, calls = StoreWriter.write, []

    def stopped(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        writing(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StoreWriter, "write", stopped)
        extract(photos, tmp_path / "run")
    ids = make_splits(settings(photos).data)[0].ids
    before = (photos / ids[0]).read_bytes()
    (photos / ids[0]).write_bytes(png(98))
    (photos / ids[10]).write_bytes(png(97))  # has not been read yet
    with pytest.raises(TransferError, match=f"1 image changed: {ids[0]};"):
        extract(photos, tmp_path / "run")
    (photos / ids[0]).write_bytes(before)
    stores, _ = extract(photos, tmp_path / "run")
    whole, _ = extract(photos, tmp_path / "whole")
    np.testing.assert_array_equal(stores["train"].features[:], whole["train"].features[:])
    assert main(["features", "verify", stores["train"].path]) == 0


def test_the_rows_of_changed_images_are_redone(photos, tmp_path, capsys):
    stores, _ = extract(photos, tmp_path / "run")
    written_over(photos)
    for store in stores.values():
        assert main(["features", "verify", store.path, "--repair"]) == 0
        said = capsys.readouterr().out
        assert "1 image changed: " in said and "train again, with another --workdir" in said
        assert main(["features", "verify", store.path]) == 0
    new, _ = extract(photos, tmp_path / "run")
    whole, _ = extract(photos, tmp_path / "whole")
    for split in new:
        np.testing.assert_array_equal(new[split].features[:], whole[split].features[:])


@pytest.mark.parametrize("done", [True, False], ids=["complete", "begun"])
def test_a_store_of_an_earlier_version_goes_on(photos, tmp_path, monkeypatch, caplog, capsys, done):
    """It has no checksums of images, which is said once."""
    with monkeypatch.context() as patch:
        patch.setattr("transfer.store.images.reader", lambda source: None)
        if not done:
            patch.setattr(StoreWriter, "finish", lambda self: None)
        with contextlib.nullcontext() if done else pytest.raises(TransferError, match="incomplete"):
            extract(photos, tmp_path / "run")
    store = tmp_path / "run" / "features" / "train"
    assert not (store / "content").exists()
    fingerprint = read_metadata(str(store))["fingerprint"]
    with caplog.at_level(logging.INFO):
        stores, _ = extract(photos, tmp_path / "run")
    assert caplog.text.count("it cannot tell images that change in place") <= 1
    assert main(["features", "verify", str(store)]) == 0 and not (store / "content").exists()
    assert stores["train"].metadata["fingerprint"] == fingerprint
    new, _ = extract(photos, tmp_path / "new")
    assert new["train"].metadata["fingerprint"] == fingerprint


USUAL = config.default()
WAYS = {
    "epochs": {"head.epochs": 2},
    "in one go": {"head.name": "ridge"},
    "finetune": {"train": "finetune", "tap": USUAL.tap, "batch_size": USUAL.batch_size, "finetune.epochs": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_names_that_are_not_utf8(odd_photos, tmp_path, capsys, how):
    workdirs = [tmp_path / "run", tmp_path / "again"]
    for workdir in workdirs:
        train(odd_photos, workdir, **{"finetune.batch_size": 4, **how})
        kept = Predictions.read(workdir / "predictions.npz")
        assert kept.class_names == ("caf\udce9", "dog", "eel")
        assert sorted(kept.ids) == sorted(make_splits(settings(odd_photos).data)[1].ids) and "\udcff" in kept.ids[0]
        assert "caf?" in (workdir / "report.html").read_text("utf-8")
    chosen = [str(path) for path in workdirs]
    for verb in (["compare", *chosen], ["report", *chosen, f"--output={tmp_path / 'both.html'}"]):
        assert main(verb) == 0, capsys.readouterr().err
    assert "caf?" in (tmp_path / "both.html").read_text("utf-8")
    if "train" in how:
        return
    assert len((workdir / "projector" / "metadata.tsv").read_text("utf-8").splitlines()) == 8
    assert main(["predict", f"--output={tmp_path / 'said.csv'}", f"--workdir={workdir}", str(odd_photos)]) == 0
    assert b"/photos/caf\xe9/\xff" in (tmp_path / "said.csv").read_bytes()


OF_A_FILE = """
import sys
sys.path[:0] = {folders!r}
from test_folder_runs import settings
def get_config():
    return settings({photos!r}, on_error="skip", **{{"head.epochs": 2}})
"""


@pytest.mark.slow
def test_several_processes_say_once_what_they_have_skipped(photos, tmp_path):
    from several import free_port

    spoil(photos)
    here, file = Path(__file__).parent, tmp_path / "of_photos.py"
    tests, folders = here.parent, [str(here), str(here.parent / "support")]
    file.write_text(OF_A_FILE.format(folders=folders, photos=str(photos)))
    command = [sys.executable, str(tests.parent / "train.py"), f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    command += [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    both = [
        subprocess.Popen([*command, f"--process_id={i}"], env=environment, stderr=subprocess.PIPE) for i in range(2)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [[text.count(line) for line in LINES] for text in said] == [[1, 1], [0, 0]]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["skipped"] == FACTS
    for split in FACTS:  # each process has kept the checksums of what it has read
        assert main(["features", "verify", str(tmp_path / "run" / "features" / split)]) == 0


def test_a_comparison_with_pixels_takes_every_image(photos, tmp_path):
    spoil(photos)
    few = {"per_class": 2, "seeds": 1}
    with pytest.raises(TransferError, match="few_shot.baselines compares with the raw pixels of every image"):
        train(photos, tmp_path / "run", on_error="skip", few_shot=few, **{"head.epochs": 1})


def test_few_images_take_no_batch_of_many(photos, tmp_path):
    """A batch is padded to its size, so that eleven images would cost as much as 64."""
    stores, _ = extract(photos, tmp_path / "run", batch_size=64)
    assert [(len(store), store.metadata["batch_size"]) for store in stores.values()] == [(11, 16), (7, 16)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["batch_size"] == 16
    again, _ = extract(photos, tmp_path / "run", batch_size=64)
    for split, store in stores.items():
        assert again[split].metadata["fingerprint"] == store.metadata["fingerprint"]
