"""The verbs `similarity` and `transferability` of `python -m transfer`: feature stores compared without any head."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from transfer.cli.main import Action, output_file
from transfer.errors import TransferError, UsageError
from transfer.evaluation.similarity import cka_matrix
from transfer.evaluation.transferability import leep, logme
from transfer.runtime import tables
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress
from transfer.store.store import FeatureStore, StoredArray

LOGITS = "logits"
_STORE = "such as WORKDIR/features/validation, local or gs://"


class SelectedRows:
    """Rows `which` of a tap, in that order, read when they are used."""

    def __init__(self, rows: StoredArray, which: np.ndarray) -> None:
        self._rows, self._which = rows, which
        self.shape = (len(which), *rows.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice) -> np.ndarray:
        return self._rows[self._which[key]]


def similarity(parser: argparse.ArgumentParser) -> Action:
    """`similarity STORE [STORE]`."""
    parser.add_argument("stores", nargs="+", metavar="STORE", help=f"one, or two of the same images; {_STORE}")
    _add_common(parser)
    parser.add_argument(
        "--debiased",
        action="store_true",
        help="with the unbiased estimator; the plain form tends to 1 where columns outnumber rows",
    )

    def run(options: argparse.Namespace) -> None:
        if len(options.stores) > 2:
            raise UsageError(f"similarity compares one or two stores, not {len(options.stores)}")
        output = output_file(options.output, ".csv") if options.output else None
        stores = [FeatureStore.open(path) for path in options.stores]
        which = _aligned(stores, options.rows, options.seed)
        sides = [
            {tap: SelectedRows(store.tap(tap), rows) for tap in _taps(store, options.tap)}
            for store, rows in zip(stores, which, strict=True)
        ]
        left, right = sides[0], sides[-1]
        with Progress("Comparing", len(left) * len(right), "pairs") as progress:
            values = cka_matrix(
                left, None if len(sides) == 1 else right, debiased=options.debiased, done=progress.update
            )
        rows = [["", *right], *([tap, *line.tolist()] for tap, line in zip(left, values, strict=True))]
        print(f"{'debiased ' * options.debiased}linear CKA over {len(next(iter(left.values())))} rows")
        _show(rows, output)

    return run


def transferability(parser: argparse.ArgumentParser) -> Action:
    """`transferability STORE …`."""
    parser.add_argument("stores", nargs="+", metavar="STORE", help=f"features of images with labels; {_STORE}")
    _add_common(parser)

    def run(options: argparse.Namespace) -> None:
        output = output_file(options.output, ".csv") if options.output else None
        stores = [FeatureStore.open(path) for path in options.stores]
        taps = [(store, tap) for store in stores for tap in _taps(store, options.tap)]
        rows: list[list[Any]] = [["store", "tap", "size", "rows", "LogME", "LEEP"]]
        with Progress("Scoring", len(taps), "taps") as progress:
            for store, tap in taps:
                chosen = _drawn(np.arange(len(store)), options.rows, options.seed)
                rows.append([store.path, tap, *_scores(store, tap, chosen)])
                progress.update()
        _show(rows, output)

    return run


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tap", metavar="NAME[,NAME]", help="taps to take (default: all)")
    parser.add_argument("--rows", type=int, metavar="N", help="take N rows, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --rows (default: 0)")
    parser.add_argument("--output", metavar="FILE.csv", help="also write the table there, in full precision")


def _taps(store: FeatureStore, wanted: str | None) -> Sequence[str]:
    chosen = store.taps if wanted is None else wanted.split(",")
    for tap in chosen:
        store.tap(tap)  # says which there are
    return chosen


def _drawn(rows: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """`count` of the rows, in their order; all where there are fewer."""
    if count is None:
        return rows
    if count < 1:
        raise UsageError(f"--rows={count} must be at least 1")
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]


def _aligned(stores: Sequence[FeatureStore], count: int | None, seed: int) -> list[np.ndarray]:
    """The rows of each store whose ids all of them have, in the order of the first."""
    ids = [store.ids for store in stores]
    if all(of_store == ids[0] for of_store in ids):
        return [_drawn(np.arange(len(ids[0])), count, seed)] * len(stores)
    places = [{name: row for row, name in enumerate(of_store)} for of_store in ids]
    for store, of_store, place in zip(stores, ids, places, strict=True):
        if len(place) < len(of_store):
            raise TransferError(f"{store.path} has several rows of one id; rows cannot be aligned by id")
    shared = np.array([row for row, name in enumerate(ids[0]) if all(name in place for place in places)], int)
    if not len(shared):
        raise TransferError(f"{stores[0].path} and {stores[1].path} have no id in common: not the same images")
    longest = max(map(len, ids))
    if len(shared) < longest:
        logging.warning("%d of %d rows are in both stores; the others are left out", len(shared), longest)
    chosen = _drawn(shared, count, seed)
    return [np.array([place[ids[0][row]] for row in chosen]) for place in places]


def _scores(store: FeatureStore, tap: str, chosen: np.ndarray) -> list[Any]:
    from scipy.special import softmax

    features = SelectedRows(store.tap(tap), chosen)
    labels = store.labels[chosen]
    is_logits = tap == LOGITS and len(features.shape) == 2
    score = leep(softmax(np.asarray(features[:], np.float64), axis=1), labels) if is_logits else ""
    return [int(np.prod(features.shape[1:])), len(features), logme(features, labels), score]


def _show(rows: list[list[Any]], output: epath.Path | None) -> None:
    """Four digits of each number for a person, all of them for the file."""
    shown = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    print(tables.text(shown, left=1))
    if output:
        atomic.write_text(output, tables.separated(rows))
