"""Golden files of `make_torchvision.py`, and the comparison with them."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from golden import seeded
from support.filled import from_tensors

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Tap:
    """What the other library computed at one tap for one image size."""

    size: tuple[int, ...]
    name: str
    shape: tuple[int, ...]
    largest: float
    norm: float
    sample: np.ndarray

    def error(self, values: np.ndarray) -> float:
        """The largest difference of a sample, and that of the norms, relative to the largest value and the norm."""
        assert values.shape == self.shape, f"{self.name}: {values.shape}, not {self.shape}"
        difference = np.abs(seeded.sample(values) - self.sample).max() / self.largest
        norm = np.linalg.norm(values.astype(np.float64))
        return float(max(difference, abs(norm - self.norm) / self.norm))


@dataclasses.dataclass(frozen=True)
class Case:
    """One model: how it is built, its state dict's names and shapes in the other library, and its taps."""

    arch: str
    library: str
    fields: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    taps: tuple[Tap, ...]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights that the other library was run with."""
        return seeded.state_dict(self.shapes)

    def model(self, tensors: Mapping[str, np.ndarray] | None = None) -> nnx.Module:
        """Our model with these weights, those that the other library was run with if left out."""
        fields = {name: value for name, value in self.fields.items() if name != "num_classes"}
        return from_tensors(self.arch, self.state_dict() if tensors is None else tensors, [self.library], **fields)

    def sizes(self, every_batch: bool) -> list[tuple[int, ...]]:
        """Those of the recorded images: all, or of each height and width one, another number of images each time."""
        recorded = list(dict.fromkeys(tap.size for tap in self.taps))
        if every_batch:
            return recorded
        batches = sorted({size[0] for size in recorded})
        sides = dict.fromkeys(size[1:] for size in recorded)
        mixed = [(batches[min(place, len(batches) - 1)], *side) for place, side in enumerate(sides)]
        return mixed if set(mixed) <= set(recorded) else recorded

    def errors(
        self, model: Callable[[np.ndarray], tuple[Any, Mapping[str, Any]]], every_batch: bool = True
    ) -> dict[tuple[str, str], float]:
        """(size, tap) -> relative error of `model`, which returns `(output, endpoints)`; every tap that it has."""
        with jax.default_matmul_precision("highest"):
            outputs = {size: model(seeded.images(size))[1] for size in self.sizes(every_batch)}
        for size, endpoints in outputs.items():
            recorded = {tap.name for tap in self.taps if tap.size == size}
            assert recorded == set(endpoints), f"taps of one side only: {recorded ^ set(endpoints)}"
        compared = [tap for tap in self.taps if tap.size in outputs]
        return {("x".join(map(str, t.size)), t.name): t.error(np.asarray(outputs[t.size][t.name])) for t in compared}


@functools.cache
def made_with(file: str = "torchvision.npz") -> Mapping[str, str]:
    """Library -> version that the file was made with."""
    with np.load(HERE / file) as stored:
        return json.loads(stored["index"].tobytes())["made_with"]


@functools.cache
def cases(file: str = "torchvision.npz") -> Mapping[str, Case]:
    """Every case by its name."""
    with np.load(HERE / file) as stored:
        index = json.loads(stored["index"].tobytes())["cases"]
        return {name: _case(entry, stored[name]) for name, entry in index.items()}


def _case(entry: Mapping[str, Any], samples: np.ndarray) -> Case:
    taps, start = [], 0
    for row in entry["outputs"]:
        stop = start + row["samples"]
        size, shape = tuple(row["size"]), tuple(row["shape"])
        taps.append(Tap(size, row["tap"], shape, row["largest"], row["norm"], samples[start:stop]))
        start = stop
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in entry["fields"].items()}
    shapes = {name: tuple(shape) for name, shape in entry["state"].items()}
    return Case(entry["arch"], entry["library"], fields, shapes, tuple(taps))
