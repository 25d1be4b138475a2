"""Draws networks with what people put in front of a backbone, into it and behind it, exports them, and reads them.

    python -m tests.campaigns.onnx_around --cases=2000 --output=benchmarks/reliability/onnx_around.json

Takes PyTorch, torchvision and onnxscript beside the packages of the tests. Each file is of one of PyTorch's two
exporters, and is given to `create_model` as its architecture or as a record of it. A case held if the file was
*accepted* and its outputs are those of ONNX Runtime (to 1e-4 of the largest; 3e-2 where the file computes in halves),
or *refused* in one line. It did not hold if other outputs came without a word, or any other error. Where
the file normalises its images, ours are made of the pixels by the preprocessing that was read from it.

Drawings whose pieces do not fit together, that PyTorch does not export or ONNX Runtime does not run, are drawn again.
Unchanged functions have to be accepted: networks with nothing around them but what does nothing are a part of their
own. `--processes` share the cases.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.campaigns.figures import REPOSITORY, Figures

for folder in ("tests", "tests/support"):
    sys.path.insert(0, str(REPOSITORY / folder))


def part_of(plan: Any) -> str:
    """The part of the campaign that a case counts to: where its pieces are."""
    from golden.onnx_around import IDLE, NORMALISING

    before = [name for name in plan.before if name not in IDLE]
    wheres = (
        ("normalised", [name for name in before if name in NORMALISING]),
        ("before", [name for name in before if name not in NORMALISING]),
        ("inside", plan.inside),
        ("behind", plan.after),
        ("in training mode", [plan.options.get("training")] if plan.options.get("training") == "TRAINING" else []),
    )
    found = [where for where, names in wheres if names]
    return f"{plan.exporter}: {' and '.join(found) or 'nothing changed'}"


def try_case(seed: str) -> dict[str, Any]:
    """The first case of a seed that there is a file of: its part, the verdict, and what it was."""
    import onnx_judge
    import torch
    from absl import logging
    from golden import onnx_around

    torch.set_num_threads(1)
    logging.set_verbosity(logging.ERROR)
    chosen = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        while True:
            plan = onnx_around.draw(chosen)
            if not onnx_around.export(plan, str(path)):
                continue
            try:
                verdict = onnx_judge.judge(path, plan.case())
            except onnx_judge.NoJudge:
                continue
            return dict(part=part_of(plan), outcome=verdict.outcome, why=verdict.why, plan=str(plan))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="how many; 2000")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so many; the same command goes on"
    )
    parser.add_argument("--log", type=Path, help="a line for each case")
    options = parser.parse_args()
    figures = Figures(options.output, "onnx_around", options.cases, options.seed)
    deadline = time.monotonic() + options.seconds
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        seeds = (f"{options.seed} {step}" for step in range(figures.steps, options.cases))
        for found in pool.imap(try_case, seeds):
            held = found["outcome"] != "wrong"
            failure = None if held else f"seed {options.seed}, step {figures.steps}: {found['why']}: {found['plan']}"
            counts = {each: int(found["outcome"] == each) for each in ("accepted", "refused")}
            if options.log:
                with options.log.open("a") as log:
                    log.write(f"{figures.steps} {found['outcome']} {found['plan']}\n  {found['why']}\n")
            figures.add(found["part"], 1, int(held), failure, **counts)
            if failure:
                print(failure, flush=True)
            if time.monotonic() > deadline:
                pool.terminate()
                break
    print(f"{figures.held} of {figures.done} held")
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
