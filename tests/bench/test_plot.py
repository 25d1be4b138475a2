"""The picture holds every line that was measured."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from transfer.bench import plot
from transfer.errors import TransferError

pytest.importorskip("matplotlib")


def row(model="resnet50", batch=1, dtype="float32", speed=10.0, peers=None, failed=None):
    return {
        "kind": "extractor",
        "failed": failed,
        "model": model,
        "batch": batch,
        "dtype": dtype,
        "image_size": [224, 224],
        "images_per_second": speed,
        "mfu": 0.5,
        "peak_source": "matmul",
        "peers": {name: {"ratio": ratio, "images_per_second": speed / ratio} for name, ratio in (peers or {}).items()},
        "platform": "cpu",
        "processor": "Some CPU",
        "cores": 2,
        "devices": 2,
        "device_kind": "cpu",
    }


def texts(path):
    return {element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")}


def test_networks_and_dtypes_have_a_line_each(tmp_path):
    rows = [row(model, batch, dtype) for model in ("resnet50", "vgg16") for dtype in plot.DASHES for batch in (1, 8)]
    plot.draw(rows, tmp_path / "plot.svg")
    found = texts(tmp_path / "plot.svg")
    assert {f"{model}, {dtype}" for model in ("resnet50", "vgg16") for dtype in plot.DASHES} <= found
    assert {"224 px, Some CPU, 2 cores", "images a second", "batch, images", "1", "8"} <= found


def test_a_network_by_itself_stands_beside_its_peers():
    drawn = plot.lines([row(batch=batch, speed=10.0 * batch, peers={"OpenVINO": 2.0}) for batch in (8, 1)])
    assert [(line.who, line.batches) for line in drawn] == [("transfer", [1, 8]), ("OpenVINO", [1, 8])]
    assert drawn[1].images_per_second == [5.0, 40.0] and drawn[1].mfu == [0.25, 0.25]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw([row(batch=1), row(batch=8)], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png(tmp_path):
    plot.draw([row()], tmp_path / "plot.png")
    assert re.match(rb"\x89PNG", (tmp_path / "plot.png").read_bytes())


def test_nothing_to_draw(tmp_path):
    with pytest.raises(TransferError, match="nothing to draw"):
        plot.draw([row(failed="why")], tmp_path / "plot.svg")
