"""Batches come in order, of one shape, with every row accounted for."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from real_formats import encoded, pixels, write_files

from transfer.data import frames, open_source, select
from transfer.data.loader import batches, load_all
from transfer.data.source import ArraySource, BrokenImage
from transfer.errors import TransferError, UsageError
from transfer.preprocess import recipe as preprocess
from transfer.preprocess.recipe import Preprocessing

RECIPE = Preprocessing((6, 6))
IMAGES = pixels(23, 5, 4)
SOURCE = ArraySource("array", IMAGES, np.zeros(23, int))


@settings(max_examples=30, deadline=None)
@given(
    start=st.integers(0, 22),
    length=st.integers(0, 23),
    batch_size=st.integers(1, 9),
    prefetch=st.integers(0, 3),
    workers=st.integers(1, 5),
)
def test_every_row_once_and_in_order(start, length, batch_size, prefetch, workers):
    stop = min(start + length, 23)
    rows = []
    for batch in batches(SOURCE, start, stop, batch_size, RECIPE, prefetch=prefetch, workers=workers):
        assert batch.images.shape == (batch_size, 5, 4, 3) and batch.images.dtype == np.uint8
        assert batch.start == start + len(rows) and not batch.failed
        assert not batch.images[batch.size :].any()
        rows.extend(batch.images[: batch.size])
    assert len(rows) == stop - start
    if rows:
        np.testing.assert_array_equal(rows, IMAGES[start:stop])


@pytest.fixture
def mixed(tmp_path):
    """Images of two sizes, two of them broken, and their pixels by id."""
    images = [pixels(1, 9 + i % 2, 7, i)[0] for i in range(12)]
    files = {f"{'ab'[i % 2]}/{i:02d}.png": encoded(image) for i, image in enumerate(images)}
    files["a/04.png"], files["b/11.png"] = files["a/04.png"][:40], b""
    source = open_source(f"folder:{write_files(tmp_path, files)}")
    return source, {id_: images[int(id_[2:4])] for id_ in source.ids}


@pytest.mark.parametrize("resize, dtype", [("pil", np.uint8), ("float", np.float32)])
def test_mixed_sizes_are_resized_and_broken_images_are_skipped_by_name(mixed, resize, dtype):
    source, images = mixed
    recipe = Preprocessing((6, 6), resize=resize)
    seen, failed = 0, []
    for batch in batches(source, 0, 12, 5, recipe, on_error="skip", workers=3):
        assert batch.images.shape == (5, 6, 6, 3) and batch.images.dtype == dtype
        for row in range(batch.start, batch.start + batch.size):
            image = batch.images[row - batch.start]
            if row in batch.failed:
                assert not image.any()
            else:
                np.testing.assert_array_equal(image, preprocess.resize_on_host(recipe, images[source.ids[row]]))
        seen, failed = seen + batch.size, failed + batch.failed
    assert seen == 12
    assert [source.ids[row] for row in failed] == ["a/04.png", "b/11.png"]


def test_a_broken_image_raises_where_the_batches_are_used(mixed):
    source, _ = mixed
    with pytest.raises(BrokenImage, match="a/04.png"):
        list(batches(source, 0, 12, 5, RECIPE))
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]
    assert not threads


def test_any_error_in_a_thread_reaches_the_consumer():
    class Failing(ArraySource):
        def image(self, index):
            if index == 17:
                raise ZeroDivisionError("a bug")
            return super().image(index)

    failing = Failing("failing", IMAGES, np.zeros(23, int))
    with pytest.raises(ZeroDivisionError):
        list(batches(failing, 0, 23, 4, RECIPE, on_error="skip"))


def test_batches_are_decoded_ahead_and_no_further():
    class Slow(ArraySource):
        read = 0

        def image(self, index):
            self.read = max(self.read, index + 1)
            return super().image(index)

    slow = Slow("slow", IMAGES, np.zeros(23, int))
    stream = batches(slow, 0, 23, 2, RECIPE, prefetch=2, workers=2)
    next(stream)
    deadline = time.monotonic() + 10
    while slow.read < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert slow.read == 8  # the batch in use, two ahead, and the one that took its place
    stream.close()
    assert slow.read == 8


def test_what_waits_to_be_decoded_is_dropped_when_nobody_wants_it():
    class Slow(ArraySource):
        read = 0

        def image(self, index):
            self.read += 1
            time.sleep(0.02)
            return super().image(index)

    slow = Slow("slow", IMAGES, np.zeros(23, int))
    stream = batches(slow, 0, 23, 2, RECIPE, prefetch=20, workers=1)
    next(stream)
    stream.close()
    assert slow.read < 12


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("canvases", [False, True], ids=["host", "device"])
def test_batches_before_a_broken_image_arrive_first(mixed, canvases):
    source, _ = mixed
    arrived = []
    with pytest.raises(BrokenImage, match="a/04.png"):  # 11 is broken as well, and may be seen first
        for batch in batches(source, 0, 12, 1, RECIPE, workers=4, prefetch=12, canvases=canvases):
            arrived.append(batch.start)
    assert arrived == [source.ids.index(id_) for id_ in source.ids[: source.ids.index("a/04.png")]]
    assert not decoding_threads()


def test_threads_end_in_the_midst_of_a_batch_that_nobody_wants():
    class Slow(ArraySource):
        def image(self, index):
            time.sleep(0.0 if index < 1000 else 0.05)
            return super().image(index)

    slow = Slow("slow", IMAGES.repeat(100, 0), np.zeros(2300, int))
    stream = batches(slow, 0, 2300, 1000, RECIPE, workers=2)
    next(stream)
    assert decoding_threads()
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 5  # to the end of its batch it is 25 seconds
    assert not decoding_threads()


def test_memory_is_bounded_and_goes_round():
    stream = batches(SOURCE, 0, 23, 1, RECIPE, prefetch=2, workers=2)
    addresses, kept = set(), None
    for batch in stream:
        addresses.add(batch.images.__array_interface__["data"][0])
        if batch.start == 3:
            kept = batch
    assert len(addresses) <= 6  # what is kept, in use, prefetched, and on its way
    np.testing.assert_array_equal(kept.images[0], IMAGES[3])  # nothing has overwritten it


def test_a_draft_is_a_smaller_jpeg_resized(tmp_path):
    image = Image.fromarray(IMAGES[0]).resize((80, 48), Image.Resampling.BICUBIC)
    source = open_source(f"folder:{write_files(tmp_path, {'a/1.jpg': encoded(np.asarray(image), 'JPEG')})}")
    recipe = Preprocessing((12, 12), resize="draft")
    with Image.open(tmp_path / "a/1.jpg") as shrunk:
        shrunk.draft("RGB", (12, 12))
        assert shrunk.size == (20, 12)
        expected = np.asarray(shrunk.resize((12, 12), Image.Resampling.BILINEAR))
    (batch,) = batches(source, 0, 1, 1, recipe)
    np.testing.assert_array_equal(batch.images[0], expected)
    np.testing.assert_array_equal(load_all(source, recipe)[0], expected)
    assert not np.array_equal(expected, load_all(source, Preprocessing((12, 12)))[0])


def test_large_images_are_resized_before_they_travel(monkeypatch):
    monkeypatch.setattr(frames, "LARGEST_ON_DEVICE", 19)
    batch = next(batches(SOURCE, 3, 5, 2, RECIPE))
    np.testing.assert_array_equal(batch.images[1], preprocess.resize_on_host(RECIPE, IMAGES[4]))
    assert next(batches(SOURCE, 3, 5, 2, None)).images.shape == (2, 5, 4, 3)


def test_mixed_sizes_need_a_size(mixed):
    with pytest.raises(TransferError, match="several sizes"):
        next(batches(mixed[0], 0, 12, 5, None))


def test_an_unknown_way_to_treat_errors():
    with pytest.raises(UsageError, match="raise, skip"):
        next(batches(SOURCE, 0, 3, 2, None, on_error="ignore"))


def test_load_all_of_a_selection():
    rows = np.random.default_rng(0).integers(0, 23, 1000)
    np.testing.assert_array_equal(load_all(select(SOURCE, rows)), IMAGES[rows])
