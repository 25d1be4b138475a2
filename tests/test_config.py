"""A workdir is bound to the settings that it was made with, and to no others."""

import json
import re
import runpy
from pathlib import Path

import pytest
from etils import epath

from transfer import config as settings
from transfer import experiment
from transfer.errors import TransferError, UsageError
from transfer.experiment import workdirs


@pytest.mark.parametrize(
    "field, value, binds",
    [
        ("head.learning_rate", 0.5, True),
        ("seed", 1, True),
        ("model.name", "vgg16.keras", True),
        ("data.train_per_class", 3, True),
        ("preprocessing.interpolation", "bicubic", True),
        ("head.epochs", 99, False),
        ("batch_size", 3, False),
        ("features", "elsewhere", False),
        ("features_dtype", "bfloat16", True),
        ("head.order", "chunks", True),
        ("mesh.data", 2, False),
        ("stream", True, False),
        ("finetune.crop", 1, False),
        ("head.alpha", 0.5, True),
        ("head.target", "labels", True),
        ("sweep.alpha", [0.5, 0.1], True),
        ("sweep.holdout", 0.5, True),
    ],
)
def test_what_binds_a_workdir(tmp_path, field, value, binds):
    workdir, config = epath.Path(tmp_path / "run"), settings.default()
    workdirs.bind_workdir(config, workdir)
    workdirs.bind_workdir(config, workdir)
    config.update_from_flattened_dict({field: value})
    if not binds:
        workdirs.bind_workdir(config, workdir)
        return
    with pytest.raises(TransferError, match=f"{field} was .* and is {re.escape(repr(value))}"):
        workdirs.bind_workdir(config, workdir)


def test_a_workdir_of_an_older_version_lacks_settings(tmp_path):
    config = settings.default()
    older = json.loads(config.to_json_best_effort())
    del older["preprocessing"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    workdirs.bind_workdir(config, epath.Path(tmp_path))


@pytest.mark.parametrize("field", ["batch_size", "head.epochs", "head.batch_size", "finetune.epochs", "mesh.model"])
def test_counts_are_counts(field):
    config = settings.default()
    config.update_from_flattened_dict({field: 0})
    with pytest.raises(UsageError, match=f"{field}=0 must be at least 1"):
        settings.check(config)


NAMED = {
    "a value": ("tap='fc9' is none", "config.tap='fc9' is none"),
    "a sentence": ("batch_size must be at least 1, not 0", "config.batch_size must be at least 1, not 0"),
    "no setting of the section": ("window=0 is none", "window=0 is none"),
    "a word that is a setting, too": ("tap fc9 of a.png is none", "tap fc9 of a.png is none"),
}


@pytest.mark.parametrize("case", NAMED)
def test_errors_name_the_setting(case):
    said, shown = NAMED[case]
    with pytest.raises(UsageError) as error, settings.named(settings.default()):
        raise UsageError(said)
    assert str(error.value) == shown


def test_errors_of_a_sweep_name_the_sweep():
    head, sweep = settings.named(["C"], "config.head"), settings.named(["C"], "config.sweep")
    with pytest.raises(UsageError, match="^config.sweep.C=0 is none$"), head, sweep:
        raise UsageError("C=0 is none")


WITHOUT_USE = {
    "finetune": [
        ("tap", "block3:flatten"),
        ("export", "features.p"),
        ("dtype", "bfloat16"),
        ("on_error", "skip"),
        ("features", "elsewhere"),
        ("few_shot", {"per_class": 3, "seeds": 2}),
        ("batch_size", 32),
        ("sweep.alpha", (1.0, 0.1)),
        ("sweep.grid", "default"),
    ],
    "head": [("unfreeze", "block5"), ("model.init_from.model", "vgg11")],
}


@pytest.mark.parametrize("way, field, value", [(way, *row) for way, rows in WITHOUT_USE.items() for row in rows])
def test_settings_without_use_are_refused(way, field, value, tmp_path):
    config = settings.default()
    config.train = way
    settings.check_use(config)
    if "." in field:
        config.update_from_flattened_dict({field: value})
    else:
        config[field] = value
    with pytest.raises(UsageError, match=f"config.{field}=.* has no use with config.train={way}: "):
        experiment.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_two_configs_share_nothing():
    one = settings.default()
    one.finetune.head_learning_rate, one.model.init_from.model = 0.5, "vgg11"
    other = settings.default()
    assert other.finetune.head_learning_rate is None and other.model.init_from.model is None


CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_sets_what_it_uses(path):
    module = runpy.run_path(str(path))
    for arguments in [(), *((variant,) for variant in module.get("VARIANTS", ()))]:
        config = module["get_config"](*arguments)
        settings.check(config)
        settings.check_use(config)
        command = f"--config=configs/{path.name}"
        assert command in module["__doc__"]
