"""The picture holds every line that was measured."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from transfer.bench import plot
from transfer.errors import TransferError

DTYPES = ("float32", "bfloat16")


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
    rows = [row(model, batch, dtype) for model in ("resnet50", "vgg16") for dtype in DTYPES for batch in (1, 8)]
    plot.draw(rows, tmp_path / "plot.svg")
    found = texts(tmp_path / "plot.svg")
    assert {f"{model}, {dtype}" for model in ("resnet50", "vgg16") for dtype in DTYPES} <= found
    assert {"224 px, Some CPU, 2 cores", "images a second", "batch, images", "1", "8"} <= found


def test_a_network_by_itself_stands_beside_its_peers():
    drawn = plot.lines([row(batch=batch, speed=10.0 * batch, peers={"OpenVINO": 2.0}) for batch in (8, 1)])
    assert [(line.who, line.batches) for line in drawn] == [("transfer", [1, 8]), ("OpenVINO", [1, 8])]
    assert drawn[1].images_per_second == [5.0, 40.0] and drawn[1].mfu == [0.25, 0.25]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw([row(batch=1), row(batch=8)], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name, beginning", [("plot.png", rb"\x89PNG"), ("plot.pdf", rb"%PDF")])
def test_other_formats(tmp_path, name, beginning):
    pytest.importorskip("vl_convert")
    plot.draw([row()], tmp_path / name)
    assert re.match(beginning, (tmp_path / name).read_bytes())


def test_speeds_that_lie_decades_apart_are_drawn_by_their_logarithm(tmp_path):
    speeds = {"vgg16": 2.0, "resnet18": 900.0}
    rows = [row(model, batch, speed=speed) for model, speed in speeds.items() for batch in (1, 8)]
    plot.draw(rows, tmp_path / "plot.svg")
    assert {"2", "20", "200", "500"} <= texts(tmp_path / "plot.svg")


def test_an_unknown_peak_leaves_the_line_out(tmp_path):
    plot.draw([{**row(batch=batch), "mfu": None, "peak_source": None} for batch in (1, 8)], tmp_path / "plot.svg")
    assert "MFU, of the peak" in texts(tmp_path / "plot.svg")


def test_nothing_to_draw(tmp_path):
    with pytest.raises(TransferError, match="nothing to draw"):
        plot.draw([row(failed="why")], tmp_path / "plot.svg")
