"""The verb `bench` of `python -m transfer`: its flags, and which benchmark they ask for."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from transfer.bench import head, plot
from transfer.errors import UsageError
from transfer.runtime.files import outputs

Action = Callable[[argparse.Namespace], None]
# Flags that stand for a benchmark of their own, the module of that name.
OTHERS = ("head", "input", "target")
# How `transfer.bench.results` begins a file.
BEGINNING = b'{\n "schema": '
EXAMPLES = """examples:
  python -m transfer bench --models='resnet*,vgg16' --batch=1,8,64 --dtype=float32,bfloat16
  python -m transfer bench --models=resnet50 --batch=16 --peers --output=resnet50.json --plot=resnet50.svg
  python -m transfer bench --head
  python -m transfer bench --input --models=resnet50,vgg16 --batch=16 --image_size=224
  python -m transfer bench --target=tpu:v5e:4x4,v4:4x4x4
  python -m transfer bench --report benchmarks/*.json

A run with --output writes the file after each row, and Ctrl-C keeps what is finished. Where memory runs out the batch
is halved. A row that fails holds its error and the run goes on; the exit code is then 1 at the end."""


def bench(parser: argparse.ArgumentParser) -> Action:
    """`bench [--models …] [--peers] …`, or with --head, --input, --target or --report."""
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    _network_arguments(parser.add_argument_group("networks"))
    _measuring_arguments(parser.add_argument_group("measuring"))
    _output_arguments(parser.add_argument_group("output"))
    head.add_arguments(parser)
    _input_arguments(parser.add_argument_group("input"))
    return _run


def _network_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--models",
        default="resnet50",
        help="comma separated names and wildcards: architectures (resnet*) or catalogue names (resnet*.tv1); resnet50",
    )
    group.add_argument("--batch", help="images a step, comma separated; 1,8; with --target those of one chip, 256")
    group.add_argument("--dtype", default="float32", help="float32, bfloat16, or both; float32")
    group.add_argument("--image_size", type=int, metavar="PX", help="left out: the network's own")
    group.add_argument("--tap", default="pre_logits", help="where features are taken; pre_logits")
    group.add_argument("--precision", default="high", help="highest, high or default; high")
    group.add_argument(
        "--weights",
        metavar="FILE|random",
        help="left out: the catalogue's file if it is on this machine, else random; an architecture's are random",
    )
    group.add_argument("--seed", type=int, default=0, help="of random weights and images; 0")


def _measuring_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rounds", type=int, default=5, help="samples of everything that is compared; 5")
    group.add_argument("--seconds", type=float, default=0.5, help="that a sample goes on at least; 0.5")
    group.add_argument(
        "--peers",
        nargs="?",
        const="*",
        metavar="NAMES",
        help="also run other libraries on the same weights, in the same rounds; all, or names and wildcards",
    )
    group.add_argument("--no_errors", action="store_true", help="don't measure what the precision costs at every tap")
    group.add_argument("--autotune", action="store_true", help="measure each convolution's algorithms here, once")
    group.add_argument("--profile", metavar="DIR", help="write a JAX profiler trace of each row there")
    group.add_argument("--head", action="store_true", help="the training of heads instead of networks")
    group.add_argument("--input", action="store_true", help="loading images, by itself and into a feature store")
    group.add_argument("--target", help="compile for devices that are not here, such as tpu:v5e:4x4 or gpu:h100")


def _input_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--images", metavar="DIR", help="class folders of JPEGs to load; left out: some are made")
    group.add_argument("--folders", help="those that are made, by name; 224x224,500x375,mixed,1000x750")


def _output_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")
    group.add_argument("--output", metavar="FILE.json", help="also write the JSON there, after each row")
    group.add_argument(
        "--plot",
        action="append",
        default=[],
        metavar="FILE",
        help="images a second and MFU over batch size, .png or .svg; may be given twice",
    )
    group.add_argument("--report", nargs="+", metavar="FILE.json", help="print the ratios in result files as Markdown")


def _run(options: argparse.Namespace) -> None:
    _check(options)
    if options.report:
        _report(options)
        return
    if options.peers or options.head:
        # others need memory of the GPU, too; read when JAX's backend starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from transfer.bench.run import run

    run(options, next((name for name in OTHERS if getattr(options, name)), "networks"))


def _check(options: argparse.Namespace) -> None:
    """UsageError for what can be seen to be wrong before anything is imported."""
    if options.rounds < 1 or options.seconds < 0:
        raise UsageError(f"--rounds={options.rounds} and --seconds={options.seconds} should be at least 1 and 0")
    _check_file(
        "output", options.output, (".json",), lambda found: found.startswith(BEGINNING), "a result of a benchmark"
    )
    for path in options.plot:
        _check_file("plot", path, plot.SUFFIXES)
    if sum(bool(getattr(options, name)) for name in (*OTHERS, "report")) > 1:
        raise UsageError(f"{', '.join(f'--{name}' for name in OTHERS)} and --report are different things; take one")


def _check_file(
    flag: str, path: str | None, suffixes: Sequence[str], earlier: outputs.Earlier | None = None, what: str = ""
) -> None:
    if path is None:
        return
    if Path(path).suffix not in suffixes:
        raise UsageError(f"--{flag}={path} must end in {' or '.join(suffixes)}")
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--{flag}={path}: there is no folder {Path(path).absolute().parent}")
    outputs.check_output(path, earlier, what, flag)


def _report(options: argparse.Namespace) -> None:
    from transfer.bench import report, results

    for path in options.plot:
        plot.draw([row for content in results.read(options.report) for row in content["rows"]], Path(path))
    if not options.plot:
        print(report.markdown(options.report))
