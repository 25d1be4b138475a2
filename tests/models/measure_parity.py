"""Measures every catalogue record's architecture against its source, as the tests do, and writes what is found.

    python tests/models/measure_parity.py

The result, `transfer/weights/records/parity.json`, is the last column of `python -m transfer models`.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from models import catalogue_parity  # noqa: E402

from transfer.weights import catalogue  # noqa: E402

SOURCE = (
    "tests/models/measure_parity.py: the largest difference at any tap, relative to the largest value of the tap, with "
    "random weights; one image and three, at the published size and an odd one; float32, full matrix precision"
)


def main() -> None:
    """Writes the file anew."""
    errors = {}
    for name, record in catalogue.records().items():
        measured = catalogue_parity.measure(record)
        errors[name] = measured._asdict() | {"error": float(f"{measured.error:.2g}")}
        print(f"{name:28s} {measured.error:.1e} at {measured.tap} of {measured.images}, {measured.against}", flush=True)
    path = TESTS.parent / "transfer" / "weights" / "records" / catalogue.PARITY
    path.write_text(json.dumps({"source": SOURCE, "errors": dict(sorted(errors.items()))}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
