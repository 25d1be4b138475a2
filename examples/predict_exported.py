"""Classifies images by an exported model, without the package it was made by.

    pip install jax flatbuffers numpy pillow
    python predict_exported.py model.stablehlo photo.jpg another.png

`model.json`, which `python -m transfer export` writes beside it, names the classes. Images of one size may go through
in one batch, (B, height, width, 3) uint8; each new shape is compiled once.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from PIL import Image, ImageOps

if len(sys.argv) < 3:
    sys.exit(f"usage: python {sys.argv[0]} MODEL.stablehlo IMAGE [IMAGE …]")
model, *images = map(pathlib.Path, sys.argv[1:])
names = json.loads(model.with_suffix(".json").read_text())["class_names"]
probabilities_of = jax.jit(export.deserialize(bytearray(model.read_bytes())).call)
for path in images:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    probabilities = np.asarray(probabilities_of(pixels[None]))[0]
    best = int(probabilities.argmax())
    print(f"{path}: {names[best]} {probabilities[best]:.4f}")
