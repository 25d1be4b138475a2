"""Errors of commands: one clear line and an exit code where something is wrong; --debug adds the traceback."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from logging import INFO, LogRecord
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from transfer.cli.doctor_jax import why_not
from transfer.errors import TransferError, UsageError
from transfer.runtime import distributed, interrupts, log
from transfer.runtime.files import atomic, paths

# What a verb runs on its parsed arguments.
Action = Callable[[argparse.Namespace], object]
EXIT_INTERRUPTED = interrupts.EXIT_INTERRUPTED
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


class ExitCode(int):
    """What an action returns that has an exit code of its own."""


def guarded(action: Callable[[], object], debug: bool) -> int:
    """Runs `action`; the exit code: 0 done, 1 failed, 2 bad arguments, or a `TransferError`'s own; 130 after Ctrl-C."""
    try:
        result = interrupts.interruptible(action)
    except TransferError as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return fail(interrupts.MESSAGE, EXIT_INTERRUPTED, debug)
    except MemoryError as error:
        return fail(f"out of memory: {error}", 1, debug)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        how = f"install it with: pip install {package}" if package else "install the packages again: pip install -e ."
        return fail(f"{error}; {how}", 1, debug)
    except (RuntimeError, AssertionError) as error:  # what JAX raises
        if "RESOURCE_EXHAUSTED" in str(error):
            return fail(f"out of device memory; lower the batch size ({str(error).splitlines()[0]})", 1, debug)
        if why := why_not(error):
            return fail(why, 1, debug)
        raise
    except BrokenPipeError:  # `… | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        return fail(f"{where}{error.strerror or error}{hint}", 1, debug)
    return result if isinstance(result, ExitCode) else 0


def fail(message: str, code: int, debug: bool) -> int:
    """Prints the one line of an error; returns `code`. With `debug` the error that is being handled goes on."""
    if debug:
        raise  # called from an except clause: the error that is being handled
    line, who = " ".join(message.split()), distributed.process_label()
    log.error(line if line.startswith(who) else who + line, at_once=False)
    interrupts.mark_reported()
    return code


def output_file(
    path: str, *suffixes: str, earlier: atomic.Earlier | None = None, what: str = "", flag: str = "output"
) -> epath.Path:
    """The `--output` of a verb, local or `gs://`.

    Raises UsageError unless it ends in one of the suffixes, if there are some, its folder exists and it may be written:
    `earlier` and `what` tell what may be written over, as `atomic.check_output` has them.
    """
    output = epath.Path(paths.expand(path))
    folder = os.path.dirname(os.path.abspath(output))
    if suffixes and output.suffix not in suffixes:
        raise UsageError(f"--{flag}={output} must end in {'one of ' * (len(suffixes) > 1)}{', '.join(suffixes)}")
    if "://" not in path and not os.path.isdir(folder):
        raise UsageError(f"--{flag}={output}: there is no folder {folder}")
    atomic.check_output(output, earlier, what, flag)
    return output


def prepare_logging() -> None:
    """Our own lines from INFO on, the libraries' warnings."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_worth_reading)
    sys.unraisablehook = _print_unraisable


def _print_unraisable(unraisable: Any) -> None:
    """Prints it as Python does, but for a Ctrl-C, which comes again, and for errors of event loops.

    Those come from TensorStore, which still reports to a loop of Orbax' that an error has ended.
    """
    trace = unraisable.exc_traceback
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        return
    if trace is None or trace.tb_frame.f_globals.get("__name__") != "asyncio.base_events":
        sys.__unraisablehook__(unraisable)


def _worth_reading(record: LogRecord) -> bool:
    """False for what libraries log for their developers, a hundred lines for each Orbax checkpoint, and for tracebacks.

    The error of a traceback is raised, too, and reaches the user as our one line.
    """
    ours = Path(__file__).parents[1] in Path(record.pathname).parents
    return ours or (record.levelno > INFO and record.name != "asyncio" and not record.exc_info)
