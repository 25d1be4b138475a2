"""Runs a benchmark row by row and shows it: nothing that is finished gets lost."""

import argparse
import contextlib
import importlib
import sys
from pathlib import Path

import jax

from transfer.bench import plot
from transfer.bench.results import Results
from transfer.errors import TransferError
from transfer.runtime import interrupts
from transfer.runtime.devices import use_cores
from transfer.runtime.interrupts import EXIT_INTERRUPTED


class Interrupted(TransferError):
    """Ctrl-C, after what is finished has been kept."""

    exit_code = EXIT_INTERRUPTED


def run(options: argparse.Namespace, benchmark: str) -> None:
    """Runs one benchmark.

    Args:
      options: of the verb.
      benchmark: a module beside this one with `rows(options)`, an iterator of JSON-able rows, and `table(rows)`, text.

    Raises:
      UsageError: flags that the benchmark does not take, before anything has run.
      TransferError: at the end, if a row failed.
      Interrupted: after Ctrl-C.
    """
    # where JAX has started already its devices stay what they are
    with contextlib.suppress(RuntimeError):
        use_cores()
    # compiling is measured: nothing may come from an earlier run
    jax.config.update("jax_enable_compilation_cache", False)
    module = importlib.import_module(f"transfer.bench.{benchmark}")
    results = Results(options.arguments, Path(options.output) if options.output else None)
    rows, interrupted = module.rows(options), False
    try:
        for row in rows:
            results.add(row)
        results.finish()
    except KeyboardInterrupt:
        interrupted = True
        interrupts.acknowledge()
        results.write()
    sys.stdout.write(results.text() if options.json else module.table(results.rows) + "\n")
    for path in options.plot if results.rows else ():
        plot.draw(results.rows, Path(path))
    if interrupted:
        raise Interrupted(f"interrupted; {len(results.rows)} finished rows are kept")
    failed = sum(bool(row.get("failed")) for row in results.rows)
    if failed:
        raise TransferError(f"{failed} of {len(results.rows)} rows failed; each says why")
