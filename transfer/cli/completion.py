"""`transfer completion SHELL`: a script, which shtab makes of the verbs' parsers, for completions of `transfer …`."""

import argparse
import importlib
import json
from typing import Any

from absl import flags

from transfer import config as settings
from transfer import heads
from transfer.cli.main import Action
from transfer.cli.scripts import FLAGS, SWITCHES
from transfer.cli.verbs import ALL, EXPERIMENTS
from transfer.data.loader import ON_ERROR
from transfer.experiment import config_file
from transfer.store.format import DTYPES
from transfer.weights import catalogue

# Shell -> how its start-up file takes the script in.
SHELLS = {
    "bash": 'eval "$(transfer completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(transfer completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "transfer completion fish > ~/.config/fish/completions/transfer.fish",
}
# Choices that the extractor and the preprocessing check.
PRECISIONS, RESIZES = ("highest", "high", "default"), ("pil", "float", "draft")
# Arguments whose values are folders or files, by the name that help shows.
FOLDERS = {"DIR", "RUN", "STORE", "workdir"}
FILES = {"FILE", "FILE.json", "source", "output", "training_file", "validation_file"}


def completion(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `completion bash|zsh|fish`; returns what prints the script."""
    usage = "\n".join(f"  {line}" for line in SHELLS.values())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"to use it:\n{usage}"
    parser.add_argument("shell", choices=SHELLS, help="for which the script is printed")
    return lambda options: print(script(options.shell))


def script(shell: str) -> str:
    """The script for one of `SHELLS`."""
    import shtab

    made = shtab.complete(parser_of_all_verbs(), shell)
    # shtab's script for zsh is to lie in $fpath; `eval` takes this one, too
    return made.replace("if [[ $zsh_eval_context[-1] == eval ]]; then", "if true; then")


def parser_of_all_verbs() -> argparse.ArgumentParser:
    """A parser that knows every verb with its arguments; each verb's module is imported."""
    top = argparse.ArgumentParser(prog="transfer", description="extract features, train heads, and more")
    subparsers = top.add_subparsers(dest="verb")
    for verb, (module, text) in ALL.items():
        parser = subparsers.add_parser(verb, help=text, description=text)
        if verb in EXPERIMENTS:
            _add_flags(parser, verb)
        else:
            parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
            getattr(importlib.import_module(module), verb)(parser)
        _mark_paths(parser)
    return top


def _add_flags(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds the flags of an experiment, which absl parses, and the settings of its config."""
    importlib.import_module(EXPERIMENTS[verb][0])
    for name in FLAGS[verb]:
        choices = config_file.packaged() if name == "config" else getattr(flags.FLAGS[name].parser, "enum_values", None)
        kwargs: dict[str, Any] = {"action": "store_true"} if name in SWITCHES else {"choices": choices}
        parser.add_argument(f"--{name}", help=(flags.FLAGS[name].help or "").replace("%", "%%"), **kwargs)
    for name, values in config_values().items():
        parser.add_argument(f"--{name}", choices=values or None)


def config_values() -> dict[str, list[str]]:
    """The settings of a config, such as "config.head.epochs", with its values where they are few."""
    few = {"model.name": catalogue.names("*"), "head.name": heads.HEADS, "train": settings.WAYS, "on_error": ON_ERROR}
    few |= {"dtype": DTYPES, "features_dtype": DTYPES, "precision": PRECISIONS, "resize": RESIZES}
    defaults = settings.flat(json.loads(settings.default().to_json_best_effort()))
    return {
        f"config.{name}": ["true", "false"] if isinstance(value, bool) else list(few.get(name, ()))
        for name, value in defaults.items()
    }


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Tells shtab which arguments are files and which are folders."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _mark_paths(subparser)
        elif isinstance(action.choices, dict):  # shtab takes a dict for subparsers
            action.choices = list(action.choices)
        names = {action.dest, *((action.metavar,) if isinstance(action.metavar, str) else action.metavar or ())}
        kind = shtab.DIRECTORY if names & FOLDERS else shtab.FILE if names & FILES else None
        if kind is not None and action.choices is None and action.nargs != 0:
            action.complete = kind  # type: ignore[attr-defined]
