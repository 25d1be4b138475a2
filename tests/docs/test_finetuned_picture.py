"""The script of `docs/finetuned.svg` draws what a run and the pretrained network say of the same images."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import transfer
from transfer import config

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("docs_finetuned", DOCS / "finetuned.py")
finetuned = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(finetuned)
SVG = "{http://www.w3.org/2000/svg}"


def words(picture: Path) -> list[str]:
    return [text.text for text in ElementTree.parse(picture).getroot().iter(f"{SVG}text")]


class Certain:
    """A run that takes every image for a seven."""

    class_names = tuple("0123456789")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[np.full(len(images), 7)]


def test_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.default()
    settings.data.validation_fraction = 0.4  # as in configs/finetune_digits.py
    (tmp_path / "config.json").write_text(json.dumps({"data": settings.data.to_dict()}))
    monkeypatch.setattr(transfer, "Predictor", SimpleNamespace(load=lambda workdir: Certain()))
    monkeypatch.setattr(finetuned, "PICTURE", tmp_path / "drawn.svg")
    monkeypatch.setattr(sys, "argv", ["finetuned.py", str(tmp_path)])
    finetuned.main()
    drawn, kept = words(tmp_path / "drawn.svg"), words(DOCS / "finetuned.svg")
    assert [drawn.count(word) for word in ("7", "100%")] == [finetuned.SHOWN] * 2
    # what the pretrained network says is the same on every machine, up to a percent
    assert [drawn[index] for index in range(4, len(drawn), 4)] == [kept[index] for index in range(4, len(kept), 4)]
    assert {"cat", "dog", "bird"} <= set(kept)
