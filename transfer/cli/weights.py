"""The verbs `models`, `weights` and `convert` of `python -m transfer`."""

import argparse
from collections.abc import Iterable
from typing import Any

from transfer.cli.main import Action, output_file
from transfer.config import IN_FILE
from transfer.errors import UsageError
from transfer.models import registry
from transfer.runtime import tables
from transfer.weights import cache, catalogue
from transfer.weights.asked import FILE
from transfer.weights.catalogue import Record, WeightFile
from transfer.weights.create import convert_file
from transfer.weights.verify import verify


def models(parser: argparse.ArgumentParser) -> Action:
    """`models [PATTERN] [--markdown]`: a table of the catalogue."""
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'resnet*'")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/models.md shows it")

    def run(options: argparse.Namespace) -> None:
        rows = _model_rows(options.pattern)
        if options.markdown:
            print(tables.markdown(rows))
            return
        print(tables.text(rows))
        bare = sorted(set(registry.architectures()) - {record.arch for record in catalogue.records().values()})
        if options.pattern == "*" and bare:
            print(f"without pretrained weights: {', '.join(bare)}")

    return run


def _model_rows(pattern: str) -> list[list[str]]:
    """The headings and a row of text for each record; "-" where a figure is not known. No model is built."""
    rows: list[list[str]] = []
    measured = catalogue.parity()
    for record in _matching(pattern):
        height, width = record.preprocessing.image_size
        error = measured.get(record.name, {}).get("error")
        cells = {
            "name": record.name,
            "parameters": record.num_params and f"{record.num_params / 1e6:.1f} M",
            "GFLOPs": record.gflops,
            "features": record.num_features,
            "size": f"{height}" if height == width else f"{height}x{width}",
            "top-1": record.acc1,
            "data": record.dataset,
            "licence": record.licence,
            "largest relative error": None if error is None else f"{error:.1e}",
        }
        rows.append(["-" if cell is None else str(cell) for cell in cells.values()])
    return [list(cells), *rows]


def weights(parser: argparse.ArgumentParser) -> Action:
    """`weights list|info|fetch|verify`."""
    actions: dict[str, Action] = {"list": _list, "info": _info, "fetch": _fetch}
    actions["verify"] = lambda options: verify(options.name, options.weights, **_chosen(options))
    subparsers = parser.add_subparsers(dest="action", required=True, metavar="|".join(actions))
    verb = subparsers.add_parser("list", help="all weight files, and whether each is on this machine")
    verb.add_argument("pattern", nargs="?", default="*", help="such as 'resnet*'")
    verb = subparsers.add_parser("info", help="what the catalogue says about one set of weights")
    verb.add_argument("name")
    verb = subparsers.add_parser("fetch", help="download and verify a weight file, and print its path")
    verb.add_argument("name")
    verb.add_argument("--notop", action="store_true", help="the smaller file without the classifier")
    verb = subparsers.add_parser("verify", help="check a weight file: its hash, its arrays, the network's output")
    verb.add_argument("name")
    verb.add_argument("--weights", metavar="FILE", help="this file (default: the shipped, cached or downloaded one)")
    _add_choices(verb)
    return lambda options: actions[options.action](options)


# In the header of a file that `convert` has written, and of no other.
CONVERTED = b'"source_sha256"'


def convert(parser: argparse.ArgumentParser) -> Action:
    """`convert SOURCE --model NAME --output FILE.safetensors [--by_names]`, and which of its tensors."""
    parser.add_argument("source", help="a weight file of any supported format")
    parser.add_argument("--model", required=True, help="a name of the catalogue, or an architecture")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    text = "load by tensor names and shapes, even where the file describes another network"
    parser.add_argument("--by_names", action="store_true", help=text)
    _add_choices(parser)

    def run(options: argparse.Namespace) -> None:
        output = output_file(
            options.output, ".safetensors", earlier=lambda found: CONVERTED in found, what="a weight file"
        )
        count = convert_file(options.source, options.model, output, by_names=options.by_names, **_chosen(options))
        print(f"{output}: {count} arrays of {options.model}, {output.stat().length / 1e6:.1f} MB")

    return run


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds what chooses among the tensors of a file."""
    parser.add_argument("--key", help="the state dict to take from a PyTorch file that holds several")
    parser.add_argument("--prefix", help="of the names of the tensors to take, where several networks are in the file")
    parser.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    text = "what follows the network in a whole Keras model is the classifier"
    parser.add_argument("--head", choices=[FILE], help=text)


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in IN_FILE}


def _matching(pattern: str) -> list[Record]:
    names = catalogue.names(pattern)
    if not names:
        catalogue.get(pattern)  # raises, with the nearest names
    return [catalogue.get(name) for name in names]


def _files(record: Record) -> Iterable[tuple[str, WeightFile]]:
    yield record.name, record.file
    if record.notop:
        yield f"{record.name} (notop)", record.notop


def _state(file: WeightFile) -> str:
    if not cache.local_path(file).is_file():
        return "missing" if file.url is None else "not downloaded"
    return "shipped" if file.url is None else "cached"


def _list(options: argparse.Namespace) -> None:
    rows = [("name", "state", "verified by", "file")]
    for record in _matching(options.pattern):
        rows += [(name, _state(file), file.verified_by, file.filename) for name, file in _files(record)]
    print(tables.text(rows))
    print(f"cache: {cache.cache_dir()}")


def _info(options: argparse.Namespace) -> None:
    record = catalogue.get(options.name)
    skipped = {"file", "notop", "fields", "preprocessing"}
    plain = {key: value for key, value in vars(record).items() if key not in skipped and value not in (None, "", ())}
    rows = [(key, ", ".join(map(str, v)) if isinstance(v, tuple) else str(v)) for key, v in plain.items()]
    error = catalogue.parity().get(record.name, {})
    rows += [(f"measured.{key}", str(value)) for key, value in error.items()]
    rows += [("fields", ", ".join(f"{key}={value}" for key, value in record.fields) or "the architecture's own")]
    rows += [(f"preprocessing.{key}", str(value)) for key, value in vars(record.preprocessing).items()]
    for (_, file), title in zip(_files(record), ("file", "notop"), strict=False):
        rows += [(f"{title}.{key}", str(value)) for key, value in vars(file).items() if value is not None]
        rows += [(f"{title}.verified by", file.verified_by)]
        rows += [(f"{title}.path", f"{cache.local_path(file)} ({_state(file)})")]
    print(tables.text(rows))


def _fetch(options: argparse.Namespace) -> None:
    record = catalogue.get(options.name)
    if options.notop and record.notop is None:
        raise UsageError(f"{record.name} has no separate file without classifier")
    path, sha256 = cache.fetch(record, notop=options.notop)
    print(f"{path}\nsha256 {sha256}")
