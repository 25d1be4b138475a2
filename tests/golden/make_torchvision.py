"""Records what torchvision's and timm's own models compute, for the parity tests; writes the files beside it.

    pip install torch torchvision timm && python tests/golden/make_torchvision.py

The weights come from `seeded.py`, so only outputs are stored: `torchvision.npz` holds samples of every tap of the
models of `torch_models.py`, computed in float64 for one image and for three, at the published size and at one that is
odd and not square. The `.pth` files are what PyTorch really writes, in both of its formats.
"""

import collections
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seeded
import timm
import torch
import torch_models
import torchvision
from torch import nn

HERE = Path(__file__).parent
# Larger than this, or smaller than its inverse, a tap would say little: seeded weights keep values near 1.
SANE = 1000


def outputs(model: nn.Module, taps: Mapping[str, str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tap, NHWC or (B, C), float64; `pre_logits` is the mean of the last feature map."""
    found: dict[str, np.ndarray] = {}

    def keep(tap: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            values = output.detach().clone().numpy()  # the next activation may work in place
            if values.ndim == 4 and values.shape[2:] == (1, 1) and tap.startswith("fc"):
                values = values[:, :, 0, 0]
            found[tap] = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keep(tap)) for tap, name in taps.items()]
    with torch.inference_mode():
        model(torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2).copy()))
    for handle in handles:
        handle.remove()
    last = [values for values in found.values() if values.ndim == 4][-1]
    found["pre_logits"] = last.mean(axis=(1, 2))
    return found


def fill(model: nn.Module) -> dict[str, list[int]]:
    """Puts the seeded weights into `model`; returns its state dict's names and shapes."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    model.eval()
    return shapes


class Golden:
    """Collects cases and writes them as one file: samples by case, and an index in JSON."""

    def __init__(self) -> None:
        self.samples: dict[str, np.ndarray] = {}
        self.index: dict[str, Any] = {}

    def add(self, name: str, case: torch_models.Case) -> None:
        """Runs a model at every size and keeps samples, the largest absolute value and the norm of every tap."""
        model = case.make()
        shapes = fill(model)
        model.double()
        rows, pieces = [], []
        for size in case.sizes:
            for tap, values in outputs(model, case.taps, seeded.images(size)).items():
                pieces.append(seeded.sample(values))
                largest, norm = float(np.abs(values).max()), float(np.linalg.norm(values))
                require_sane(f"{name} {size} {tap}", values)
                rows.append(
                    dict(size=size, tap=tap, shape=values.shape, largest=largest, norm=norm, samples=pieces[-1].size)
                )
        self.samples[name] = np.concatenate(pieces)
        fields = dict(case.fields)
        self.index[name] = dict(arch=case.arch, library=case.library, fields=fields, state=shapes, outputs=rows)
        print(name, {row["tap"]: round(row["largest"], 3) for row in rows}, flush=True)

    def write(self, path: Path) -> None:
        """Writes the file; the versions that it was made with go into the index."""
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
        made_with = {library: version.partition("+")[0] for library, version in versions.items()}
        index = json.dumps({"made_with": made_with, "cases": self.index})
        np.savez_compressed(path, index=np.frombuffer(index.encode(), np.uint8), **self.samples)


def require_sane(name: str, values: np.ndarray) -> None:
    """Stops where a tap is blown up, dead, or the same at every place or for every image."""
    largest = np.abs(values).max()
    if not 1 / SANE < largest < SANE:
        raise ValueError(f"{name}: the largest value is {largest}")
    if (values == 0).mean() > 0.9:
        raise ValueError(f"{name}: {(values == 0).mean():.0%} of the values are zero")
    if len(values) > 1 and np.abs(values[0] - values[1]).max() < 0.02 * largest:
        raise ValueError(f"{name}: two images give the same")


def odd_tensors() -> dict[str, Any]:
    """A checkpoint with what state dicts may hold: every dtype, strides, shared storages, a parameter, a wrapper."""
    base = torch.arange(24, dtype=torch.float32)
    state = collections.OrderedDict(
        plain=base.reshape(2, 3, 4),
        transposed=base.reshape(4, 6).T,
        strided=base[1::3],
        expanded=torch.tensor([[5.0]]).expand(3, 4),
        channels_last=base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        shared=base[5:9],
        parameter=nn.Parameter(torch.arange(3.0)),
        half=torch.arange(4).half() / 3,
        bfloat16=torch.arange(4).bfloat16() / 3,
        double=torch.arange(4).double() / 3,
        integers=torch.arange(-2, 3),
        bytes=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
    )
    return {"epoch": 3, "lr": 0.1, "size": torch.Size([2, 3]), "state_dict": state}


def write_checkpoints() -> None:
    """What `torch.save` writes, in both of its formats, of a small ResNet and of odd tensors."""
    slim = torch_models.slim_resnet()
    fill(slim)
    for suffix, is_zip in (("", True), ("_stream", False)):
        torch.save(slim.state_dict(), HERE / f"resnet18_slim{suffix}.pth", _use_new_zipfile_serialization=is_zip)
        torch.save(odd_tensors(), HERE / f"odd_tensors{suffix}.pth", _use_new_zipfile_serialization=is_zip)
    torch.save(nn.Linear(2, 2), HERE / "whole_module.pth")


def main() -> None:
    """Writes every golden file."""
    torch.manual_seed(0)
    golden = Golden()
    for name, case in torch_models.cases().items():
        golden.add(name, case)
    golden.write(HERE / "torchvision.npz")
    write_checkpoints()


if __name__ == "__main__":
    main()
