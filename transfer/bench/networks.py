"""The benchmark of networks: `--models` at each `--batch` in each `--dtype`, row by row."""

import argparse
import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from transfer.bench import table as tables
from transfer.bench.as_written import AsWritten
from transfer.bench.cases import DEFAULT_BATCH, Case, cases, whole_numbers, words
from transfer.bench.measure import measure
from transfer.bench.network import RANDOM
from transfer.bench.peers import PEERS
from transfer.bench.settings import Settings
from transfer.errors import UsageError
from transfer.extract.extractor import DTYPES
from transfer.extract.program import PRECISIONS
from transfer.runtime.progress import Progress

Rows = Iterator[dict[str, Any]]
table = tables.text


def rows(options: argparse.Namespace) -> Rows:
    """Checks the flags at once (UsageError); each row is measured when it is asked for."""
    dtypes = words("dtype", options.dtype)
    for flag, values, known in (("dtype", dtypes, DTYPES), ("precision", [options.precision], PRECISIONS)):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise UsageError(f"--{flag}={','.join(unknown)} is not one of {', '.join(known)}")
    chosen = cases(options.models, whole_numbers("batch", options.batch or DEFAULT_BATCH), dtypes)
    settings = _settings(options)
    return (_row(f"{i}/{len(chosen)} {case}", case, settings, options.debug) for i, case in enumerate(chosen, start=1))


def _row(title: str, case: Case, settings: Settings, debug: bool) -> dict[str, Any]:
    logging.info("%s: building and compiling", title)
    with Progress(title, settings.rounds, "rounds") as progress:
        row = measure(case, settings, lambda done: progress.update(), debug=debug)
    if row.failed:
        logging.error("%s: failed: %s", title, row.failed)
    else:
        logging.info("%s: %.4g images/s", title, row.images_per_second)
    return row.json()


def _settings(options: argparse.Namespace) -> Settings:
    if options.weights not in (None, RANDOM) and not Path(options.weights).expanduser().is_file():
        raise UsageError(f"--weights={options.weights} is no file, and not {RANDOM!r}")
    if options.peers and options.tap != Settings.tap:
        raise UsageError(f"--peers compares {Settings.tap}, not --tap={options.tap}")
    return Settings(
        tap=options.tap,
        image_size=options.image_size,
        precision=options.precision,
        weights=options.weights,
        seed=options.seed,
        rounds=options.rounds,
        seconds=options.seconds,
        peers=_peers(options.peers) if options.peers else None,
        autotune=options.autotune,
        errors=not options.no_errors,
        profile=Path(options.profile) if options.profile else None,
    )


def _peers(text: str) -> tuple[str, ...]:
    """Names that the comma separated names and wildcards stand for, upper or lower case."""
    known = [AsWritten.NAME, *PEERS]
    found: dict[str, None] = {}
    for pattern in words("peers", text):
        names = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        if not names:
            raise UsageError(f"--peers: nothing is called {pattern!r}; known are {', '.join(known)}")
        found |= dict.fromkeys(names)
    return tuple(found)
