"""Records what Hugging Face transformers' own ResNets compute, for the tests of their names.

    pip install torch transformers && python tests/golden/make_transformers.py

The weights come from `seeded.py`, so only names, shapes and outputs are stored, in `transformers.json`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import seeded
import torch
import transformers
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

HERE = Path(__file__).parent
SIZE = (2, 65, 97, 3)
SLIM = dict(embedding_size=4, num_labels=10)
BASIC = SLIM | dict(layer_type="basic", hidden_sizes=[4, 8, 16, 32], depths=[2, 2, 2, 2])
BOTTLENECK = SLIM | dict(layer_type="bottleneck", hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3])
STRIDED = BOTTLENECK | dict(downsample_in_bottleneck=True)

# Name -> our architecture, our fields, their class and its configuration.
CASES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "basic": ("resnet18", {}, ResNetForImageClassification, BASIC),
    "bottleneck": ("resnet50", {}, ResNetForImageClassification, BOTTLENECK),
    "bottleneck, stride in 1x1": ("resnet50", {"stride_in_1x1": True}, ResNetForImageClassification, STRIDED),
    "without its head": ("resnet18", {}, ResNetModel, BASIC),
}


def record(arch: str, fields: dict[str, Any], kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A model's tensors, and its logits (or pooled features) for seeded images."""
    model = kind(ResNetConfig(**config)).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    pixels = torch.from_numpy(seeded.images(SIZE).astype(np.float64).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        outputs = model.double()(pixels)
    values = outputs.logits if hasattr(outputs, "logits") else outputs.pooler_output[:, :, 0, 0]
    return dict(arch=arch, fields=fields, shapes=shapes, outputs=[[float(f"{v:.8g}") for v in row] for row in values])


def main() -> None:
    """Writes the file."""
    cases = {name: record(*case) for name, case in CASES.items()}
    content = dict(made_with=transformers.__version__, size=SIZE, cases=cases)
    (HERE / "transformers.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    for name, case in cases.items():
        print(name, np.abs(case["outputs"]).max())


if __name__ == "__main__":
    main()
