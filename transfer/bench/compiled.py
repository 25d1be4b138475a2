"""Makes the steps of a case: builds its extractor, compiles it, and looks first whether it will fit."""

import math
import time

import jax
import numpy as np

from transfer.bench.cases import Case
from transfer.bench.contenders import Steps
from transfer.bench.memory import require_host
from transfer.bench.network import Network
from transfer.bench.settings import Settings
from transfer.extract.extractor import Extractor

# Of the uint8 batch: two that the host alternates between, two on their way.
IMAGE_COPIES = 4


def compiled_steps(network: Network, case: Case, settings: Settings) -> tuple[Steps, float]:
    """Our steps, and the seconds from the model to the end of the first; OutOfMemory where it will not fit."""
    shape = (case.batch, *network.preprocessing.image_size, 3)
    require_host(IMAGE_COPIES * math.prod(shape))
    images = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    start = time.perf_counter()
    extractor = Extractor(
        network.model,
        tap=settings.tap,
        batch_size=case.batch,
        dtype=case.dtype,
        precision=settings.precision,
        preprocessing=network.preprocessing,
        autotune=settings.autotune,
    )
    ours = Steps(extractor, images)
    if jax.default_backend() == "cpu":
        # there the system would end the process; other devices raise an error of their own
        require_host((ours.memory_bytes() or 0) * extractor.program.mesh.size)
    ours()
    return ours, time.perf_counter() - start
