"""Runs on a folder of small images of one's own: what is said of them, and what becomes of those that go wrong."""

import io
import logging

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import config, experiment
from transfer.errors import TransferError


def png(seed: int) -> bytes:
    """A PNG of 32x32, of the same size for each seed: noise does not compress."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Three class folders of six images."""
    folder = tmp_path / "photos"
    for label, name in enumerate(("cat", "dog", "eel")):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            (folder / name / f"{number}.png").write_bytes(png(10 * label + number))
    return folder


def settings(photos, **changed):
    chosen = config.default()
    chosen.model.name, chosen.tap, chosen.image_size, chosen.batch_size = "vgg11_slim.cifar10", "block2:avg", 32, 4
    chosen.data.source, chosen.data.validation_fraction, chosen.head.epochs = f"folder:{photos}", 0.34, 2
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
