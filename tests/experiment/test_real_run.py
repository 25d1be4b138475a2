"""The road of `configs/cifar10_vgg16.py` on a few real images: zip to store equals Keras on Pillow's pixels."""

import importlib.util
import zipfile
from io import BytesIO
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import experiment

CONFIG = Path(__file__).parents[2] / "configs" / "cifar10_vgg16.py"


@pytest.mark.slow
def test_features_equal_keras_for_the_same_file_and_pixels(shared_data, tmp_path):
    import keras

    spec = importlib.util.spec_from_file_location("cifar10_vgg16", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    weights, images = shared_data / "vgg16_keras_notop.h5", shared_data / "cifar10_jpeg.zip"
    config.model.weights, config.data.source = str(weights), f"folder:{images}"
    config.data.train_per_class = config.data.validation_per_class = 1
    config.batch_size = 5
    stores, _ = experiment.extract(config, epath.Path(tmp_path))

    model = keras.applications.VGG16(weights=str(weights), include_top=False, pooling="avg")
    with zipfile.ZipFile(images) as archive:
        for split, folder in (("train", "train"), ("validation", "test")):
            store = stores[split]
            assert len(store) == 10 and sorted(store.labels) == list(range(10))
            pixels = []
            for row in (2, 9):
                name = next(n for n in archive.namelist() if n.startswith(folder) and n.endswith(store.ids[row]))
                assert store.class_names[store.labels[row]] in name
                image = Image.open(BytesIO(archive.read(name))).resize((224, 224), Image.Resampling.BILINEAR)
                pixels.append(np.asarray(image, np.float32))
            with jax.default_matmul_precision("highest"):
                theirs = np.asarray(model(keras.applications.vgg16.preprocess_input(np.stack(pixels))))
            ours = store.features[:][[2, 9]]
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
