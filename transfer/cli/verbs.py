"""`python -m transfer VERB`: extract features, train heads, and every other command of the package."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags, logging

from transfer.cli.main import Action, guarded, prepare_logging
from transfer.runtime import interrupts

# Experiments, which `extract.py` and `train.py` run, too. verb -> (module, help). Their flags are absl's, as settings
# of a config are flags; `main` of the module takes them, and its `CONFIG.help` prints them.
EXPERIMENTS = {
    "extract": ("transfer.cli.extract", "turn images into features of a frozen backbone, in a store"),
    "train": ("transfer.cli.train", "train a head on features, or a whole network"),
}
# verb -> (module, help). The function of that name adds its arguments to a parser and returns what to run on them; the
# module is imported only when its verb is used.
VERBS = {
    "models": ("transfer.cli.weights", "list the models that have pretrained weights"),
    "weights": ("transfer.cli.weights", "list, describe and download weight files"),
    "convert": ("transfer.cli.weights", "convert a weight file of any format to .safetensors"),
    "arithmetic": ("transfer.cli.arithmetic", "count what networks cost: parameters, multiply-adds, receptive fields"),
    "draw": ("transfer.cli.arithmetic", "draw a network, made from the model itself, as an SVG file"),
    "features": ("transfer.cli.features", "show, verify and repair a store of features"),
    "status": ("transfer.cli.status", "show how runs are getting on: stage, rate, time left, what failed"),
    "compare": ("transfer.cli.compare", "compare runs: measures with intervals, and whether they differ"),
    "report": ("transfer.cli.report", "make a page of runs to look at: curves, errors, images, a map"),
    "predict": ("transfer.cli.predict", "classify images and folders of them by a finished run, or by a network"),
    "shots": ("transfer.cli.report", "show a run's few-shot protocol: tables, a picture"),
    "similarity": ("transfer.cli.representations", "compare taps of stores: linear CKA"),
    "transferability": ("transfer.cli.representations", "score taps without a head: LogME, LEEP"),
    "export": ("transfer.cli.export", "write a run as one file that needs no transfer, or its head"),
    "doctor": ("transfer.cli.doctor", "show what this machine has for the package, and what is wrong"),
    "completion": ("transfer.cli.completion", "print a shell's completions: bash, zsh, fish"),
    "bench": ("transfer.cli.bench", "measure speed: networks, heads, beside others, for other devices"),
}

ALL = {**EXPERIMENTS, **VERBS}


class Parser(argparse.ArgumentParser):
    """A parser that ends with one line and exit code 2 on bad arguments."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def _top_parser() -> Parser:
    """The parser of the verb's name alone, with the list of verbs as its help."""
    lines = [f"  {verb:15} {text}" for verb, (_, text) in ALL.items()]
    parser = Parser(
        prog="python -m transfer",
        description=__doc__,
        epilog="verbs:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=ALL, metavar="VERB", help="one of those below; VERB --help says more")
    return parser


def parser_of(verb: str) -> tuple[Parser, Action]:
    """The parser of a verb's arguments, and the function to run on them; imports the verb's module."""
    module, text = VERBS[verb]
    parser = Parser(prog=f"python -m transfer {verb}", description=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, getattr(importlib.import_module(module), verb)(parser)


def help_of(verb: str) -> str:
    """The text that `VERB --help` prints."""
    if verb in EXPERIMENTS:
        return importlib.import_module(EXPERIMENTS[verb][0]).CONFIG.help() + "\n"
    return parser_of(verb)[0].format_help()


def _expanded(argument: str) -> str:
    """The argument with a leading `~` as the home, in `--output=~/page.html` too, where a shell leaves it as it is."""
    name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return name + equals + os.path.expanduser(value)


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit code, but for an experiment, which exits."""
    verb = _top_parser().parse_args(arguments[:1]).verb
    if verb in EXPERIMENTS:
        importlib.import_module(EXPERIMENTS[verb][0]).main(arguments[1:])
    given = [_expanded(argument) for argument in arguments]
    parser, action = parser_of(verb)
    # a benchmark writes down the command that made it
    parser.set_defaults(arguments=given[1:])
    options = parser.parse_args(given[1:])
    # log lines look as they do in train.py, where absl starts the program
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    prepare_logging()
    code = guarded(lambda: action(options), options.debug)
    interrupts.set_exit_code(code)
    return code
