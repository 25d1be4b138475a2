"""`python -m transfer completion`: its scripts, in the shells that they are for."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shtab

from transfer.__main__ import main
from transfer.cli import completion
from transfer.cli.verbs import ALL, EXPERIMENTS, VERBS
from transfer.extract.extractor import DTYPES
from transfer.extract.program import PRECISIONS
from transfer.preprocess.recipe import CHOICES
from transfer.weights import catalogue

REPOSITORY = Path(__file__).parents[2]
# What a terminal does when TAB is pressed: looks up the command's function, and calls it on the words.
TAB = r"""
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
read -r -a spec <<< "$(complete -p -- "${COMP_WORDS[0]}")"
for ((i = 0; i < ${#spec[@]}; i++)); do
  [[ ${spec[i]} == -F ]] && "${spec[i+1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
done
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module", params=completion.SHELLS)
def script(request, tmp_path_factory):
    """(shell, file with its script)."""
    path = tmp_path_factory.mktemp("completion") / f"transfer.{request.param}"
    path.write_text(completion.script(request.param))
    return request.param, path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """Words, the last one begun, to what bash offers."""
    path = tmp_path_factory.mktemp("bash") / "transfer.bash"
    path.write_text(completion.script("bash"))

    def offered(*words):
        command = ["bash", "-c", TAB, "bash", str(path), *words]
        asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert asked.stderr == "", asked.stderr
        return asked.stdout.split()

    return offered


def test_is_a_script_of_the_shell(script):
    shell, path = script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(path)], check=True)


def test_bash_completes_verbs(tab):
    assert set(ALL) <= set(tab("transfer", ""))
    assert tab("transfer", "doc") == ["doctor"]
    assert tab("transfer", "tra") == ["train", "transferability"]
    assert tab("transfer", "weights", "fe") == ["fetch"]
    assert tab("transfer", "completion", "z") == ["zsh"]
    assert tab("transfer", "report", "--map", "ts") == ["tsne"]


@pytest.mark.parametrize("verb", VERBS)
def test_bash_completes_the_flags_of_every_verb(tab, verb):
    assert {"--debug", "--help"} <= set(tab("transfer", verb, "--"))


@pytest.mark.parametrize("verb", EXPERIMENTS)
def test_bash_completes_the_flags_of_experiments(tab, verb):
    offered = set(tab("transfer", verb, "--"))
    assert {f"--{name}" for name in completion.FLAGS[verb]} <= offered
    assert {"--config.head.epochs", "--config.data.source"} <= offered
    assert ("--training_file" in offered) == (verb == "train")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--config.head.ep"), ["--config.head.epochs"]),
        (("train", "--config.head.name", "rid"), ["ridge"]),
        (("extract", "--config", "quick"), ["quickstart"]),
        (("extract", "--config.model.name", "vgg11_slim"), ["vgg11_slim.cifar10"]),
        (("train", "--debug", "--training_file", "train."), ["train.py"]),
    ],
)
def test_bash_completes_values_of_experiments(tab, words, expected):
    assert sorted(tab("transfer", *words)) == expected


# Setting of a config -> all values that are offered; those of another take any value.
VALUES = {
    "model.ema": ["true", "false"],
    "model.init_from.ema": ["true", "false"],
    "train": ["head", "finetune"],
    "resize": ["pil", "float", "draft"],
    "dtype": ["float32", "bfloat16"],
    "precision": ["highest", "high", "default"],
    "on_error": ["raise", "skip"],
    "data.stratify": ["true", "false"],
    "head.name": ["knn", "linear", "logistic", "mlp", "nearest_mean", "ridge", "sgd"],
    "features_dtype": ["float32", "bfloat16"],
    "finetune.flip": ["true", "false"],
    "report": ["true", "false"],
}
# Verb -> the arguments that are files and those that are folders.
PATHS = {
    "extract": ([], ["workdir"]),
    "train": (["training_file", "validation_file"], ["workdir"]),
    "weights verify": (["weights"], []),
    "convert": (["source", "output"], []),
    "draw": (["output"], []),
    "features": (["config"], ["store", "workdir"]),
    "compare": (["output"], ["runs"]),
    "status": ([], ["runs"]),
    "report": (["output"], ["runs", "plots"]),
    "predict": (["weights", "output"], ["workdir", "compilation_cache"]),
    "shots": (["output"], ["run"]),
    "similarity": (["output"], ["stores"]),
    "transferability": (["output"], ["stores"]),
    "export": (["output"], ["workdir"]),
    "bench": (["output", "plot", "report", "compare"], ["profile", "images"]),
}


def test_every_setting_with_few_values_offers_them_all():
    offered = completion.config_values()
    assert offered.pop("config.model.name") == catalogue.names("*")
    assert {name.removeprefix("config."): values for name, values in offered.items() if values} == VALUES
    assert VALUES["resize"] == list(CHOICES["resize"]) and VALUES["precision"] == list(PRECISIONS)
    assert VALUES["dtype"] == list(DTYPES)


def test_every_argument_that_is_a_path_is_completed_as_one():
    paths = {}

    def walk(parser, verb):
        actions = [action for action in parser._actions if hasattr(action, "complete")]
        of_verb = tuple([a.dest for a in actions if a.complete is kind] for kind in (shtab.FILE, shtab.DIRECTORY))
        paths.update({verb: of_verb} if actions else {})
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, subparser in action.choices.items():
                    walk(subparser, f"{verb} {name}".strip())

    walk(completion.parser_of_all_verbs(), "")
    assert paths == PATHS


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("transfer docto", "doctor"),
        ("transfer trai", "train"),
        ("transfer train --config.head.ep", "--config.head.epochs"),
        ("transfer extract --config quick", "quickstart"),
    ],
)
def test_fish(tmp_path, line, expected):
    path = tmp_path / "transfer.fish"
    path.write_text(completion.script("fish"))
    command = ["fish", "--no-config", "-c", f"source {path}; complete -C '{line}'"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    # fish writes the description behind a tab
    assert expected in [offered.split("\t")[0] for offered in asked.stdout.splitlines()], asked.stdout + asked.stderr


@pytest.mark.parametrize("name", completion.FLAGS)
def test_flags_are_those_of_the_experiment(name):
    program = (
        f"import transfer.cli.{name}\n"
        "from absl import flags\n"
        "modules = flags.FLAGS.flags_by_module_dict()\n"
        "own = {flag.name for module in modules if 'transfer' in module for flag in modules[module]}\n"
        "print(*sorted(own | {'config'}))"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.split()
    assert found == sorted(completion.FLAGS[name])


def test_prints_the_script(capsys):
    assert main(["completion", "bash"]) == 0
    assert "complete -o bashdefault -F _shtab_transfer transfer" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["completion", "csh"])
