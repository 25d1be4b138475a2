"""Validation rows that are training rows: told by files or by features, counted and named."""

import zlib

import numpy as np
import pytest

from transfer.store import duplicates
from transfer.store.duplicates import Rows


def rows(count, seed, content=None):
    features = np.random.default_rng(seed).normal(size=(count, 3, 2)).astype(np.float32)
    return Rows(features, [f"{seed}/{row}.png" for row in range(count)], content)


@pytest.mark.parametrize("block", [2, 1024])
def test_rows_of_equal_features_are_found(monkeypatch, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    train, validation = rows(20, 1), rows(9, 2)
    for row, twin in ((7, 3), (2, 19), (5, 3)):
        validation.features[row] = train.features[twin]
    facts = duplicates.facts(train, validation)
    first = [["2/2.png", "1/19.png"], ["2/5.png", "1/3.png"], ["2/7.png", "1/3.png"]]
    assert facts == {"images": 3, "of": 9, "by": "features", "first": first}
    assert duplicates.line(facts) == (
        "3 of 9 validation images are training images too, by the same features: 2/2.png (= 1/19.png), "
        "2/5.png (= 1/3.png), 2/7.png (= 1/3.png); the measures on them say nothing of new images"
    )
    assert duplicates.facts(train, rows(9, 3)) is None


def test_files_of_one_checksum_are_one_image_if_their_features_are_but_for_rounding():
    """Thirty-two bits are equal by chance, in a pair of two hundred thousand images."""
    files = [zlib.crc32(bytes([number])) for number in range(8)]
    train, validation = rows(8, 1, np.array(files)), rows(3, 2, np.array([files[6], files[2], 12345]))
    validation.features[1] = train.features[2] * np.float32(1 + 1e-6)
    assert duplicates.facts(train, validation) == {
        "images": 1, "of": 3, "by": "file", "first": [["2/1.png", "1/2.png"]]
    }  # fmt: skip


def test_what_is_named_is_few_and_one_is_one():
    facts = {"images": 9, "of": 9, "by": "pixels", "first": [[str(row)] * 2 for row in range(5)]}
    assert "by the same pixels: 0, 1, 2, 3, 4, …; the measures" in duplicates.line(facts)
    facts = {"images": 1, "of": 9, "by": "file", "first": [["a.png", "a.png"]]}
    said = duplicates.line(facts)
    assert said.startswith("1 of 9 validation images is a training image too, by the same file: a.png; the measures")


def test_rows_without_checksums_are_not_read_where_they_are_too_many(monkeypatch):
    train, validation = rows(20, 1), rows(20, 1)
    assert duplicates.facts(train, validation)["images"] == 20
    monkeypatch.setattr(duplicates, "MOST_BYTES", 40 * 24 - 1)
    assert duplicates.facts(train, validation) is None
    files = np.arange(20)
    assert duplicates.facts(train._replace(content=files), validation._replace(content=files))["by"] == "file"
