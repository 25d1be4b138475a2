"""The verb `bench` of `python -m transfer`: its flags, and which benchmark they ask for."""

import argparse
import contextlib
import datetime
import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import logging

from transfer.bench import results
from transfer.cli.main import Action, output_file
from transfer.errors import TransferError, UsageError
from transfer.runtime import interrupts
from transfer.runtime.files import atomic

# Flags that stand for a benchmark of their own, the module of that name.
OTHERS = ("head", "input", "latency", "target")
READERS = ("report", "compare")
# Flag -> the one without which it means nothing.
ONLY_WITH = {"fail_below": "compare", "rate": "latency"}
HEAD_CASES = ("small", "large", "process", "sweep", "sweep_large")
PICTURES = (".svg", ".png", ".pdf")
# How `transfer.bench.results` begins a file.
BEGINNING = b'{\n "schema": '
EXAMPLES = """examples:
  python -m transfer bench --models='resnet*,vgg16' --batch=1,8,64 --dtype=float32,bfloat16
  python -m transfer bench --models=resnet50 --batch=16 --peers --output=resnet50.json --plot=resnet50.svg
  python -m transfer bench --head
  python -m transfer bench --input --models=resnet50,vgg16 --batch=16 --image_size=224
  python -m transfer bench --latency --models=resnet50 --rate=20
  python -m transfer bench --compare before.json after.json --fail_below=0.95
  python -m transfer bench --target=tpu:v5e:4x4,v4:4x4x4
  python -m transfer bench --report benchmarks/*.json

A run with --output writes the file after each row, and Ctrl-C keeps the rows that are finished. Where memory runs out
the batch is halved. A row that fails holds its error and the run goes on; the exit code is then 1 at the end."""


class Interrupted(TransferError):
    """Ctrl-C, after what is finished has been kept."""

    exit_code = interrupts.EXIT_INTERRUPTED


def bench(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `bench [--models …] [--peers] …`, or with --head, --input, --target or --report."""
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    flag = parser.add_argument_group("networks").add_argument
    flag(
        "--models",
        default="resnet50",
        help="names and wildcards, separated by commas: architectures (resnet*) or catalogue names (resnet*.tv1); "
        "default: %(default)s",
    )
    flag("--batch", help="images a step, separated by commas; default: 1,8; with --target images a chip, default: 256")
    flag("--dtype", default="float32", help="float32, bfloat16, or both; default: %(default)s")
    flag("--image_size", type=int, metavar="PX", help="size of square images; default: the network's own")
    flag("--tap", default="pre_logits", help="where features are taken; default: %(default)s")
    flag("--precision", default="high", help="highest, high or default; default: %(default)s")
    flag(
        "--weights",
        metavar="FILE|random",
        help="default: the catalogue's file if it is on this machine, else random; an architecture's are random",
    )
    flag("--seed", type=int, default=0, help="seed of random weights and images; default: %(default)s")

    flag = parser.add_argument_group("measuring").add_argument
    flag("--rounds", type=int, default=5, help="samples of everything that is compared; default: %(default)s")
    flag("--seconds", type=float, default=0.5, help="how long a sample goes on at least; default: %(default)s")
    flag(
        "--peers",
        nargs="?",
        const="*",
        metavar="NAMES",
        help="also run other libraries on the same weights, in the same rounds: all, or names and wildcards",
    )
    flag("--no_errors", action="store_true", help="don't measure what the precision costs at every tap")
    flag("--autotune", action="store_true", help="measure each convolution's algorithms here, once")
    flag(
        "--peak_tflops", type=float, metavar="N", help="what a device multiplies, 1e12 a second, where it is not known"
    )
    flag("--profile", metavar="DIR", help="write a JAX profiler trace of each row there")
    flag("--head", action="store_true", help="measure the training of heads instead of networks")
    flag("--input", action="store_true", help="measure loading images, by itself and into a feature store")
    flag("--latency", action="store_true", help="measure single images, one after another and at a fixed rate")
    flag("--rate", type=float, metavar="N", help="requests/s of --latency; default: up to half of what is possible")
    flag("--target", help="compile for devices that are not here, such as tpu:v5e:4x4 or gpu:h100")

    flag = parser.add_argument_group("output").add_argument
    flag("--json", action="store_true", help="print JSON instead of a table")
    flag("--output", metavar="FILE.json", help="also write the JSON there, after each row")
    flag(
        "--plot",
        action="append",
        default=[],
        metavar="FILE",
        help=f"draw images a second and MFU over batch size, {', '.join(PICTURES)}; may be given twice",
    )
    flag("--report", nargs="+", metavar="FILE.json", help="print the ratios in result files as Markdown")

    flag("--compare", nargs=2, metavar="FILE.json", help="how many times as fast the second result is as the first")
    flag("--fail_below", type=float, metavar="RATIO", help="of --compare: exit code 1 where ours is surely below it")

    flag = parser.add_argument_group("head").add_argument
    cases = f"which cases: {', '.join(HEAD_CASES)}, or wildcards; default: all"
    flag("--head_cases", default="*", metavar="NAMES", help=cases)

    flag = parser.add_argument_group("input").add_argument
    flag("--images", metavar="DIR", help="class folders of JPEGs to load; default: some are made")
    flag("--folders", help="which of those that are made; default: 224x224,500x375,mixed,1000x750")
    return _run


def _run(options: argparse.Namespace) -> None:
    if options.rounds < 1 or options.seconds < 0:
        raise UsageError(f"--rounds={options.rounds} and --seconds={options.seconds} should be at least 1 and 0")
    if sum(bool(getattr(options, name)) for name in (*OTHERS, *READERS)) > 1:
        names = [f"--{name}" for name in (*OTHERS, *READERS)]
        raise UsageError(f"{', '.join(names[:-1])} and {names[-1]} are different things; take one")
    for name, other in ONLY_WITH.items():
        value = getattr(options, name)
        if value is not None and not getattr(options, other):
            raise UsageError(f"--{name}={value:g} goes with --{other}")
    for name in ("fail_below", "rate", "peak_tflops"):
        value = getattr(options, name)
        if value is not None and not value > 0:  # also of NaN, below which nothing is
            raise UsageError(f"--{name}={value:g} should be more than 0")
    if options.output is not None:
        mine = "a result of a benchmark"
        output_file(options.output, ".json", earlier=lambda content: content.startswith(BEGINNING), what=mine)
    for path in options.plot:
        output_file(path, *PICTURES, flag="plot")
    if options.report or options.compare:
        (_report if options.report else _compare)(options)
        return
    if options.peers or options.head or options.latency:
        # others need memory of the GPU, too; read when JAX's backend starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    _measure(options, next((name for name in OTHERS if getattr(options, name)), "networks"))


def _measure(options: argparse.Namespace, benchmark: str) -> None:
    """Runs a benchmark row by row and shows it: nothing that is finished gets lost.

    `benchmark` is a module of `transfer.bench` with `rows(options)`, an iterator of JSON-able rows, and `table(rows)`,
    text. Raises TransferError at the end, if a row failed.
    """
    import jax

    from transfer.bench import plot
    from transfer.bench.machine import BUSY, busy, load, machine
    from transfer.runtime.devices import use_cores
    from transfer.runtime.timing import spread

    # where JAX has started already its devices stay what they are
    with contextlib.suppress(RuntimeError):
        use_cores()
    # compiling is measured: nothing may come from an earlier run
    jax.config.update("jax_enable_compilation_cache", False)
    module = importlib.import_module(f"transfer.bench.{benchmark}")
    command = shlex.join(["python", "-m", "transfer", "bench", *options.arguments])
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    done: list[dict[str, Any]] = []
    taken = busy()
    if taken is not None and taken > BUSY:
        logging.warning("others take %.0f %% of this machine's cores; what is measured now may be slow", 100 * taken)
    # of every row; its own process is not among what is running before the first one
    settings = {"seed": options.seed, "rounds": options.rounds, "sample_seconds": options.seconds, "busy": taken}

    def save(complete: bool = False) -> str:
        """The results as JSON, which replace the file of --output as a whole."""
        content = results.text(command, date, done, complete)
        if options.output:
            atomic.write_text(options.output, content)
        return content

    rows, interrupted, before = module.rows(options), False, load()
    try:
        for row in rows:
            spreads = {"spread": spread(row["seconds"])} if "seconds" in row else {}
            after = load()
            done.append({**row, **spreads, **settings, "load_before": before, "load_after": after, **machine()})
            before = after
            save()
        content = save(complete=True)
    except KeyboardInterrupt:
        interrupted = True
        interrupts.acknowledge()
        content = save()
    sys.stdout.write(content if options.json else module.table(done) + "\n")
    for path in options.plot if done else ():
        plot.draw(done, Path(path))
    if interrupted:
        raise Interrupted(f"interrupted; {len(done)} finished rows are kept")
    failed = sum(bool(row.get("failed")) for row in done)
    if failed:
        raise TransferError(f"{failed} of {len(done)} rows failed; each says why")


def _report(options: argparse.Namespace) -> None:
    from transfer.bench import plot, table

    if not options.plot:
        print(table.report(options.report))
        return
    rows = [row for content in results.read(options.report) for row in content["rows"]]
    for path in options.plot:
        plot.draw(rows, Path(path))


def _compare(options: argparse.Namespace) -> None:
    from transfer.bench.compare import compare

    comparison = compare(options.compare)
    print(comparison)
    if options.fail_below and (slower := comparison.slower_than(options.fail_below)):
        names = "; ".join(f"{each.case}, {each.contender}: {each.decisive}" for each in slower)
        raise TransferError(f"slower than --fail_below={options.fail_below:g}: {names}")
