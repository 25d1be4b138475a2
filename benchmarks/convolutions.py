"""Measures convolutions, fits the planner's cost model to them, and says how good its choices are.

python benchmarks/convolutions.py --seconds=100   # measures what convolutions.json lacks; repeat until done
python benchmarks/convolutions.py --fit           # writes transfer/freeze/costs.json
python benchmarks/convolutions.py                 # evaluates on geometries that the fit has not seen
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from transfer.freeze.convolutions import ALGORITHMS, Geometry, Work
from transfer.freeze.plan import FITTED, ON_CPU, Costs, choices, fitted_from, place

FOLDER = Path(__file__).parent
MEASUREMENTS = FOLDER / "convolutions.json"
COMMAND = "python benchmarks/convolutions.py --seconds=100"
FIT_COMMAND = "python benchmarks/convolutions.py --fit"
# Architecture, side, images that a core computes at a time.
CASES = [
    ("vgg16", 32, 32),
    ("resnet50", 224, 2),
    ("vgg16", 224, 1),
    ("resnet50", 32, 32),
    ("inception_v3", 299, 1),
    ("resnet50", 224, 1),
    ("resnet50", 32, 4),
    ("vgg16", 32, 4),
]
FOLDS = 5
# Where the fit starts: seconds, operations a second, sides of a product, seconds a byte, bytes.
START = dict(call=1e-5, peak=8e10, rows=8, inner=16, columns=8, near=5e-11, far=1e-10, cache=2**20)
HELD = 0.15


def geometries_of(arch: str, side: int, batch: int) -> list[Geometry]:
    """Of every convolution of a model, in the order of the calls."""
    from transfer.freeze.freeze import _geometry
    from transfer.freeze.fusion import fused
    from transfer.models.graph.trace import trace
    from transfer.models.registry import build

    graph = trace(build(arch, seed=None), (batch, side, side, 3), taps_wanted=["pre_logits"])
    return [_geometry(graph, unit) for unit in fused(graph, list(graph.endpoints.values())).values()]


def measure(limit: float) -> None:
    """For `limit` seconds; every geometry is written as soon as it is measured."""
    import jax
    import jaxlib
    from jax.sharding import Mesh

    from transfer.freeze import plan
    from transfer.runtime import devices

    devices.use_cores()
    mesh = Mesh(np.array(jax.local_devices()), (devices.AXIS,))
    rows = read()
    wanted = dict.fromkeys(geometry for case in CASES for geometry in geometries_of(*case))
    missing = [geometry for geometry in wanted if geometry not in dict(rows)]
    stop = time.monotonic() + limit
    while missing and time.monotonic() < stop:
        geometry = missing.pop(0)
        rows.append((geometry, plan.seconds(geometry, choices(geometry), mesh, np.float32)))
        about = dict(machine=plan.machine(mesh), jax=jax.__version__, jaxlib=jaxlib.__version__, command=COMMAND)
        write(about, rows)
    print(f"{len(rows)} geometries measured, {len(missing)} to go")


def read() -> list[tuple[Geometry, dict[str, float]]]:
    """(geometry, algorithm -> seconds) of the file; none where it is missing."""
    if not MEASUREMENTS.exists():
        return []
    rows = json.loads(MEASUREMENTS.read_text())["measurements"]
    return [(geometry_from(row["geometry"]), row["seconds"]) for row in rows]


def geometry_from(fields: dict[str, Any]) -> Geometry:
    """JSON has no tuples."""
    pairs = {name: tuple(fields[name]) for name in ("window", "strides")}
    return Geometry(**fields | pairs | dict(padding=tuple(map(tuple, fields["padding"]))))


def write(about: dict[str, str], rows: list[tuple[Geometry, dict[str, float]]]) -> None:
    """One measurement a line."""
    lines = [
        json.dumps(dict(geometry=vars(geometry), seconds={n: float(f"{s:.4g}") for n, s in seconds.items()}))
        for geometry, seconds in rows
    ]
    head = json.dumps(about, indent=1)[:-2]
    MEASUREMENTS.write_text(f'{head},\n "measurements": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")


def fit(rows: list[tuple[Geometry, dict[str, float]]]) -> dict[str, Any]:
    """What `costs.fitted_from` takes; a sample counts the more, the nearer it is to the geometry's best."""
    samples: dict[str, list[tuple[Work, float, float]]] = {name: [] for name in ON_CPU}
    for geometry, seconds in rows:
        least = min(seconds.values())
        for name in choices(geometry):
            samples[name].append((ALGORITHMS[name].work(geometry), seconds[name], least / seconds[name]))
    costs = {name: fit_one(found) for name, found in samples.items()}
    misses = [
        {
            name: round(float(np.log(seconds[name] / costs[name].seconds(ALGORITHMS[name].work(g)))), 3)
            for name in choices(g)
        }
        for g, seconds in rows
    ]
    numbers = {name: dataclasses.asdict(one) for name, one in costs.items()}
    return dict(costs=numbers, places=[place(geometry) for geometry, _ in rows], misses=misses)


def fit_one(samples: list[tuple[Work, float, float]]) -> Costs:
    """Least squares on the logarithm of the seconds, lightly held to where it starts: few samples must not run away.

    Args:
      samples: (work, seconds, weight).
    """
    names = [field.name for field in dataclasses.fields(Costs)]
    start = np.log([START[name] for name in names])
    logs, weights = np.log([seconds for _, seconds, _ in samples]), np.array([weight for *_, weight in samples])

    def residuals(numbers: np.ndarray) -> np.ndarray:
        costs = Costs(**dict(zip(names, np.exp(numbers), strict=True)))
        misses = np.log([costs.seconds(work) for work, *_ in samples]) - logs
        return np.concatenate([weights * misses, HELD * (numbers - start)])

    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.2)
    return Costs(**{name: float(f"{np.exp(number):.4g}") for name, number in zip(names, found.x, strict=True)})


def evaluate(rows: list[tuple[Geometry, dict[str, float]]]) -> None:
    """Each geometry's choice by numbers fitted without it, and without it at other batches, against the best."""
    shapes = sorted({str(dataclasses.replace(geometry, batch=1)) for geometry, _ in rows})
    order = dict(zip(shapes, np.random.default_rng(0).permutation(len(shapes)), strict=True))
    folds = [order[str(dataclasses.replace(geometry, batch=1))] % FOLDS for geometry, _ in rows]
    chosen = {}
    for fold in range(FOLDS):
        by = fitted_from(fit([row for row, own in zip(rows, folds, strict=True) if own != fold]))
        for (geometry, _), own in zip(rows, folds, strict=True):
            if own == fold:
                times = {name: by.seconds(name, geometry) for name in choices(geometry)}
                chosen[geometry] = min(times, key=times.__getitem__)
    table = [(seconds[chosen[g]] / min(seconds.values()), seconds, g) for g, seconds in rows]
    ratios = [ratio for ratio, _, _ in table]
    print(f"{len(rows)} geometries, {FOLDS} folds; time of the choice over the best measured:")
    print(f"geometric mean {statistics.geometric_mean(ratios):.3f}, worst {max(ratios):.2f}")
    known = dict(rows)
    for arch, side, batch in CASES:
        inside = [geometry for geometry in geometries_of(arch, side, batch) if geometry in chosen]
        if inside:
            ours, best = sum(known[g][chosen[g]] for g in inside), sum(min(known[g].values()) for g in inside)
            print(
                f"  {arch} {side} px, {batch} a core: {ours / best:.3f} of {best * 1e3:.2f} ms ({len(inside)} layers)"
            )
    for ratio, seconds, geometry in sorted(table, key=lambda row: -row[0])[:8]:
        best = min(seconds, key=seconds.__getitem__)
        print(f"  {ratio:.2f}: {chosen[geometry]} for {best}, {geometry}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="measure for so long")
    parser.add_argument("--fit", action="store_true", help="write the cost model's numbers")
    given = parser.parse_args()
    if given.seconds:
        measure(given.seconds)
    elif given.fit:
        found = dict(command=FIT_COMMAND, **fit(read()))
        lines = [f'"{name}": {json.dumps(value)}' for name, value in found.items()]
        lines = [line.replace("}, ", "},\n  ").replace("], ", "],\n  ") for line in lines]
        FITTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        evaluate(read())
