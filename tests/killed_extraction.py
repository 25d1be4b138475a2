"""Run as a program: `python tests/killed_extraction.py STORE POINT …` extracts into STORE, killed at each POINT.

A point is a number of files in the store.
"""

import os
import sys
from functools import partial
from pathlib import Path

from killing import run_and_kill
from tiny_model import RECIPE, TinyModel, TinySource

from transfer.extract import Extractor, extract_to_store

BROKEN = (6, 40, 41)


def extract(store: Path, seconds: float = 0.0) -> None:
    source = TinySource(rows=61, broken=BROKEN, seconds=seconds)
    extractor = Extractor(TinyModel(), tap=["pre_logits", "block1"], batch_size=4, preprocessing=RECIPE)
    extract_to_store(extractor, source, store, on_error="skip")


def count(store: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(store))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    run_and_kill(partial(extract, target, seconds=0.005), partial(count, target), map(int, sys.argv[2:]))
