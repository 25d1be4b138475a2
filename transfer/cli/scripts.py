"""The flags and the config of `train` and `extract`, and how they begin and end as one of several processes."""

import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.cli import config_flags
from transfer.cli.main import fail, guarded, prepare_logging
from transfer.errors import TransferError, UsageError, similar
from transfer.experiment import config_file
from transfer.runtime import cache, distributed, interrupts, log, preemption, progress
from transfer.runtime.files import paths

CONFIG = flags.DEFINE_string(
    "config",
    None,
    "The experiment: the NAME of a config listed below, whatever files lie in the current folder, or a file's path, "
    "which has a / in it or ends in .py; then :ARGUMENT, where it takes one. --config.FIELD=VALUE changes a setting.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run keeps its files, local or gs://; the same command resumes it. Default: runs/NAME."
)
flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.DEFINE_string("compilation_cache", None, cache.HELP)
flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, where several processes run this command together; with --num_processes and --process_id. "
    "Default: what Slurm, Open MPI, a TPU pod or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID say.",
)
flags.DEFINE_integer("num_processes", None, "How many processes; 1: this one alone, whatever the environment says.")
flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
flags.DEFINE_integer(
    "connect_seconds", distributed.CONNECT_SECONDS, "How long to wait for the other processes to come.", lower_bound=1
)
flags.DEFINE_integer(
    "hang_seconds",
    progress.HANG_SECONDS,
    "After so long without a batch or a step the stacks of all threads are printed, as at SIGUSR1; 0: never.",
    lower_bound=0,
)
flags.DEFINE_enum(
    "log_format",
    "text",
    log.FORMATS,
    "How lines on stderr are written; json: an object each, with time, level, process and message.",
)
flags.DEFINE_integer(
    "lost_seconds",
    distributed.LOST_SECONDS,
    "How long after a process' machine has gone the others end; a killed process ends them at once.",
    lower_bound=2,
)

RUN = ("config", "workdir")
SHARED = (
    *("compilation_cache", "coordinator", "num_processes", "process_id", "connect_seconds", "lost_seconds"),
    *("hang_seconds", "log_format", "debug"),
)
# Experiment -> its flags, beside --config.FIELD, in the order of use.
FLAGS: dict[str, tuple[str, ...]] = {
    "train": (*RUN, "training_file", "validation_file", "epochs", "batch_size", *SHARED),
    "extract": (*RUN, *SHARED),
}
SWITCHES = ("debug",)

HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-?"}


def run(main: Callable[[], object], config: "Config", arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of an experiment: parses the flags, runs `main()`, exits with its code.

    `arguments` are those of the verb; without them a script runs, and they are the command line's.
    """
    prepare_logging()
    if arguments is None:
        config.program = f"python {PurePath(sys.argv[0]).name}"
    argv = sys.argv if arguments is None else [config.program, *arguments]

    def checked(argv: Sequence[str]) -> object:
        if len(argv) > 1:
            raise UsageError(f"unexpected argument {argv[1]!r}; see --help")
        try:
            return main()
        except preemption.Preempted:
            distributed.finish()  # that everything is saved is true of all processes, or said by none
            raise

    def wrapped(argv: Sequence[str]) -> int:
        preemption.install()
        progress.watch_for_hangs(flags.FLAGS.hang_seconds)
        try:
            code = guarded(partial(checked, argv), flags.FLAGS.debug)
            preemption.part_is_over()
            return code if distributed.process_count() == 1 else _leave(code)
        except Exception:
            if distributed.process_count() == 1:
                raise
            sys.excepthook(*sys.exc_info())
            return _leave(1)

    try:
        app.run(wrapped, argv, flags_parser=partial(_parse_flags, config))
    except SystemExit as exit_:
        sys.stdout.flush()
        if isinstance(exit_.code, int):
            interrupts.set_exit_code(exit_.code)
        if exit_.code == preemption.EXIT_PREEMPTED:
            interrupts.leave()  # Python's own end would wait for what the device has begun
        raise exit_


def _parse_flags(config: "Config", argv: Sequence[str]) -> list[str]:
    try:
        arguments: list[str] = flags.FLAGS(config.parse(argv))
        log.use(flags.FLAGS.log_format, logging.get_absl_handler())
        return arguments
    except UsageError as error:
        if "--debug" in argv:
            raise
        message = str(error)
    except (flags.Error, ValueError) as error:
        message = f"{error}; see --help"
        if isinstance(error, flags.UnrecognizedFlagError) and "." in error.flagname:  # means a setting
            first, _, rest = error.flagname.partition(".")
            meant = rest if similar(first, ["config"]) else error.flagname
            message = f"Unknown command line flag {error.flagname!r}. Did you mean: config.{meant} ?; see --help"
    log.error(" ".join(message.split()), at_once=False)
    sys.exit(2)


def _leave(code: int) -> int:
    """Ends one of several processes: together with the others, or, after an error, at once.

    Nobody would come to the meeting at which JAX's own end of the program waits, so an error ends the process here.
    """
    if code in (0, preemption.EXIT_PREEMPTED):
        try:
            distributed.shutdown()
            return code
        except TransferError as error:
            code = fail(str(error), error.exit_code, debug=False)
    distributed.abort()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def prepare_jax(settings: Mapping[str, Any] | None = None) -> None:
    """Prepares JAX before it starts, once the arguments are known to be good.

    Where this is one of several processes, they meet here. Only the first goes on printing.

    Args:
        settings: what has to be the same in all of them beside the command (`transfer.config.common`); the flags of
            this module are each one's own.
    """
    given = flags.FLAGS
    distributed.initialise(
        given.coordinator,
        given.num_processes,
        given.process_id,
        given.connect_seconds,
        given.lost_seconds,
        {"the command": PurePath(sys.argv[0]).name, **(settings or {})},
    )
    if distributed.process_count() > 1:
        _only_main_prints()
    cache.keep_compiled(given.compilation_cache)
    from transfer.runtime.devices import use_cores

    use_cores()


def _only_main_prints() -> None:
    """Keeps on stdout only what process 0 prints: no lines of C++ (Gloo's) and of other processes."""
    sys.stdout.flush()
    rest = os.open(os.devnull, os.O_WRONLY)
    if distributed.is_main():
        kept, buffered = os.dup(1), sys.stdout.line_buffering
        sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, buffering=1 if buffered else -1)  # noqa: SIM115
    else:
        logging.set_verbosity(logging.WARNING)
    os.dup2(rest, 1)


class Config:
    """The experiment that `--config`, `--config.FIELD=VALUE` and `--workdir` describe, and its help.

    Attributes:
        command: "train" or "extract".
        program: how it is called: as the verb, or `run` says as which script.
        config: that of the file, or the default one, with the settings applied; once the arguments are parsed.
    """

    def __init__(self, command: str, text: str) -> None:
        self.command, self.program, self._text = command, f"python -m transfer {command}", text
        self.config: ConfigDict

    @property
    def path(self) -> str | None:
        """The config file, None where the flag was left out."""
        return CONFIG.value

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Reads the config and applies the settings to it; returns the arguments without those.

        Raises UsageError where the file or a setting is wrong.
        """
        arguments = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
        if not HELP.isdisjoint(arguments):
            sys.exit(guarded(lambda: print(self.help(), flush=True), debug=False))
        file = _file(arguments)
        self.config = settings.default() if file is None else config_file.load(file)
        return config_flags.apply(self.config, arguments)

    def help(self) -> str:
        """The help: what the command does, its flags in the order of use, and the configs of the package."""
        lines = [self._text.replace("COMMAND", self.program).strip(), "", "Flags:"]
        for name in FLAGS[self.command]:
            flag = flags.FLAGS[name]
            title = f"--{name}" if name in SWITCHES else f"--{name}={flag.flag_type().split()[0].upper()}"
            lines += ["", *_entry(title, flag.help or "")]
        lines += ["", "--helpfull lists the flags of the libraries, too.", ""]
        lines += ["Configs that come with the package:", ""]
        for name, text in config_file.summaries().items():
            lines += _entry(name, text)
        return "\n".join(lines)

    def workdir(self, name: str | None = None) -> str:
        """The `--workdir`, or `runs/` and `name` (default: the config file's)."""
        stem = PurePath(name or (self.path or "").partition(":")[0]).stem
        return paths.expand(WORKDIR.value or f"runs/{stem}")


def _entry(title: str, text: str) -> list[str]:
    """Two lines of help: a title, and the text below it, indented."""
    return [f"  {title}", textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _file(arguments: Sequence[str]) -> str | None:
    """The value of `--config`, the last one that is given."""
    file = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            file = value if equals else following
    return file
