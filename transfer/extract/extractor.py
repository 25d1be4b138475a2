"""The extractor: images in, features of a frozen backbone out, one jitted program."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from transfer.data import frames
from transfer.data.loader import Batch
from transfer.errors import UsageError
from transfer.extract.program import PRECISIONS, Program, Separate, must_separate
from transfer.extract.taps import DEFAULT_TAP, apply_taps, parse_taps
from transfer.models.registry import flat_state
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.devices import mesh_for
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress

# Attributes of Flax's own layers that change what they compute; the rest comes and goes with Flax's versions.
_LAYER_SETTINGS = ("strides", "padding", "kernel_dilation", "feature_group_count", "epsilon")
# Where the parameters came from does not change what they compute.
_ORIGIN = (
    *("record", "weights_sha256", "preprocessing", "renewed", "in_channels", "revision", "label_names"),
    *("arch", "fields"),
)
_SCALAR = (bool, int, float, str, type(None))
HASH_LENGTH = 16
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Extractor:
    """Features of a frozen model: `extractor(images)` for arrays, `extract_to_store` for data sets.

    Args:
        model: `output, endpoints = model(x)`; its parameters are copied, later changes to it do not count.
        tap: an end point, with a pooling or without (`"pre_logits"`, `"block5:avg"`, `"block5:flatten"`); or
            several, in a sequence or separated by commas.
        image_size: size of the network's input, pixels, square or (height, width).
        batch_size: images a step; the last batch is padded to it.
        dtype: "float32", or "bfloat16" for parameters and activations. Features are float32 either way.
        resize: "pil" (equal to Pillow's 8-bit result) or "float".
        precision: of matrix products and convolutions: "highest" is the definition in float32; "high" is within 1e-4
            of it (Winograd on a CPU, three bfloat16 passes on a TPU); "default" is the device's fastest (TF32 on a
            GPU, one bfloat16 pass on a TPU).
        preprocessing: the whole recipe; otherwise the record's of the model's weights.
        autotune: measures each convolution's algorithms on this machine, once, instead of trusting the cost model.

    What is None comes from the record. Raises UsageError for a value that is not known, and where there is no
    preprocessing: none is assumed.
    """

    def __init__(
        self,
        model: nnx.Module,
        tap: str | Sequence[str] = DEFAULT_TAP,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        dtype: str = "float32",
        resize: str | None = None,
        precision: str = "high",
        preprocessing: Preprocessing | None = None,
        autotune: bool = False,
    ) -> None:
        for name, value, known in (("dtype", dtype, DTYPES), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise UsageError(f"{name}={value!r} is not one of {', '.join(known)}")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size} must be at least 1")
        self.batch_size, self.dtype, self.precision = batch_size, dtype, precision
        self.preprocessing = resolve_preprocessing(model, preprocessing, image_size, resize)
        self.taps = parse_taps(tap)
        self.single = isinstance(tap, str) and len(self.taps) == 1
        # its own variables: what is hashed is what is used, whatever becomes of the caller's model
        self.model = nnx.clone(model)
        self.autotune = autotune
        self._programs: dict[tuple[tuple[int, ...], str, bool], Any] = {}
        graph, state = nnx.split(self.model)

        def run(state: Any, images: jax.Array) -> dict[str, jax.Array]:
            model = nnx.merge(graph, state)
            model.eval()
            return apply_taps(self.taps, model(images)[1])

        image = jax.ShapeDtypeStruct((1, *self.preprocessing.input_shape), jnp.float32)
        # tap -> shape of one image's features; the model's own error for a size that it does not take
        self.shapes = {name: tuple(array.shape[1:]) for name, array in jax.eval_shape(run, state, image).items()}

    @cached_property
    def program(self) -> Program | Separate:
        """The program over all devices of this process, as far as they divide the batch."""
        mesh = mesh_for(self.batch_size)
        if must_separate(mesh):
            return Separate(mesh, lambda device: self.program_on(device, self.batch_size // mesh.size))
        return self.program_on(mesh)

    def program_on(self, mesh: Mesh, batch_size: int | None = None) -> Program:
        """The same on other devices, also ones that are not here: `program_on(mesh).lower(shape)`."""
        settings = (batch_size or self.batch_size, DTYPES[self.dtype], self.precision, self.autotune)
        return Program(self.model, self.taps, self.preprocessing, mesh, *settings)

    def compute(self, images: np.ndarray | jax.Array, resized: bool = False) -> dict[str, jax.Array]:
        """Features of one batch, tap -> float32 (batch_size, ...), on the devices and perhaps not yet computed.

        `resized`: the images, uint8 (batch_size, h, w, 3), have the network's size already.
        """
        compiled = self.compiled(images, resized)
        return compiled(self.program.arrays, jax.device_put(images, self.program.sharding))

    def compiled(self, images: np.ndarray | jax.Array, resized: bool = False) -> Any:
        """The program for batches of the shape and type of `images`, compiled once (`jax.stages.Compiled`)."""
        key = (images.shape, images.dtype.name, resized)
        if key not in self._programs:
            start = time.monotonic()
            self._programs[key] = self.program.compile(images.shape, images.dtype, resized)
            logging.info("compiled for %s %s in %.1f s", images.dtype, images.shape, time.monotonic() - start)
        return self._programs[key]

    def stream(self, loaded: Iterable[Batch], resized: bool = False) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Yields each batch with its features, tap -> float32 (batch.size, ...), padding removed.

        A batch is handed to the device before the features of the one before are fetched, so that the device
        computes while the host loads and writes.

        Args:
            loaded: batches whose images all have one shape, (batch_size, h, w, 3), or are canvases.
            resized: whether the images have the network's size already, or will have it as canvases.
        """

        def dispatched() -> Iterator[tuple[Batch, dict[str, jax.Array]]]:
            for batch in loaded:
                images: np.ndarray | jax.Array = batch.images
                if batch.bands is not None:
                    images = frames.resize(*jax.device_put((batch.images, batch.bands), self.program.sharding))
                yield batch, self.compute(images, resized)

        end: Any = None
        for (batch, features), _ in pairwise(chain(dispatched(), [end])):
            yield batch, {name: np.asarray(values)[: batch.size] for name, values in features.items()}

    def __call__(self, images: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """Features of images in memory, uint8 RGB (N, h, w, 3) at native size; UsageError for another type or shape.

        Returns:
            float32 (N, D); (N, h', w', C) for a tap of that shape without pooling. For several taps a dict.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UsageError(
                f"the extractor takes images as uint8 (N, height, width, 3), not {images.dtype} {images.shape}"
            )
        parts = {name: [np.empty((0, *shape), np.float32)] for name, shape in self.shapes.items()}

        def loaded() -> Iterator[Batch]:
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                padding = [(0, self.batch_size - len(part)), (0, 0), (0, 0), (0, 0)]
                yield Batch(images=np.pad(part, padding), start=start, size=len(part), failed=[])

        with Progress("features", len(images), "images", delay=NOTICEABLE_SECONDS) as progress:
            for batch, features in self.stream(loaded()):
                for name, values in features.items():
                    parts[name].append(values)
                progress.update(batch.size)
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        return joined[self.taps[0].text] if self.single else joined

    @cached_property
    def _parameters_hash(self) -> str:
        return parameters_hash(self.model)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that the features depend on but the images: JSON values."""
        record, revision = (getattr(self.model, attribute, None) for attribute in ("record", "revision"))
        return {
            **({"revision": revision} if revision else {}),
            "model": record.name if record else type(self.model).__name__,
            "structure": structure_hash(self.model),
            "parameters": self._parameters_hash,
            "preprocessing": asdict(self.preprocessing),
            "dtype": self.dtype,
            "precision": self.precision,
        }


def batch_for(count: int, batch_size: int) -> int:
    """The images a step that suit `count` of them: `batch_size`, or a power of two where there are fewer."""
    return min(batch_size, 1 << max(count - 1, 0).bit_length())


def resolve_preprocessing(
    model: nnx.Module,
    preprocessing: Preprocessing | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str | None = None,
) -> Preprocessing:
    """The preprocessing of a model: the one given, else its own, at another size or with another resize where asked.

    The model's own is that of its weight file, if we wrote it, or of its record. Raises UsageError where there is none.
    """
    preprocessing = preprocessing or getattr(model, "preprocessing", None)
    if preprocessing is None:
        raise UsageError(
            "a model without a catalogue record, whose weight file does not say it either, has no preprocessing of "
            "its own; pass preprocessing= (config.preprocessing)"
        )
    if image_size is not None:
        preprocessing = preprocessing.with_image_size(image_size)
    return replace(preprocessing, resize=resize) if resize is not None else preprocessing


def parameters_hash(model: nnx.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and batch statistics, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(flat_state(model).items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def structure_hash(model: nnx.Module) -> str:
    """A short hash of what no parameter shows: strides, padding, epsilons and the other fields of the layers."""
    lines = []
    for path, module in nnx.iter_modules(model):
        own, name = type(module).__module__.partition(".")[0] != "flax", ".".join(map(str, path))
        lines.append(f"{name} {type(module).__name__}")
        for key, value in vars(module).items():
            counts = (own or key in _LAYER_SETTINGS) and not key.startswith("_") and key not in _ORIGIN
            if counts and _plain(value):
                lines.append(f"{name}.{key}={value!r}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:HASH_LENGTH]


def _plain(value: object) -> bool:
    return isinstance(value, _SCALAR) or (isinstance(value, (tuple, list)) and all(map(_plain, value)))
