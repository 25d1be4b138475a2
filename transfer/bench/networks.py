"""The benchmark of networks: `--models` at each `--batch` in each `--dtype`, row by row."""

import argparse
import dataclasses
import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from transfer.bench import table as tables
from transfer.bench.cases import DEFAULT_BATCH, Case, cases_of, words
from transfer.bench.contenders import PlainFlax
from transfer.bench.measure import Settings, measure
from transfer.bench.network import RANDOM
from transfer.bench.peers.processes import PEERS, TAP
from transfer.errors import UsageError
from transfer.runtime.progress import Progress

table = tables.text


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Checks the flags at once (UsageError); each row is measured when it is asked for."""
    cases = cases_of(options, DEFAULT_BATCH)
    if options.weights not in (None, RANDOM) and not Path(options.weights).expanduser().is_file():
        raise UsageError(f"--weights={options.weights}: there is no such file; give one, or {RANDOM}")
    if options.peers and options.tap != TAP:
        raise UsageError(f"--peers compares {TAP}, not --tap={options.tap}")
    shared = ("tap", "image_size", "precision", "weights", "seed", "rounds", "seconds", "autotune")
    settings = Settings(
        **{name: getattr(options, name) for name in shared},
        peers=_peers(options.peers) if options.peers else (),
        errors=not options.no_errors,
        profile=Path(options.profile) if options.profile else None,
    )
    return (_row(f"{i}/{len(cases)} {case}", case, settings, options.debug) for i, case in enumerate(cases, start=1))


def _row(title: str, case: Case, settings: Settings, debug: bool) -> dict[str, Any]:
    logging.info("%s: building and compiling", title)
    with Progress(title, settings.rounds, "rounds") as progress:
        row = measure(case, settings, lambda done: progress.update(), debug=debug)
    if row.failed:
        logging.error("%s: failed: %s", title, row.failed)
    else:
        logging.info("%s: %.4g images/s", title, row.images_per_second)
    return dataclasses.asdict(row)


def _peers(text: str) -> tuple[str, ...]:
    """Names that the comma separated names and wildcards stand for, upper or lower case."""
    known = [PlainFlax.NAME, *PEERS]
    names: dict[str, None] = {}
    for pattern in words("peers", text):
        matching = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        if not matching:
            raise UsageError(f"--peers: nothing is called {pattern!r}; known are {', '.join(known)}")
        names |= dict.fromkeys(matching)
    return tuple(names)
