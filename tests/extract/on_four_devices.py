"""Run by test_separate.py on four devices: a program for each of them against one over all, as JSON on stdout."""

import json

import jax
import numpy as np
from tiny_model import RECIPE, TinyModel, TinySource

from transfer.extract import Extractor
from transfer.extract import extractor as extractor_module
from transfer.runtime.devices import mesh_for

TAPS = ["pre_logits", "block1"]


def main() -> None:
    """What comes out, and where it lies."""
    images = np.stack([TinySource().image(row) for row in range(21)])
    extractor = Extractor(TinyModel(), TAPS, batch_size=8, preprocessing=RECIPE)
    together = extractor(images)
    assert not extractor_module.must_separate(extractor.program.mesh)
    apart = Extractor(TinyModel(), TAPS, batch_size=8, preprocessing=RECIPE)
    extractor_module.must_separate = lambda mesh: mesh.size > 1
    features = apart(images)
    batch = apart.compute(images[:8])["pre_logits"]
    report = {
        "devices": jax.device_count(),
        "programs": [[device.id for device in one.mesh.devices.flat] for one in apart.program.programs],
        "backbones": len({id(one.frozen) for one in apart.program.programs}),
        "sharded": batch.sharding.is_equivalent_to(apart.program.sharding, batch.ndim),
        "mesh": mesh_for(8).size,
        "largest_error": max(float(np.abs(features[tap] - together[tap]).max()) for tap in TAPS),
        "shapes": [list(features[tap].shape) for tap in TAPS],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
