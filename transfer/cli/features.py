"""The verb `features` of `python -m transfer`: what a feature store is, whether it is whole, and making it so."""

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from transfer.cli.main import Action
from transfer.data.source import Source
from transfer.errors import TransferError, UsageError
from transfer.experiment.origin import Origin, of_config, of_workdir
from transfer.runtime import tables
from transfer.runtime.files import lock, paths
from transfer.runtime.files.untrusted import printable
from transfer.store.format import CONTENT, DTYPES, existing_metadata
from transfer.store.store import FeatureStore
from transfer.store.verify import Damage, remove_damage, verify

ACTIONS = ("show", "verify")


def features(parser: argparse.ArgumentParser) -> Action:
    """The verb `features [show|verify] STORE`."""
    parser.add_argument(
        "action",
        metavar="show|verify",
        help="show: what the store is (also left out); verify: read all of it, and say which rows are damaged",
    )
    parser.add_argument("store", nargs="?", metavar="STORE", help="such as WORKDIR/features/train, local or gs://")
    parser.add_argument("--repair", action="store_true", help="with verify: compute what is damaged again")
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="the run that made the store: its config.json names the images that labels and ids are compared with, "
        "and the network that computes rows again; --repair looks for it beside the store",
    )
    parser.add_argument("--config", metavar="FILE", help="a config in place of --workdir: its name, or its file")
    parser.add_argument("--split", metavar="NAME", help="train or validation; left out: what the store is named")

    def run(options: argparse.Namespace) -> None:
        if options.store is None and options.action not in ACTIONS:
            options.action, options.store = "show", options.action
        if options.action not in ACTIONS or options.store is None:
            raise UsageError(f"features {options.action}: say show or verify, and which STORE")
        options.store = options.store.rstrip("/")
        if options.action == "show":
            _show(options.store)
        else:
            _verify(options)

    return run


def _show(path: str) -> None:
    store = FeatureStore.open(path, incomplete=True)
    metadata, rows = store.metadata, len(store)
    dtype, skipped = metadata["features_dtype"], len(metadata["skipped"])
    state = "complete" if store.complete else f"{store.num_missing} of {metadata['num_images']} images are missing"
    lines = [("rows", f"{rows}, {state}")]
    lines += [("skipped", f"{skipped} images could not be read")] if skipped else []
    for tap, shape in metadata["taps"].items():
        size = rows * int(np.prod(shape)) * DTYPES[dtype].itemsize
        lines.append((f"tap {tap}", f"{dtype} {(rows, *shape)}, {size / 1e6:.1f} MB"))
    lines += [
        (store.target, str(len(store.class_names))),
        ("images", metadata["data"]),
        ("chunks", f"{store.num_chunks} of {store.chunk_rows} rows"),
        *([("shards", f"of {metadata['shard_rows']} rows")] if "shard_rows" in metadata else []),
        ("format", str(metadata["format"])),
    ]
    for name in ("fingerprint", "provenance"):
        lines += [(f"{name}.{key}", str(value)) for key, value in metadata[name].items()]
    print(tables.text(lines))


def _verify(options: argparse.Namespace) -> None:
    path = options.store
    split = options.split or os.path.basename(os.path.abspath(paths.expand(path)))
    origin = None
    if options.config:
        origin = of_config(options.config, split)
    elif options.workdir:
        origin = of_workdir(options.workdir, split)
        if origin is None:
            raise UsageError(f"--workdir={options.workdir} has no config.json")
    elif options.repair:
        origin = of_workdir(_workdir_of(path), split)
    metadata = existing_metadata(path)
    if origin:
        origin.check_source(path, metadata)
    images = None
    if CONTENT in metadata:
        images = origin.source if origin else _images_of_workdir(path, metadata, split)
    damage = verify(path, metadata, origin.source if origin else None, images)
    _print_damage(path, metadata, damage, origin is not None, images is not None)
    if damage and options.repair:
        _repair(path, metadata, damage, origin)
    elif damage:
        raise TransferError(f"{path} is damaged: {_summary(damage)}; --repair computes that again, and only that")


def _workdir_of(store: str) -> str:
    """The workdir DIR of a store DIR/features/SPLIT."""
    if store.startswith("gs://"):
        return store.rsplit("/", 2)[0]
    return str(Path(paths.expand(store)).absolute().parent.parent)


def _images_of_workdir(path: str, metadata: dict[str, Any], split: str) -> Source | None:
    """The images of the run that the store lies in, whose files are compared; None where they are not there."""
    try:
        origin = of_workdir(_workdir_of(path), split)
        source = origin.source if origin else None
    except (TransferError, OSError) as error:
        print(f"not compared with the images, which cannot be opened: {printable(str(error), 300)}")
        return None
    if origin:
        origin.check_source(path, metadata)
    return source


def _print_damage(path: str, metadata: dict[str, Any], damage: Damage, compared: bool, images: bool) -> None:
    for line in damage.lines:
        print(line)
    if damage.more:
        print(f"… and {damage.more} more")
    for start, stop in damage.batches_to_recompute:
        print(f"to compute again: rows {start} to {stop - 1}")
    if damage:
        return
    rows = metadata["num_images"] - damage.missing
    print(f"{path}: {rows} rows, each beside its label and id, every file as it was written")
    if damage.missing:
        print(f"{damage.missing} rows are not there yet; the command that began the store completes it")
    if images:
        print("the images are those that were read, byte for byte")
    if not compared:
        print("not compared with the source; --workdir=DIR or --config=FILE does that too")


def _summary(damage: Damage) -> str:
    parts = ["its metadata"] if damage.array_metadata else []
    parts += [f"{len(chunks)} chunks of {name}" for name, chunks in damage.row_metadata.items() if chunks]
    parts += [f"{damage.rows_to_recompute} rows"] if damage.batches_to_recompute else []
    parts += [f"{damage.changed_images} of them of images that have changed since"] if damage.changed_images else []
    parts += [f"{len(damage.surplus)} surplus files"] if damage.surplus else []
    return ", ".join(parts)


def _repair(path: str, metadata: dict[str, Any], damage: Damage, origin: Origin | None) -> None:
    with ExitStack() as held:
        if origin and origin.workdir:
            held.enter_context(lock.hold(origin.workdir, "workdir"))
        foreign = remove_damage(path, metadata, damage, origin.source if origin else None)
        if damage.batches_to_recompute:
            if origin is None:
                raise TransferError(
                    f"{path}: {damage.rows_to_recompute} rows are marked as missing, and no config.json says how to "
                    "extract them; the command that made the store does: "
                    "python -m transfer extract --config=FILE --workdir=DIR"
                )
            store = origin.complete(path, metadata)
            if metadata["checks_crc32"] not in (None, store.metadata["checks_crc32"]):
                print("the new rows differ from before in low bits: another device or version than then?")
    print(f"{path}: repaired")
    if damage.changed_images:
        print("a head that was trained before is of the images as they were; train again, with another --workdir")
    if foreign:
        raise TransferError(f"{path}: not ours and left alone, remove it yourself: {', '.join(foreign)}")
