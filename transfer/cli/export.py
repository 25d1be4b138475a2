"""`python -m transfer export`: a finished run as files that others use without this package."""

import argparse

from transfer.cli.main import Action, output_file
from transfer.errors import UsageError

ANY = "any"
PLATFORMS = "cpu,cuda,tpu"
FORMATS = ("stablehlo", "safetensors", "onnx", "keras")
ENDINGS = tuple(f".{name}" for name in FORMATS)


def export(parser: argparse.ArgumentParser) -> Action:
    """Adds the verb's arguments; returns what to do with them."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a finished run on images")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"to write: {', '.join(ENDINGS)}")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="stablehlo: all of it, from uint8 images to probabilities; the others: the head alone, from features to "
        "probabilities; default: what the name of the file ends in",
    )
    parser.add_argument(
        "--platforms", default=PLATFORMS, metavar="LIST", help=f"that a stablehlo file runs on; default: {PLATFORMS}"
    )
    parser.add_argument(
        "--input_size",
        default=ANY,
        metavar="any|N|HxW",
        help="of the images that a stablehlo file takes, pixels; default: any, and they are resized as in the run",
    )
    return _export


def _export(options: argparse.Namespace) -> None:
    path = output_file(options.output, *ENDINGS)
    form = options.format or path.suffix[1:]
    if path.suffix != f".{form}":
        raise UsageError(f"--output={path} should end in .{form}, as --format={form} has it")
    platforms, size = _platforms(options.platforms), _input_size(options.input_size)
    if form != "stablehlo" and (options.platforms != PLATFORMS or size is not None):
        raise UsageError(f"--platforms and --input_size are for --format=stablehlo, not for {form}: leave them out")
    from transfer.export import artefacts, finished_run

    run = finished_run.load(options.workdir)
    if form == "stablehlo":
        written = artefacts.write_program(run, path, platforms, size)
    else:
        written = artefacts.write_head(run, path, form)
    for file in written:
        print(f"{file} ({file.stat().length / 1e6:.3f} MB)")


def _platforms(text: str) -> tuple[str, ...]:
    from transfer.export.program import PLATFORMS as KNOWN

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in KNOWN:
            raise UsageError(f"--platforms={text!r}: {name!r} is not one of {', '.join(KNOWN)}")
    return names


def _input_size(text: str) -> tuple[int, int] | None:
    if text == ANY:
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise UsageError(f"--input_size={text!r} should be {ANY}, or pixels such as 224 or 224x320 (height x width)")
    return int(sides[0]), int(sides[-1])
