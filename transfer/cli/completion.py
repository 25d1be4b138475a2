"""`python -m transfer completion SHELL`: a script that makes a shell complete this project's commands.

shtab makes it of the verbs' parsers, for `transfer …`; templates of ours add `python -m transfer …`, and the flags of
`train` and `extract`, verbs and scripts, which are absl's.
"""

import argparse
import importlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from transfer import config as settings
from transfer import heads
from transfer.cli.completion_scripts import CASES, TEMPLATES
from transfer.cli.scripts import FLAGS, SWITCHES
from transfer.cli.verbs import EXPERIMENTS, VERBS
from transfer.experiment import config_file

Action = Callable[[argparse.Namespace], None]
# Shell -> how its start-up file takes the script in, and for good.
SHELLS = {
    "bash": 'eval "$(python -m transfer completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(python -m transfer completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "python -m transfer completion fish > ~/.config/fish/completions/transfer.fish",
}
# What the value of an argument of a verb is, by the name that its help has for it.
FOLDERS, FILES = ("DIR", "FOLDER", "RUN", "STORE", "runs", "workdir"), ("FILE", "source", "output")


def completion(parser: argparse.ArgumentParser) -> Action:
    """`completion bash|zsh|fish`."""
    usage = "\n".join(f"  {line}" for line in SHELLS.values())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"to use it:\n{usage}"
    parser.add_argument("shell", choices=SHELLS, help="for which the script is printed")
    return lambda options: print(script(options.shell))


def script(shell: str) -> str:
    """The whole script for one of `SHELLS`."""
    import shtab

    known = fields()
    cases = [CASES[shell].format(flag=name, values=" ".join(few)) for name, few in known.items() if few]
    parts = {"CASES": "\n".join(cases), "CONFIGS": " ".join(config_file.packaged())}
    for name, own in FLAGS.items():
        parts[name.upper()] = " ".join(f"--{flag}" if flag in SWITCHES else f"--{flag}=" for flag in (*own, *known))
    ours = TEMPLATES[shell]
    for name, part in parts.items():
        ours = ours.replace(f"@{name}@", part)
    made = shtab.complete(verbs(), shell)
    return f"{made}\n{ours}" if shell != "zsh" else f"{_sourced(made)}\n{ours}"


def _sourced(made: str) -> str:
    """shtab's script for zsh, which is to lie in $fpath, as one that `eval` can take."""
    return made.replace("if [[ $zsh_eval_context[-1] == eval ]]; then", "if true; then")


def verbs() -> argparse.ArgumentParser:
    """A parser that knows every verb, as shtab wants it; each verb's module is imported, but for experiments."""
    top = argparse.ArgumentParser(prog="transfer", description="experiments, and everything around them")
    below = top.add_subparsers(dest="verb")
    for verb, (_, text) in EXPERIMENTS.items():  # their flags are in our own templates
        below.add_parser(verb, help=text, description=text)
    for verb, (module, function, text) in VERBS.items():
        own = below.add_parser(verb, help=text, description=text)
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        getattr(importlib.import_module(module), function)(own)
        _mark(own)
    return top


def _mark(parser: argparse.ArgumentParser) -> None:
    """Tells shtab which arguments are files and which are folders."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark(inner)
        elif isinstance(action.choices, dict):  # shtab takes a dict for verbs below
            action.choices = list(action.choices)
        names = {action.dest, *_texts(action.metavar)}
        kind = shtab.DIRECTORY if names & set(FOLDERS) else shtab.FILE if names & set(FILES) else None
        if kind is not None and action.choices is None and action.nargs != 0:
            action.complete = kind  # type: ignore[attr-defined]


def _texts(metavar: Any) -> Iterable[str]:
    return (metavar,) if isinstance(metavar, str) else metavar or ()


def fields() -> dict[str, list[str]]:
    """Each field of a config, "config.head.epochs", with the values that it may have where they are few."""
    from transfer.weights import catalogue

    few = {"model.name": catalogue.names("*"), "head.name": list(heads.HEADS), "train": ["head", "finetune"]}
    few |= {"on_error": ["raise", "skip"], "features_dtype": ["float32", "bfloat16"], "resize": ["pil", "float"]}
    usual = settings.flat(json.loads(settings.default().to_json_best_effort()))
    found = {}
    for name, value in usual.items():
        found[f"config.{name}"] = ["true", "false"] if isinstance(value, bool) else few.get(name, [])
    return found
