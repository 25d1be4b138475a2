"""What is kept on disk for the next run: where it lies, and compiled programs (JAX's own cache).

A folder of compiled programs that cannot be used costs a run its compilations, never its result: one warning line,
and it goes on.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

from absl import logging

HELP = (
    "Where compiled programs are kept for the next run: a folder, or off. "
    "Default: $JAX_COMPILATION_CACHE_DIR, else ~/.cache/transfer/compiled."
)
OFF = "off"
# Above so many bytes the entries that were not used for longest go, to half of it.
LIMIT = 2 << 30
# JAX's defaults leave out what compiles in under a second; a head is a few dozen such programs.
SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}


def cache_dir() -> Path:
    """The folder of what can be fetched or made again: $TRANSFER_CACHE, else `~/.cache/transfer`; it need not exist."""
    return Path(os.environ.get("TRANSFER_CACHE") or "~/.cache/transfer").expanduser()


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--compilation_cache` to a verb of `python -m transfer`; its value is for `keep_compiled`."""
    parser.add_argument("--compilation_cache", metavar="DIR", help=HELP)


def keep_compiled(where: str | None = None) -> None:
    """Keeps what is compiled from now on in the folder `where`, by default (None) the user's own; "off" keeps none."""
    import jax

    if where == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    folder = where or jax.config.values["jax_compilation_cache_dir"] or str(cache_dir() / "compiled")
    if "://" not in folder:
        folder = os.path.abspath(os.path.expanduser(folder))
        try:
            _prepare(Path(folder))
        except OSError as error:
            logging.warning("%s: %s; compiled programs are not kept (--compilation_cache=DIR)", folder, error.strerror)
            jax.config.update("jax_enable_compilation_cache", False)
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    _report_once(folder)


def _prepare(folder: Path) -> None:
    """Makes the folder and keeps it within `LIMIT`; OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "not writable", str(folder))
    entries = [(entry, entry.stat()) for entry in os.scandir(folder) if entry.name.endswith("-cache")]
    size = sum(status.st_size for _, status in entries)
    if size > LIMIT:
        for entry, status in sorted(entries, key=lambda pair: pair[1].st_atime):
            Path(entry.path).unlink(missing_ok=True)
            size -= status.st_size
            if size <= LIMIT // 2:
                break


def _report_once(folder: str) -> None:
    """Makes one line of the warnings that JAX gives for every program that it cannot read or write.

    A process that was killed, or a full disk, leaves half an entry, which JAX neither mends nor replaces: so that the
    warning does not come back with every run, a folder with an entry that cannot be read is emptied.
    """
    show_usually, reported = warnings.showwarning, False

    def show(message: Warning | str, *rest: Any, **named: Any) -> None:
        nonlocal reported
        text = " ".join(str(message).split())
        if "persistent compilation cache entry" not in text:
            show_usually(message, *rest, **named)  # type: ignore[arg-type]
        elif not reported:
            reported = True
            logging.warning("compilation cache %s: %s", folder, text)
            if "reading" in text and "://" not in folder:
                for entry in Path(folder).glob("*-cache"):
                    entry.unlink(missing_ok=True)

    warnings.showwarning = show
