"""Writes `hub.json.gz`: repositories as timm and transformers write them, and what these libraries make of an image.

Needs torch, torchvision, timm and transformers (CPU is enough), which the tests do not: `python golden/make_hub.py` in
`tests`, which must be on the path. Weights are those of `golden.seeded`, made from names and shapes alone, so that only
texts and outputs are kept.
"""

import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from golden import seeded
from PIL import Image
from safetensors import safe_open
from timm.models._hub import save_for_hf
from torch import nn
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, ResNetModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

HERE = Path(__file__).parent
# timm's models have the published widths, divided by this.
NARROW = 32
IMAGE = (97, 131)
LABELS = ["cat", "dog", "newt"]


def narrowed(name: str, **arguments: Any) -> nn.Module:
    """timm's model with 1/32 of the channels, the tensors by `golden.seeded`."""
    model = timm.create_model(name, num_classes=len(LABELS), **arguments)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            outputs, inputs, *kernel = module.weight.shape
            inputs = inputs if inputs == 3 else inputs // NARROW
            module.weight = nn.Parameter(torch.zeros(outputs // NARROW, inputs, *kernel))
        if isinstance(module, nn.BatchNorm2d):
            zeros = torch.zeros(module.num_features // NARROW)
            module.weight, module.bias = nn.Parameter(zeros.clone()), nn.Parameter(zeros.clone())
            module.running_mean, module.running_var = zeros.clone(), zeros.clone()
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.zeros(module.out_features, module.in_features // NARROW))
    return filled(model)


def filled(model: nn.Module) -> nn.Module:
    """The model in evaluation, with the tensors that its names stand for."""
    state = seeded.state_dict({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(np.asarray(tensor)) for name, tensor in state.items()})
    return model.eval()


def kept(folder: Path) -> dict[str, Any]:
    """The texts of a repository as they are, and of its tensors the names and shapes."""
    texts = {path.name: json.loads(path.read_text()) for path in folder.iterdir() if path.suffix == ".json"}
    shapes: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {"texts": texts, "shapes": dict(sorted(shapes.items()))}


def outputs(pixels: torch.Tensor, values: torch.Tensor) -> dict[str, Any]:
    """A sample of the network's input (H, W, C), and all of its output."""
    image = pixels.numpy().transpose(1, 2, 0)
    return {"shape": image.shape, "input": seeded.sample(image).tolist(), "output": values.flatten().tolist()}


def of_timm(name: str, labels: bool = True, **arguments: Any) -> dict[str, Any]:
    model, image = narrowed(name, **arguments), Image.fromarray(seeded.pixels(*IMAGE))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        config = {"label_names": LABELS} if labels else None
        save_for_hf(model, folder, model_config=config, safe_serialization=True)
        pixels = transform(image)
        return kept(Path(folder)) | outputs(pixels, model(pixels[None])[0])


def of_transformers(kind: Any, size: int, shards: bool = False, **fields: Any) -> dict[str, Any]:
    names = dict(enumerate(LABELS))
    config = ResNetConfig(id2label=names, label2id={name: number for number, name in names.items()}, **fields)
    model, image = filled(kind(config)), Image.fromarray(seeded.pixels(*IMAGE))
    processor = ConvNextImageProcessor(size={"shortest_edge": size}, crop_pct=0.875, resample=3)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder, max_shard_size="30KB" if shards else "1GB")
        processor.save_pretrained(folder)
        # Pillow's resizing is the definition; torch's of 8 bits is one level off here and there
        pixels = ConvNextImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        made = model(pixels)
        return kept(Path(folder)) | outputs(pixels[0], made.logits if hasattr(made, "logits") else made.pooler_output)


def main() -> None:
    """Writes the golden file."""
    basic = dict(embedding_size=2, hidden_sizes=[2, 4, 8, 16], depths=[2, 2, 2, 2], layer_type="basic")
    wide = dict(embedding_size=2, hidden_sizes=[8, 16, 32, 64], depths=[3, 4, 6, 3])
    repositories: Mapping[str, Any] = {
        "timm/resnet18.a1_in1k": of_timm("resnet18.a1_in1k"),
        "timm/resnet50.tv_in1k": of_timm("resnet50.tv_in1k", labels=False),
        "timm/resnet18_silu": of_timm("resnet18", act_layer="silu"),
        "microsoft/resnet-18": of_transformers(ResNetForImageClassification, 64, **basic),
        "microsoft/resnet-50": of_transformers(ResNetForImageClassification, 64, shards=True, **wide),
        "someone/strided": of_transformers(ResNetModel, 384, downsample_in_bottleneck=True, **wide),
    }
    made_with = {library.__name__: library.__version__.partition("+")[0] for library in (timm, torch, transformers)}
    text = json.dumps({"made_with": made_with, "repositories": repositories}, separators=(",", ":"))
    (HERE / "hub.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    print({name: len(json.dumps(repository)) for name, repository in repositories.items()})


if __name__ == "__main__":
    main()
