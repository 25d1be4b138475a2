"""A weight file of any format as a native `.safetensors` file, which `create_model(name, weights=FILE)` reads."""

import os
from pathlib import Path

from transfer.models import registry
from transfer.weights import catalogue, native
from transfer.weights.create import create_model


def convert_file(
    source: str | os.PathLike[str], name: str, output: str | os.PathLike[str], *, by_names: bool = False
) -> int:
    """Loads `source` strictly into the model `name` and writes its arrays to `output`, atomically.

    Args:
      source: any format that `transfer.weights.readers` knows.
      name: catalogue name, or an architecture.
      output: the file to make or replace. Its metadata say the model, the architecture, its fields and the source.
      by_names: as in `create_model`.

    Returns:
      How many arrays were written.

    Raises:
      TransferError, UsageError: as `create_model`.
    """
    model = create_model(name, weights=source, by_names=by_names)
    arrays = registry.flat_state(model)
    num_classes = len(arrays["logits.bias"]) if "logits.bias" in arrays else 0
    arch, fields = catalogue.architecture(name, {"num_classes": num_classes})
    metadata = native.describe(
        arch,
        {**native.fields(source, name), **fields},
        getattr(model, "preprocessing", None),
        model=name,
        source=Path(source).name,
        source_sha256=str(getattr(model, "weights_sha256", "")),
    )
    native.write(output, arrays, metadata)
    return len(arrays)
