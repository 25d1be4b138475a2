"""Settings on the command line, and config files: what is taken, and what is said of the rest."""

import inspect
import json
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.cli import config_flags
from transfer.errors import UsageError
from transfer.experiment import config_file

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def flat(config):
    return settings.flat(json.loads(config.to_json_best_effort()))


USUAL = flat(settings.default())
# A value of each type of setting, as it is written, and as it is.
VALUES = {int: ("3", 3), float: ("0.5", 0.5), str: ("text", "text"), bool: ("true", True), tuple: ("(1, 2)", [1, 2])}
UNSET = {name: None for name, value in USUAL.items() if value is None}
SECTIONS = [name for name in config_flags._names(settings.default()) if name not in USUAL]


def applied(*arguments, config=None):
    config = settings.default() if config is None else config
    assert config_flags.apply(config, ["train.py", *arguments]) == ["train.py"]
    return flat(config)


def kind(name):
    section = settings.default()
    *path, last = name.split(".")
    for part in path:
        section = section[part]
    return section.get_type(last)


def refusal(*arguments, config=None):
    with pytest.raises(UsageError) as error:
        applied(*arguments, config=config)
    text = str(error.value)
    assert "\n" not in text and "\\" not in text and "<class" not in text
    return text


@pytest.mark.parametrize("name", UNSET)
def test_none_takes_back_every_setting_that_may_be_without_a_value(name):
    written, value = VALUES[kind(name)]
    config = settings.default()
    assert applied(f"--config.{name}={written}", config=config) == {**USUAL, name: value}
    assert applied(f"--config.{name}=None", config=config) == USUAL
    assert applied(f"--config.{name}={written}", f"--config.{name}=None") == USUAL
    assert applied(f"--config.{name}=None", f"--config.{name}={written}") == {**USUAL, name: value}


@pytest.mark.parametrize("name", [name for name, value in USUAL.items() if value is not None])
def test_none_is_no_value_of_the_others(name):
    assert refusal(f"--config.{name}=None").startswith(f"config.{name}=None: it needs a value; by default it is ")


@pytest.mark.parametrize("name", SECTIONS)
def test_none_makes_a_section_what_it_is_by_default(name):
    config, changed = settings.default(), {}
    for setting in USUAL:
        if setting.startswith(f"{name}."):
            written, changed[setting] = VALUES[kind(setting)]
            applied(f"--config.{setting}={written}", config=config)
    assert flat(config) == {**USUAL, **changed} != USUAL
    assert applied(f"--config.{name}=None", config=config) == USUAL
    (first, *_) = changed
    again = applied(f"--config.{name}=None", f"--config.{first}={VALUES[kind(first)][0]}", config=config)
    assert again == {**USUAL, first: changed[first]}
    assert f"config.{first}" in refusal(f"--config.{first}={VALUES[kind(first)][0]}", f"--config.{name}=None")


def test_a_section_of_the_file_alone():
    config = settings.default()
    config.few_shot = dict(per_class=3, seeds=2)
    assert applied("--config.few_shot=None", config=config) == {**USUAL, "few_shot": None}


def test_a_folder_of_that_name():
    assert applied("--config.features=./None")["features"] == "./None"


def test_other_arguments_stay_where_they_are():
    config = settings.default()
    others = ["--workdir", "run", "--config=a.py", "x", "--epochs=3", "--debug"]
    arguments = ["train.py", "--config.tap", "logits", *others[:3], "--noconfig.report", *others[3:], "-config.seed=-1"]
    assert config_flags.apply(config, arguments) == ["train.py", *others]
    assert (config.tap, config.report, config.seed) == ("logits", False, -1)


MEANT = {
    "batchsize": "batch_size",
    "Batch_Size": "batch_size",
    "head.lr": "head.learning_rate",
    "head.wd": "head.weight_decay",
    "head.c": "head.C",
    "haed.epochs": "head.epochs",
    "head.learning-rate": "head.learning_rate",
    "learning_rate": "finetune.learning_rate, config.head.learning_rate or config.sweep.learning_rate",
    "data.sourse": "data.source",
    "model.init_from.weight": "model.init_from.weights",
    "data.features": "features",
}


@pytest.mark.parametrize("wrong", MEANT)
def test_what_may_be_meant(wrong):
    assert refusal(f"--config.{wrong}=1") == f"there is no config.{wrong}; did you mean config.{MEANT[wrong]}?"


@given(st.sampled_from([name for name in USUAL if len(name.rpartition(".")[2]) > 4]), st.data())
def test_a_letter_that_is_missing(name, data):
    section, dot, last = name.rpartition(".")
    place = data.draw(st.integers(0, len(last) - 1))
    wrong = f"{section}{dot}{last[:place]}{last[place + 1 :]}"
    if wrong not in USUAL:
        assert f"config.{name}" in re.split(r", | or |\?|did you mean ", refusal(f"--config.{wrong}=1"))


def test_names_that_are_like_none():
    assert refusal("--config.data.nope=1").startswith("there is no config.data.nope; config.data has class_in_name, ")
    assert refusal("--config.seed.x=1") == "there is no config.seed.x: config.seed is one setting"
    assert refusal("--config.=1").startswith("there is no config.; config has ")


WRONG = {int: ("ten", "1.5", ""), float: ("ten", "1,5"), bool: ("maybe", "2"), ConfigDict: ("5", "{'C': 5", "vgg16")}
WANTED = {int: "a whole number", float: "a number", bool: "True or False", ConfigDict: "settings and values"}


@pytest.mark.parametrize("name", [name for name in [*USUAL, *SECTIONS] if name in SECTIONS or kind(name) in WRONG])
def test_values_of_another_type(name):
    wanted = ConfigDict if name in SECTIONS else kind(name)
    for value in WRONG[wanted]:
        said = refusal(f"--config.{name}={value}")
        assert said.startswith(f"config.{name}={value}: it must be {WANTED[wanted]}")


def test_what_is_long_is_cut():
    long = "x" * 2000
    name, value = refusal(f"--config.head.{long}=1"), refusal(f"--config.seed={long}")
    assert name.startswith("there is no config.head.xxx") and len(name) < 1000
    assert value.startswith("config.seed=xxx") and value.endswith("x: it must be a whole number") and len(value) < 500


def variants(path):
    """The arguments that a config file takes, and what its `get_config` is called with by default."""
    module = runpy.run_path(str(path))
    named = (value for key, value in module.items() if key in ("VARIANTS", "NETWORKS", "BACKBONES", "EXPERIMENTS"))
    parameters = inspect.signature(module["get_config"]).parameters.values()
    usual = [one.default for one in parameters]
    return next((list(found) for found in reversed([*named]) if usual and usual[0] in found), usual)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_argument_of_a_config_file(path):
    known = variants(path)
    for name in known:
        assert flat(config_file.load(f"{path}:{name}"))
    with pytest.raises(UsageError) as error:
        config_file.load(f"{path}:{known[0][:-1] + '?' if known else 'x'}")
    said = str(error.value)
    assert said.startswith(f"--config={path}:") and "\n" not in said and "Error" not in said
    if not known:
        assert said.endswith("the config takes no argument, and is given 'x'")
    elif path.stem != "pretrain_vgg11_slim_cifar10":
        assert ", ".join(known) in said and f"did you mean {known[0]}" in said


FILES = {
    "no function": ("x = 1", "the file has no get_config()"),
    "no return": ("def get_config(): pass", "get_config() returns NoneType, not a config; is its `return` missing?"),
    "an argument is needed": ("def get_config(name): pass", "the config takes an argument, --config=FILE:ARGUMENT"),
    "a line fails": ("x = 1\n\ndef get_config():\n    return {}['a']", "line 4: KeyError: 'a'"),
    "below a line": ("import json\njson.loads('{')", "line 2: JSONDecodeError: "),
    "no Python": ("x = (\n", "SyntaxError: '(' was never closed"),
    "no such setting": (
        "from transfer import config\ndef get_config():\n    c = config.default()\n    c.lock().x = 1",
        "line 4: ",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_config_files_that_are_wrong(case, tmp_path):
    text, said = FILES[case]
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        config_file.load(str(path))
    assert str(error.value).startswith(f"--config={path}: {said}")


@pytest.mark.parametrize("way", settings.WAYS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_refused_can_be_left_out_as_the_message_says(path, way):
    config = config_file.load(str(path))
    applied(f"--config.train={way}", config=config)
    try:
        settings.check_use(config)
    except UsageError as error:
        refused = str(error)
        before = flat(config)
        _, _, flags = refused.partition("; to leave out what is set: ")
        applied(*flags.split(), config=config)
        settings.check_use(config)
        changed = {name for name in before if flat(config).get(name) != before[name]}
        assert changed and all(f"config.{name.partition('few_shot.')[0]}" in refused for name in changed)
