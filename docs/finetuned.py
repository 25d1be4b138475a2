"""Draws what a network predicts before and after it was trained on other images: docs/finetuned.svg.

python train.py --config=configs/finetune_digits.py --workdir=runs/digits_all
python docs/finetuned.py runs/digits_all
"""

import argparse
import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

import transfer
from transfer.data.splits import make_splits

PICTURE = Path(__file__).with_name("finetuned.svg")
PRETRAINED = "vgg11_slim.cifar10"
# The classes that the pretrained network knows, in the order of its classifier.
KNOWN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHOWN, SIDE, GAP, TOP, LEFT = 8, 64, 20, 28, 90
BEFORE, AFTER = "#8a4b00", "#0b5cad"
STYLE = 'font-family="sans-serif" font-size="12" text-anchor="middle"'


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of logits (N, C)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def likeliest(probabilities: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The name of the likeliest class of each row and its probability as text."""
    return [(names[row.argmax()], f"{row.max():.0%}") for row in probabilities]


def column(index: int, image: np.ndarray, before: tuple[str, str], after: tuple[str, str]) -> str:
    """SVG of one image with what is said of it before, above, and after, below."""
    png = io.BytesIO()
    Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    x = LEFT + index * (SIDE + GAP)
    box = f'x="{x}" y="{TOP + GAP + 6}" width="{SIDE}" height="{SIDE}"'
    return "\n".join([f'<image {box} href="data:image/png;base64,{data}"/>', *texts(x + SIDE / 2, before, after)])


def texts(middle: float, before: tuple[str, str], after: tuple[str, str]) -> list[str]:
    """SVG of the two lines above an image and the two below it."""
    foot = TOP + 2 * GAP + SIDE
    lines = [(TOP, before[0], BEFORE), (TOP + 16, before[1], BEFORE)]
    lines += [(foot + 12, after[0], AFTER), (foot + 28, after[1], AFTER)]
    return [f'<text x="{middle}" y="{y}" fill="{colour}" {STYLE}>{text}</text>' for y, text, colour in lines]


def main() -> None:
    """Writes the picture, of the first validation images of a run of `configs/finetune_digits.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="the finished run")
    workdir = parser.parse_args().workdir
    predictor = transfer.Predictor.load(workdir)
    _, validation = make_splits(json.loads(Path(workdir, "config.json").read_text())["data"])
    images = np.stack([validation.image(index) for index in range(SHOWN)])
    logits = transfer.Extractor(transfer.create_model(PRETRAINED), tap="logits")(images)
    before = likeliest(softmax(np.asarray(logits)), KNOWN)
    after = likeliest(predictor(images), tuple(predictor.class_names))
    columns = [column(index, *found) for index, found in enumerate(zip(images, before, after, strict=True))]
    width, height = LEFT + SHOWN * (SIDE + GAP), TOP + 3 * GAP + SIDE + 32
    titles = texts(LEFT / 2, ("pretrained", "probability"), ("fine-tuned", "probability"))
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    drawn = "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', ground, *titles, *columns, "</svg>"])
    PICTURE.write_text(drawn + "\n", "utf-8")


if __name__ == "__main__":
    main()
