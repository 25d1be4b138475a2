"""`python -m transfer bench --input`: from its flags to rows that a reader can check, and a table."""

import json

import numpy as np
import pytest
from PIL import Image

from transfer import __main__ as program
from transfer.bench import input as benchmark
from transfer.bench import photographs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FLAGS = ["bench", "--input", "--rounds=2", "--seconds=0", "--models=vgg11_slim.cifar10", "--batch=2"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "FILES", 6)
    monkeypatch.setattr(benchmark, "FOLDERS", {"same": [(40, 50)], "mixed": [(96, 64), (40, 50)]})


@pytest.mark.slow
def test_rows_and_table(small, tmp_path, capsys):
    output = tmp_path / "input.json"
    assert program.main([*FLAGS, "--image_size=32", f"--output={output}"]) == 0
    rows = json.loads(output.read_text())["rows"]
    loading, passes = rows[:2], rows[2:]
    assert [row["case"] for row in loading] == ["same", "mixed"]
    assert [row["case"] for row in passes] == ["same", "mixed", benchmark.IN_MEMORY]
    assert set(loading[0]["seconds"]) == {"Pillow draft + decode", "Pillow decode + resize", "ours"}
    assert set(loading[1]["seconds"]) == {*loading[0]["seconds"], "ours, device resizes", "ours, draft"}
    for row in loading:
        assert row["ratio"]["Pillow draft + decode"] == 1
        assert all(len(taken) == 2 and min(taken) > 0 for taken in row["seconds"].values())
    for row in passes:
        assert row["images"] >= 2 * benchmark.FEWEST_BATCHES
        each = zip(row["seconds"]["compute"], row["seconds"]["end to end"], strict=True)
        assert row["ratio"] == pytest.approx(np.median([compute / whole for compute, whole in each]))
    table = capsys.readouterr().out
    assert "x Pillow draft + decode" in table and "end to end" in table and benchmark.IN_MEMORY in table


@pytest.mark.slow
def test_of_the_users_own_images(small, tmp_path, capsys):
    photographs.write(tmp_path / "mine", [(33, 44)], 3)
    assert program.main([*FLAGS, f"--images={tmp_path / 'mine'}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["case"] for row in rows] == [str(tmp_path / "mine")] * 2 + [benchmark.IN_MEMORY]


@pytest.mark.parametrize("flags, words", [(["--folders=huge"], "same, mixed"), (["--head"], "take one")])
def test_wrong_flags(small, flags, words, capsys):
    assert program.main([*FLAGS, *flags]) == 2
    assert words in capsys.readouterr().err


def test_photographs_are_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        photographs.write(tmp_path / name, [(30, 40), (40, 30)], 4, seed=3)
    first, second = ([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jpg"))] for name in "ab")
    assert first == second and len(first) == 4
    with Image.open(tmp_path / "a" / "a" / "00001.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (30, 40))
