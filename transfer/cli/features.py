"""The verb `features` of `python -m transfer`: what a feature store is, whether it is whole, and making it so."""

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from transfer.data.source import Source
from transfer.errors import TransferError, UsageError
from transfer.experiment.origin import Origin, of_config, of_workdir
from transfer.runtime import tables
from transfer.runtime.files import lock, paths
from transfer.runtime.files.untrusted import printable
from transfer.store.format import CONTENT, DTYPES, FORMAT, METADATA, OLD_FORMAT, read_metadata
from transfer.store.repair import is_damaged_store, rebuilt_metadata, remove_damage
from transfer.store.store import FeatureStore
from transfer.store.upgrade import upgrade
from transfer.store.verify import Damage, verify

Action = Callable[[argparse.Namespace], None]


def features(parser: argparse.ArgumentParser) -> Action:
    """`features [show|verify|upgrade] STORE`."""
    actions = {"show": _show, "verify": _verify, "upgrade": _upgrade}
    parser.add_argument(
        "action",
        metavar="show|verify|upgrade",
        help="show: what the store is (also left out); verify: read all of it, and say which rows are damaged; "
        "upgrade: bring a store of format 1 to the present one",
    )
    parser.add_argument("store", nargs="?", metavar="STORE", help="such as WORKDIR/features/train, local or gs://")
    parser.add_argument("--repair", action="store_true", help="with verify: redo what is damaged, and only that")
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="the run that made the store: its config.json names the images that labels and ids are compared with, "
        "and the network that redoes rows; --repair looks for it beside the store",
    )
    parser.add_argument("--config", metavar="FILE", help="a config in place of --workdir: its name, or its file")
    parser.add_argument("--split", metavar="NAME", help="train or validation; left out: what the store is named")

    def run(options: argparse.Namespace) -> None:
        if options.store is None and options.action not in actions:
            options.action, options.store = "show", options.action
        if options.action not in actions or options.store is None:
            raise UsageError(f"features {options.action}: say show, verify or upgrade, and which STORE")
        options.store = options.store.rstrip("/")
        actions[options.action](options)

    return run


def _show(options: argparse.Namespace) -> None:
    store = FeatureStore.open(options.store, incomplete=True)
    metadata, rows = store.metadata, len(store)
    dtype = metadata.get("features_dtype", "float32")
    state = "complete" if store.complete else f"{store.num_missing} of {metadata['num_images']} images are missing"
    lines = [("rows", f"{rows}, {state}"), ("skipped", f"{len(metadata['skipped'])} images could not be read")]
    for tap, shape in metadata["taps"].items():
        size = rows * int(np.prod(shape)) * DTYPES[dtype].itemsize
        lines.append((f"tap {tap}", f"{dtype} {(rows, *shape)}, {size / 1e6:.1f} MB"))
    lines += [
        ("classes", str(len(store.class_names))),
        ("images", metadata["data"]),
        ("chunks", f"{store.num_chunks} of {metadata['batch_size']} rows"),
        ("format", str(metadata["format"])),
    ]
    for name in ("fingerprint", "provenance"):
        lines += [(f"{name}.{key}", str(value)) for key, value in metadata[name].items()]
    print(tables.text([(key, text) for key, text in lines if not (key == "skipped" and text.startswith("0 "))]))


def _upgrade(options: argparse.Namespace) -> None:
    path = options.store
    with lock.hold(path, "feature store"):
        metadata = _metadata(path)
        if metadata["format"] == FORMAT:
            print(f"{path} has format {FORMAT} already")
            return
        upgrade(path, metadata)
    print(f"{path} has format {FORMAT} now; the checksums of its rows are those of what was there")


def _metadata(path: str) -> dict[str, Any]:
    metadata = read_metadata(path)
    if metadata is None:
        raise TransferError(f"no feature store at {path}; python -m transfer extract makes one")
    return metadata


def _origin(options: argparse.Namespace) -> Origin | None:
    if options.config:
        return of_config(options.config, _split(options))
    if options.workdir:
        if origin := of_workdir(options.workdir, _split(options)):
            return origin
        raise UsageError(f"--workdir={options.workdir} has no config.json")
    return _beside(options) if options.repair else None


def _split(options: argparse.Namespace) -> str:
    return options.split or os.path.basename(os.path.abspath(paths.expand(options.store)))


def _beside(options: argparse.Namespace) -> Origin | None:
    """By the run that the store lies in, if it does."""
    return of_workdir(_workdir_of(options.store), _split(options))


def _workdir_of(store: str) -> str:
    """DIR of DIR/features/SPLIT."""
    if store.startswith("gs://"):
        return store.rsplit("/", 2)[0]
    return str(Path(paths.expand(store)).absolute().parent.parent)


def _verify(options: argparse.Namespace) -> None:
    path, origin = options.store, _origin(options)
    metadata, error = _found(path)
    rebuilt = error is not None
    if metadata is None:
        if origin is None:
            raise TransferError(
                f"{str(error).partition(';')[0]}, and only the config can tell what they were: pass --workdir=DIR (the "
                "run that made the store) or --config=FILE, and --repair"
            ) from error
        metadata = rebuilt_metadata(path, origin.metadata(), origin.source)
    elif metadata["format"] == OLD_FORMAT:
        raise TransferError(
            f"{path} has format {OLD_FORMAT}, whose rows have no checksums; "
            f"`python -m transfer features upgrade {path}` adds them"
        )
    elif origin:
        origin.check_source(path, metadata)
    images = _images(options, origin, metadata)
    damage = verify(path, metadata, origin.source if origin else None, images)
    if error is not None:
        damage.lines.insert(0, str(error).partition(";")[0])
    _report(path, metadata, damage, origin is not None, images is not None)
    if damage and options.repair:
        _repair(path, metadata, damage, origin, rebuilt)
    elif damage:
        raise TransferError(f"{path} is damaged: {_what(damage, rebuilt)}; --repair redoes that, and only that")


def _images(options: argparse.Namespace, origin: Origin | None, metadata: dict[str, Any]) -> Source | None:
    """The source whose files are compared: the given one, else what the run beside the store had, if it is there."""
    if CONTENT not in metadata:
        return None
    if origin is not None:
        return origin.source
    try:
        beside = _beside(options)
        source = beside.source if beside else None
    except (TransferError, OSError) as error:
        print(f"not compared with the images, which are not to be had: {printable(str(error), 300)}")
        return None
    if beside:
        beside.check_source(options.store, metadata)
    return source


def _found(path: str) -> tuple[dict[str, Any] | None, TransferError | None]:
    """The metadata of the store, or what is wrong with them."""
    error: TransferError | None = None
    try:
        if metadata := read_metadata(path):
            return metadata, None
    except TransferError as found:
        error = found
    if not is_damaged_store(path):
        raise error or TransferError(f"no feature store at {path}; python -m transfer extract makes one")
    return None, error or TransferError(f"{path}/{METADATA} is missing")


def _report(path: str, metadata: dict[str, Any], damage: Damage, compared: bool, images: bool) -> None:
    for line in damage.lines:
        print(line)
    if damage.more:
        print(f"… and {damage.more} more")
    for start, stop in damage.redo:
        print(f"to redo: rows {start} to {stop - 1}")
    if not damage:
        rows = metadata["num_images"] - damage.missing
        print(f"{path}: {rows} rows, each beside its label and id, every file as it was written")
        if damage.missing:
            print(f"{damage.missing} rows are not there yet; the command that began the store completes it")
        if images:
            print("the images are those that were read, byte for byte")
        if not compared:
            print("not compared with the source; --workdir=DIR or --config=FILE does that too")


def _what(damage: Damage, rebuilt: bool) -> str:
    parts = ["its metadata"] if rebuilt or damage.metadata else []
    parts += [f"{len(chunks)} chunks of {name}" for name, chunks in damage.beside.items() if chunks]
    parts += [f"{damage.rows_to_redo} rows"] if damage.redo else []
    parts += [f"{damage.changed} of them of images that have changed since"] if damage.changed else []
    parts += [f"{len(damage.surplus)} surplus files"] if damage.surplus else []
    return ", ".join(parts)


def _repair(path: str, metadata: dict[str, Any], damage: Damage, origin: Origin | None, rebuilt: bool) -> None:
    if rebuilt and origin:
        origin.check_reproduces(path, metadata, damage.redo)
    with ExitStack() as held:
        if origin and origin.workdir:
            held.enter_context(lock.hold(origin.workdir, "workdir"))
        foreign = remove_damage(path, metadata, damage, origin.source if origin else None, rebuilt)
        if damage.redo or rebuilt:
            if origin is None:
                raise TransferError(
                    f"{path}: {damage.rows_to_redo} rows are marked as not there, and no config.json says how to "
                    "extract them; the command that made the store does: "
                    "python -m transfer extract --config=FILE --workdir=DIR"
                )
            store = origin.complete(path, metadata)
            if metadata["checks_crc32"] not in (None, store.metadata["checks_crc32"]):
                print("the rows that were redone differ in low bits from before: another device or version than then?")
    print(f"{path}: repaired")
    if damage.changed:
        print("a head that was trained before is of the images as they were; train again, with another --workdir")
    if foreign:
        raise TransferError(f"{path}: left alone, remove what you do not know: {', '.join(foreign)}")
