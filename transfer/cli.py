"""What every command shares: one clear line and an exit code where something is wrong; --debug adds the traceback."""

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from logging import INFO, LogRecord
from pathlib import PurePath

from absl import app, flags, logging

from transfer.errors import TransferError

flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

EXIT_INTERRUPTED = 128 + signal.SIGINT


def guarded(action: Callable[[], object], debug: bool) -> int:
    """Runs `action` and returns the exit code: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    try:
        action()
    except TransferError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where this one stopped", EXIT_INTERRUPTED, debug)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", 1, debug)
    except OSError as error:
        return _fail(_describe(error), 1, debug)
    return 0


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
    return f"{where}{error.strerror or error}{hint}"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        raise  # called from an except clause: the error that is being handled
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    return code


def run(main: Callable[[], object]) -> None:
    """Entry point of `train.py` and `extract.py`: parses the flags, runs `main()`, exits with its code."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_worth_reading)

    def wrapped(argv: Sequence[str]) -> int:
        def checked() -> object:
            if len(argv) > 1:
                from transfer.errors import UsageError

                raise UsageError(f"unexpected argument {argv[1]!r}; see --help")
            return main()

        return guarded(checked, flags.FLAGS.debug)

    try:
        app.run(wrapped, flags_parser=_parse_flags)
    except SystemExit as exit_:
        sys.stdout.flush()
        raise exit_


def _worth_reading(record: LogRecord) -> bool:
    """Leaves out the hundred lines that Orbax logs for each checkpoint."""
    return record.levelno > INFO or "orbax" not in record.pathname


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def default_workdir(config_flag: str) -> str:
    """`runs/NAME` for the config file that the flag names, with what follows its colon."""
    from ml_collections import config_flags

    path = config_flags.get_config_filename(flags.FLAGS[config_flag])
    return "runs/" + PurePath(path.partition(":")[0]).stem
