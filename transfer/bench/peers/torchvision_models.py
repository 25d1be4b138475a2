"""Our architecture as torchvision builds it, filled with our weights, without its classifier."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer.bench.peers.case import Case, Skipped
from transfer.weights.names import COUNTERS, libraries, name_map

# What torchvision calls a setting of ours; what is not here it does not have.
FIELDS = {"transform_input": "transform_input"}
AUXILIARY = {"googlenet": {"aux_logits": False, "init_weights": False}}
AUXILIARY["inception_v3"] = AUXILIARY["googlenet"]


def build(case: Case) -> Any:
    """A `torch.nn.Module` in inference mode, (B, 3, H, W) -> (B, D): the pooled features.

    Raises:
      Skipped: torchvision has no such network, or ours differs from it.
    """
    import torch
    import torchvision

    arch = case.arch
    if arch not in torchvision.models.list_models(module=torchvision.models) or "torchvision" not in libraries(arch):
        raise Skipped(f"torchvision has no {arch}")
    fields = {FIELDS[name]: value for name, value in case.fields.items() if name in FIELDS}
    model = torchvision.models.get_model(arch, weights=None, **AUXILIARY.get(arch, {}), **fields)
    _load(model, arch, case.weights())
    return _without_classifier(model, torch).eval()


def _load(model: Any, arch: str, arrays: Mapping[str, np.ndarray]) -> None:
    import torch

    names = name_map(arch, "torchvision", {path: array.shape for path, array in arrays.items()})
    tensors = {
        source.name: torch.from_numpy(np.ascontiguousarray(_channels_first(arrays[path])))
        for path, source in names.sources.items()
    }
    theirs = {name: tensor.shape for name, tensor in model.state_dict().items()}
    differing = sorted(name for name, tensor in tensors.items() if theirs.get(name) != tensor.shape)
    unfilled = sorted(
        name for name in theirs.keys() - tensors.keys() if not names.in_classifier(name) and not name.endswith(COUNTERS)
    )
    if differing or unfilled:
        raise Skipped(f"torchvision's {arch} is another network: its {[*differing, *unfilled][0]} differs")
    model.load_state_dict(tensors, strict=False)


def _channels_first(array: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _without_classifier(model: Any, torch: Any) -> Any:
    if hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
        return model
    return torch.nn.Sequential(model.features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
