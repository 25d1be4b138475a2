"""Convolutions measured on this machine, and the measurements kept for the next run."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transfer.freeze.convolutions import ALGORITHMS, Epilogue, Geometry
from transfer.runtime.cache import cache_dir
from transfer.runtime.devices import AXIS, compiler_options
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved

# Of each algorithm; long enough for a clock, short enough for a model of a hundred convolutions.
ROUNDS, SECONDS = 5, 0.02
# Geometry as text -> algorithm -> seconds.
Measured = dict[str, dict[str, float]]


def measured(wanted: Mapping[Geometry, Iterable[str]], dtype: Any = jnp.float32) -> dict[Geometry, dict[str, float]]:
    """Geometry -> algorithm -> seconds a call, of every device working on a batch of its own at once.

    What the user's cache holds for this kind of device, number of them, dtype, precision of matrix products (the
    caller's `jax.default_matmul_precision`) and jaxlib is not measured again; a folder that cannot be written costs one
    warning.

    Args:
      wanted: algorithms to compare for each geometry; they must fit.
      dtype: of images and kernels.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    precision = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
    path = cache_dir() / "convolutions" / f"{machine(mesh)}-{jnp.dtype(dtype).name}-{precision}.json"
    known = _read(path)
    missing = {
        geometry: names
        for geometry, all_names in wanted.items()
        if (names := [name for name in all_names if name not in known.get(key(geometry), {})])
    }
    if missing:
        with Progress("autotune", len(missing), "convolutions") as progress:
            for geometry, names in missing.items():
                known.setdefault(key(geometry), {}).update(seconds(geometry, names, mesh, dtype))
                progress.update()
        _write(path, known)
    return {geometry: {name: known[key(geometry)][name] for name in names} for geometry, names in wanted.items()}


def seconds(
    geometry: Geometry, names: Iterable[str], mesh: Mesh, dtype: Any, rounds: int = ROUNDS, at_least: float = SECONDS
) -> dict[str, float]:
    """Algorithm -> median seconds of a call, the algorithms taking turns.

    Args:
      geometry: of one device's part.
      names: of algorithms that fit.
      mesh: each device computes a batch of its own at the same time, as in the extractor.
      dtype: of images and kernels.
      rounds: samples of each.
      at_least: seconds of a sample.
    """
    contenders = {name: _program(name, geometry, mesh, dtype) for name in names}
    samples = interleaved(contenders, rounds, warmup=1, seconds=at_least)
    return {name: statistics.median(times) for name, times in samples.items()}


def _program(name: str, geometry: Geometry, mesh: Mesh, dtype: Any) -> Callable[[], Any]:
    """A call of the algorithm with bias and ReLU, on zeros: how fast it is does not depend on the values."""
    algorithm = ALGORITHMS[name]
    spread, everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    shape = (mesh.size * geometry.batch, geometry.height, geometry.width, geometry.channels)
    inputs = geometry.channels // geometry.groups
    kernel = algorithm.prepare(np.zeros((*geometry.window, inputs, geometry.features), np.float32), geometry)

    def run(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return algorithm.run(images, kernel, geometry, Epilogue(bias, relu=True))

    arguments = (
        jax.device_put(np.zeros(shape, dtype), spread),
        jax.device_put(kernel.astype(dtype), everywhere),
        jax.device_put(np.zeros(geometry.features, dtype), everywhere),
    )
    program = jax.shard_map(run, mesh=mesh, in_specs=(P(AXIS), P(), P()), out_specs=P(AXIS), check_vma=False)
    compiled = jax.jit(program).lower(*arguments).compile(compiler_options=compiler_options(mesh))
    return lambda: jax.block_until_ready(compiled(*arguments))


def key(geometry: Geometry) -> str:
    """A geometry as text, the key that its measurements are kept under."""
    return json.dumps(list(asdict(geometry).values()), separators=(",", ":"))


def machine(mesh: Mesh) -> str:
    """Kind of the devices, how many, and the compiler's version, as a file's name."""
    device = mesh.devices.flat[0]
    kind = _processor() if device.platform == "cpu" else device.device_kind
    return re.sub(r"[^\w.]+", "-", f"{kind}-{mesh.size}-jaxlib-{jaxlib.__version__}")


def _processor() -> str:
    """The processor's name, for JAX calls every one "cpu"; "cpu" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")


def _read(path: Path) -> Measured:
    """The measurements in the file; an empty dict where there is none, or it is not of this form."""
    try:
        stored = json.loads(path.read_text())
        return {text: {name: float(time) for name, time in times.items()} for text, times in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, known: Measured) -> None:
    """Writes the measurements atomically, together with what another process wrote meanwhile."""
    merged = _read(path)
    for text, times in known.items():
        merged.setdefault(text, {}).update(times)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path, shared=True) as file:
            file.write(json.dumps(merged).encode())
    except OSError as error:
        logging.warning("%s: %s; measurements are not kept (TRANSFER_CACHE=DIR)", path, error.strerror)
