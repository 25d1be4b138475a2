"""What TensorBoard gets: scalars and the projector; read by TensorBoard's own code where it is."""

import io
import os
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import config as settings
from transfer import experiment
from transfer.report import board_projector
from transfer.report.run_data import load


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a few digits that has ended."""
    workdir = tmp_path_factory.mktemp("board") / "run"
    config = settings.default()
    config.model.name, config.tap, config.image_size = "vgg11_slim.cifar10", "block3:avg", 32
    config.data.train_per_class, config.data.validation_per_class = 4, 3
    config.head.epochs, config.report = 2, False
    experiment.train(config, epath.Path(workdir))
    board_projector.write(*load([str(workdir)]))
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_tensorboard_reads_scalars(finished):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(finished))
    events.Reload()
    assert "validation_accuracy" in events.Tags()["scalars"] and not events.Tags()["images"]


def test_tensorboards_projector_serves_it(finished):
    """Its plugin, asked as the browser asks it."""
    plugin_module = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins import base_plugin
    from werkzeug.test import Client

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(finished))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(finished))
    plugin = plugin_module.ProjectorPlugin(base_plugin.TBContext(logdir=str(finished), data_provider=provider))
    apps = plugin.get_plugin_apps()
    (run,) = Client(apps["/runs"]).get("/").json
    (embedding,) = Client(apps["/info"]).get(f"/?run={run}").json["embeddings"]
    count, width = embedding["tensorShape"]
    where = f"/?run={run}&name={embedding['tensorName']}"
    tensor = np.frombuffer(Client(apps["/tensor"]).get(where).data, np.float32).reshape(count, width)
    assert count == 30 and np.isfinite(tensor).all() and np.abs(tensor.mean(axis=0)).max() < 1e-3
    lines = Client(apps["/metadata"]).get(where).text.splitlines()
    assert len(lines) == count + 1 and lines[0].split("\t")[:2] == ["id", "class"]
    sprite = Image.open(io.BytesIO(Client(apps["/sprite_image"]).get(where).data))
    assert sprite.size == (6 * board_projector.SIDE,) * 2


def test_points_keep_the_distances_of_the_features(finished):
    (run,) = load([str(finished)])
    features = run.features(np.arange(30)).astype(np.float64)
    points = np.loadtxt(finished / "projector" / "tensors.tsv", delimiter="\t")
    centred = features - features.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    assert np.allclose(np.linalg.norm(points, axis=0)[:5], values[:5], rtol=1e-2)


def test_metadata_says_what_the_predictions_say(finished):
    (run,) = load([str(finished)])
    lines = (finished / "projector" / "metadata.tsv").read_text().splitlines()[1:]
    found = run.predictions
    names = found.class_names
    for row, line in enumerate(lines):
        id_, actual, said, right = line.split("\t")
        assert (id_, actual, said) == (str(found.ids[row]), names[found.labels[row]], names[found.top[row, 0]])
        assert right == ("right" if found.right[row] else "wrong")


def test_is_written_once_and_again_where_the_predictions_are_newer(workdir):
    config = workdir / board_projector.CONFIG
    before = config.stat().st_mtime_ns
    board_projector.write(*load([str(workdir)]))
    assert config.stat().st_mtime_ns == before
    os.utime(config, (0, 0))
    board_projector.write(*load([str(workdir)]))
    assert config.stat().st_mtime > 0


@pytest.mark.parametrize("missing", ["features", "predictions.npz"])
def test_runs_without_what_it_needs(workdir, missing):
    (workdir / board_projector.CONFIG).unlink()
    shutil.move(workdir / missing, workdir / "elsewhere")
    board_projector.write(*load([str(workdir)]))
    assert not (workdir / board_projector.CONFIG).exists()


@pytest.mark.parametrize("text", ["a\tb", "a\nb", " ", "<b>é</b>"])
def test_a_name_is_one_cell(text):
    cell = board_projector._cell(text)
    assert cell and not set(cell) & set("\t\n\r")
