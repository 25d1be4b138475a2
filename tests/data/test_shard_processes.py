"""Features of shards: several real processes, of which one dies and others go on; images that change in place."""

import signal

import numpy as np
import pyarrow.parquet
import pytest
from real_formats import CLASSES, encoded, image_table, pixels, shard_files, tar_bytes, write_files
from tiny_model import RECIPE, TinyModel

from transfer.data import open_source
from transfer.errors import TransferError
from transfer.extract import Extractor, extract_to_store
from transfer.store.store import FeatureStore

pytestmark = pytest.mark.slow

SHARDS = (slice(0, 20), slice(20, 61))


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_shards_are_gone_on_with_by_others(several, tmp_path, monkeypatch, kind):
    """One of three processes dies, two go on, and the store is that of one that read the same images from a folder."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    images, labels, store = pixels(61, 12, 12), np.arange(61) % 3, tmp_path / "store"
    (tmp_path / kind).mkdir()
    for shard, rows in enumerate(SHARDS):
        path = tmp_path / kind / f"train-{shard}"
        if kind == "wds":
            names = [CLASSES[label] for label in labels[rows]]
            path.with_suffix(".tar").write_bytes(tar_bytes(shard_files(images[rows], names, rows.start)))
        else:
            table = image_table(images[rows], labels[rows])
            pyarrow.parquet.write_table(table, path.with_suffix(".parquet"), row_group_size=7)
    settings = {"spec": f"{kind}:{tmp_path / kind}", "store": str(store)}
    when = (str(store), 24)
    ended = several.run("extract", settings | {"seconds": 0.02}, 3, send=signal.SIGKILL, to=[1], when=when)
    assert ended[1].code == -signal.SIGKILL
    assert not FeatureStore.open(store, incomplete=True).complete
    ended = several.run("extract", settings, 2)
    assert [one.code for one in ended] == [0, 0] and "going on" in ended[0].err, ended[0].err

    of_folder = {f"{CLASSES[label]}/{row:06d}.png": encoded(images[row]) for row, label in enumerate(labels)}
    source = open_source(f"folder:{write_files(tmp_path / 'folder', of_folder)}")
    extractor = Extractor(TinyModel(), tap="pre_logits", batch_size=4, preprocessing=RECIPE)
    wanted, found = extract_to_store(extractor, source, tmp_path / "of folder"), FeatureStore.open(store)
    order = np.argsort([id_.split("/")[-1] for id_ in wanted.ids])
    np.testing.assert_array_equal(found.labels, wanted.labels[:][order])
    np.testing.assert_allclose(found.tap("pre_logits")[:], wanted.tap("pre_logits")[:][order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_an_image_that_changed_in_its_shard_is_noticed(kind, tmp_path, monkeypatch):
    """At the same size, so that the listing is the same."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    images, folder = pixels(6, 12, 12), tmp_path / kind
    folder.mkdir()
    extractor = Extractor(TinyModel(), tap="pre_logits", batch_size=4, preprocessing=RECIPE)

    def extract():
        data = [encoded(image, "PPM") for image in images]
        if kind == "wds":
            files = {f"{row}.ppm": image for row, image in enumerate(data)}
            (folder / "a.tar").write_bytes(tar_bytes(files | {f"{row}.cls": b"%d" % (row % 2) for row in range(6)}))
        else:
            table = pyarrow.table({"image": data, "label": [0, 1] * 3})
            pyarrow.parquet.write_table(table, folder / "a.parquet", compression="none", use_dictionary=False)
        return extract_to_store(extractor, open_source(f"{kind}:{folder}"), tmp_path / "store")

    assert len(extract()) == len(extract()) == 6  # written anew, and the same
    images[3] = 255 - images[3]
    with pytest.raises(
        TransferError, match="made from other images: 1 image changed: a.(tar/3|parquet/000003); choose"
    ):
        extract()
