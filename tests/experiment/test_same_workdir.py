"""A second command over a workdir: refused it changes no byte, and what was done is what is written."""

import json
import shutil
from pathlib import Path

import jax
import measured
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import TransferError, UsageError
from transfer.experiment import run as experiment
from transfer.experiment import workdirs
from transfer.experiment.head_settings import resolve_head
from transfer.runtime import preemption
from transfer.store import feature_files
from transfer.training import checkpoints

WRITTEN = ("config.json", "result.json")


def images(**changes) -> ConfigDict:
    """LeNet-5 of random numbers on a hundred digits."""
    config = settings.default()
    config.model.name, config.model.weights = "lenet5", "random"
    config.model.fields = dict(channels=1, image_size=28)
    config.tap, config.image_size, config.batch_size = "block1:flatten", 28, 32
    config.preprocessing = dict(channels="grey", interpolation="bicubic", scale=1 / 255, mean=(0.3,), std=(0.38,))
    config.data.source, config.data.train_per_class, config.data.validation_per_class = "digits", 8, 4
    config.head.epochs, config.report = 3, False
    with config.unlocked():
        config.few_shot = {"per_class": (1, 2), "seeds": 2, "heads": ("ridge",)}
    return changed(config, changes)


def changed(config: ConfigDict, changes: dict) -> ConfigDict:
    with config.unlocked():
        for name, value in changes.items():
            section, _, last = name.rpartition(".")
            owner = config
            for part in section.split(".") if section else ():
                owner = owner[part]
            owner[last] = value
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on images, of 3 epochs, and a store of another network's features."""
    folder = tmp_path_factory.mktemp("finished")
    experiment.train(images(), epath.Path(folder / "run"))
    experiment.extract(images(seed=5), epath.Path(folder / "other"))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of features."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for split in ("train", "validation"):
        labels = random.integers(0, 3, 60)
        features = (random.normal(size=(60, 5)) + labels[:, None]).astype(np.float32)
        feature_files.write(folder / f"{split}.npz", features, labels)
    return [str(folder / f"{split}.npz") for split in ("train", "validation")]


def on_files(files, workdir, **changes):
    config = settings.default()
    config.head.epochs, config.report = 3, False
    return experiment.train_on_files(changed(config, changes), *files, epath.Path(workdir))


def read(workdir: Path) -> tuple[dict, dict]:
    return tuple(json.loads((workdir / name).read_text()) for name in WRITTEN)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What training the network has no use for, back at its default.
OF_TUNING = {"tap": "pre_logits", "few_shot": None, "batch_size": 64}
REFUSED = {
    "another learning rate": {"head.learning_rate": 0.5},
    "another seed": {"seed": 1},
    "another head": {"head.name": "ridge", "head.epochs": None},
    "another network": {"model.fields": {"channels": 1, "image_size": 28, "num_classes": 7}},
    "other images": {"data.train_per_class": 7},
    "another tap": {"tap": "block2:flatten"},
    "no such tap": {"tap": "block9"},
    "another precision": {"precision": "highest"},
    "an interpolation": {"preprocessing.interpolation": "bilinear"},
    "smaller features": {"features_dtype": "bfloat16"},
    "streamed in rows": {"stream": True},
    "more devices than there are": {"mesh.data": 64},
    "a sweep": {"sweep.learning_rate": (0.1, 0.01)},
    "end to end": {"train": "finetune"} | OF_TUNING,
    "over seeds": {"seeds": 2},
    "a mistyped way with errors": {"on_error": "skpi"},
    "an export of no format": {"export": "features.csv"},
    "a few-shot head that is none": {"few_shot": {"per_class": (1,), "heads": ("lienar",)}},
    "more images a class than there are": {"few_shot": {"per_class": (99,), "heads": ("ridge",)}},
    "fewer epochs of another seed": {"head.epochs": 1, "seed": 1},
    "more epochs of another seed": {"head.epochs": 9, "seed": 1},
    "features of another network": {"features": "other/features", "batch_size": 7, "mesh.data": 1, "head.epochs": 9},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_command_changes_no_byte(case, run, finished, capsys):
    changes = dict(REFUSED[case])
    if "features" in changes:
        changes["features"] = str(finished / changes["features"])
    before = snapshot(run)
    with pytest.raises(TransferError):
        experiment.train(images(**changes), epath.Path(run))
    assert snapshot(run) == before
    capsys.readouterr()
    experiment.train(images(), epath.Path(run))
    assert "nothing to do" in capsys.readouterr().out
    assert all(snapshot(run)[name] == before[name] for name in WRITTEN)


def test_a_command_that_is_refused_in_a_new_workdir_leaves_none(finished, tmp_path):
    with pytest.raises(TransferError, match="made with other settings"):
        experiment.train(images(features=str(finished / "other" / "features")), epath.Path(tmp_path / "a" / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"head.target": "labels"}, "config.few_shot counts images a class; with config.head.target=labels it has no"),
        ({"head.target": "labels", "few_shot": None}, "digits has a class for each image, not several labels; --con"),
        ({"head.order": "any"}, "config.head.order='any' is not one of rows, chunks"),
        ({"head.name": "ridge", "head.epochs": None, "head.alpha": -1.0}, "config.head.alpha"),
        ({"head.learning_rate": -1.0}, "config.head.learning_rate must be a number above 0, not -1.0$"),
        ({"head.scaling": "standrad"}, "config.head.scaling='standrad' is unknown; there is"),
        ({"head.class_weight": "even"}, "config.head.class_weight='even' should be 'balanced', or left out$"),
        ({"head.name": "mlp", "head.hidden": (0,)}, "config.head.hidden=.* must be whole numbers of units"),
        ({"train": "finetune", "finetune.epochs": 1} | OF_TUNING, "config.finetune.warmup_epochs=1 must be less than"),
        ({"train": "finetune", "finetune.optimizer": "adma"} | OF_TUNING, "config.finetune.optimizer='adma' is not on"),
        ({"seeds": 0}, "config.seeds=0 must be at least 1"),
        ({"seeds": 2, "features": "elsewhere"}, "config.features is one folder, and each of config.seeds draws other"),
    ],
)
def test_what_a_head_refuses_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(UsageError, match=f"^{message}"):
        experiment.train(images(**changes), epath.Path(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


FREE = {
    "batch_size": 7,
    "on_error": "skip",
    "mesh.data": 1,
    "stream": False,
    "few_shot": None,
    "checkpoint_seconds": 1.0,
    "head.epochs": 2,
}


@pytest.mark.parametrize("field", FREE)
def test_where_nothing_is_done_nothing_is_written(field, run, capsys):
    before = snapshot(run)
    experiment.train(images(**{field: FREE[field]}), epath.Path(run))
    config, result = read(run)
    old = json.loads(before["config.json"])
    # how images that cannot be read are met holds for those of this command
    assert {**config, "on_error": "raise"} == old
    assert snapshot(run)["result.json"] == before["result.json"] and "few_shot" in result


def test_another_comparison_takes_the_place_of_the_first(run):
    other = {"per_class": (2,), "seeds": 1, "heads": ("ridge",)}
    experiment.train(images(few_shot=other), epath.Path(run))
    config, result = read(run)
    assert config["few_shot"] == {"per_class": [2], "seeds": 1, "heads": ["ridge"]}
    assert result["few_shot"]["per_class"] == [2] and result["epochs"] == 3


# What an older version's config.json lacks, or has and this version has not -> settings of the command, and whether
# it is refused.
OLDER = {
    "a section": (["preprocessing"], {}, {}, False),
    "a section that is set now": (["preprocessing"], {}, {"preprocessing.interpolation": "bicubic"}, True),
    "a setting": (["stratify"], {}, {}, False),
    "a setting that is set now": (["data.stratify"], {}, {"data.stratify": False}, True),
    "a setting that may change": (["mesh"], {}, {"mesh.data": 1}, False),
    "the seed": (["seed"], {}, {"seed": 3}, True),
    "the sweep": (["sweep"], {}, {"sweep.learning_rate": (0.1,)}, True),
    "the sweep, unset": (["sweep"], {}, {}, False),
    "a setting of the head": (["head.momentum"], {}, {"head.name": "sgd", "head.epochs": 4}, False),
    "a setting of the head, set now": (["head.momentum"], {}, {"head.name": "sgd", "head.momentum": 0.5}, True),
    "the schedule of the head": (["head.schedule"], {}, {"head.name": "sgd", "head.epochs": 4}, False),
    "the head's settings": (["head.scaling", "head.class_weight"], {}, {}, False),
    "an older one, unset": ([], {"old": None, "data.old": None}, {}, False),
    "an older one": ([], {"data.old": 3}, {}, True),
}


@pytest.mark.parametrize("case", OLDER)
def test_what_a_config_of_an_older_version_lacks_was_at_its_default(case, tmp_path):
    lacks, has, changes, refused = OLDER[case]
    workdir = epath.Path(tmp_path)
    usual = {name: value for name, value in changes.items() if not refused or name == "head.name"}
    older = json.loads(resolve_head(changed(settings.default(), usual)).config.to_json_best_effort())
    for name in lacks:
        *sections, last = name.split(".")
        (older[sections[0]] if sections else older).pop(last, None)
    for name, value in has.items():
        *sections, last = name.split(".")
        (older[sections[0]] if sections else older)[last] = value
    (tmp_path / "config.json").write_text(json.dumps(older))
    before = snapshot(tmp_path)
    config = resolve_head(changed(settings.default(), changes)).config
    if refused:
        with pytest.raises(TransferError, match="was made with other settings: "):
            workdirs.bind_workdir(config, workdir)
    else:
        workdirs.bind_workdir(config, workdir)
    assert snapshot(tmp_path) == before


HEADS = {
    "epoch by epoch": {},
    "in one go": {"sweep.learning_rate": (0.1, 0.01)},
    "streamed": {"head.order": "chunks", "stream": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADS)
def test_fewer_epochs_than_done(case, files, tmp_path, capsys):
    on_files(files, tmp_path, **HEADS[case], **{"head.epochs": 6})
    before = snapshot(tmp_path)
    capsys.readouterr()
    result = on_files(files, tmp_path, **HEADS[case], **{"head.epochs": 2})
    out = capsys.readouterr().out
    assert "has trained 6 epochs already; 2 asked: nothing to do; for a head of 2 give another --workdir" in out
    assert all(snapshot(tmp_path)[name] == before[name] for name in WRITTEN)
    config, written = read(tmp_path)
    assert config["head"]["epochs"] == written["epochs"] == written["settings"]["epochs"] == result["epochs"] == 6
    on_files(files, tmp_path, **HEADS[case], **{"head.epochs": 7})
    config, written = read(tmp_path)
    assert config["head"]["epochs"] == written["epochs"] == written["settings"]["epochs"] == 7


CURVES = {
    "an epoch after the last checkpoint": lambda lines: [*lines, lines[-1].replace('"epoch": 5', '"epoch": 6')],
    "half of one": lambda lines: [*lines, lines[-1][:20].rstrip()],
    "all but the last epoch": lambda lines: lines[:-1],
    "all but half of it": lambda lines: [*lines[:-1], lines[-1][:20].rstrip()],
    "no line end": lambda lines: [*lines[:-1], lines[-1].rstrip()],
}


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
def test_fewer_epochs_than_a_run_that_was_stopped_has(files, tmp_path, monkeypatch, capsys, curve):
    """It has a result then, of what was trained, and its curve has no epoch more."""
    for asked, stop in ((4, 3), (9, 5)):
        monkeypatch.setattr(preemption, "stop_at", lambda epoch, stop=stop: epoch == stop)
        with pytest.raises(preemption.Preempted):
            on_files(files, tmp_path, **{"head.epochs": asked})
        assert json.loads((tmp_path / "config.json").read_text())["head"]["epochs"] == asked
    monkeypatch.undo()
    written, before = (tmp_path / "metrics.jsonl").read_text(), measured.rows(tmp_path)
    # of a run that was killed, or the machine with it
    (tmp_path / "metrics.jsonl").write_text("".join(CURVES[curve](written.splitlines(keepends=True))))
    on_files(files, tmp_path, **{"head.epochs": 2})
    config, result = read(tmp_path)
    assert config["head"]["epochs"] == result["epochs"] == result["settings"]["epochs"] == 5
    assert measured.rows(tmp_path) == before
    on_files(files, tmp_path, **{"head.epochs": 9})
    on_files(files, tmp_path / "whole", **{"head.epochs": 9})
    assert read(tmp_path)[1]["measures"] == read(tmp_path / "whole")[1]["measures"]


def test_an_epoch_that_was_begun_is_finished(files, tmp_path, monkeypatch, capsys):
    chosen = {"head.order": "chunks", "stream": True, "head.batch_size": 4, "batch_size": 4, "head.window": 8}
    calls = iter(range(99))
    monkeypatch.setattr(preemption, "stop_at", lambda epoch: epoch == 2 and next(calls) > 2)
    with pytest.raises(preemption.Preempted):
        on_files(files, tmp_path / "run", **chosen, **{"head.epochs": 9})
    monkeypatch.undo()
    assert checkpoints.newest(epath.Path(tmp_path / "run"))[1] > 0
    on_files(files, tmp_path / "run", **chosen, **{"head.epochs": 2})
    assert "is in epoch 3 already; 2 asked: that one is finished" in capsys.readouterr().out
    config, result = read(tmp_path / "run")
    assert config["head"]["epochs"] == result["epochs"] == 3
    whole = on_files(files, tmp_path / "whole", **chosen, **{"head.epochs": 3})
    assert result["measures"] == whole["measures"]


def test_a_workdir_over_seeds_is_bound_as_well(tmp_path, capsys):
    config, workdir = images(seeds=2, few_shot=None), epath.Path(tmp_path / "run")
    experiment.train(config, workdir)
    before = snapshot(tmp_path)
    for changes in ({"seeds": None}, {"seed": 5}, {"head.learning_rate": 0.5}, {"seeds": 3, "head.epochs": 1}):
        with pytest.raises(TransferError):
            experiment.train(changed(images(seeds=2, few_shot=None), changes), workdir)
        assert snapshot(tmp_path) == before, changes
    capsys.readouterr()
    result = experiment.train(images(seeds=1, few_shot=None, **{"head.epochs": 2}), workdir)
    out = capsys.readouterr().out
    assert "2 seeds have been begun already; 1 asked" in out and out.count("has trained 3 epochs already; 2 asked") == 2
    assert (result["seeds"], len(result["runs"]), result["epochs"]) == (2, 2, 3)
    after = snapshot(tmp_path)
    assert all(after[name] == before[name] for name in before if name.endswith(WRITTEN))
    result = experiment.train(images(seeds=3, few_shot=None), workdir)
    assert (result["seeds"], len(result["runs"])) == (3, 3)


def test_a_result_says_on_what_the_head_was_trained(files, tmp_path, monkeypatch):
    result = on_files(files, tmp_path)
    monkeypatch.setattr(jax, "__version__", "0.99")
    assert on_files(files, tmp_path, **{"mesh.data": 1}) == result


@pytest.mark.parametrize(
    "folder, changes, fits",
    [
        ("features", {"head.learning_rate": 0.5}, True),
        ("features", {"head.learning_rate": 0.5, "image_size": 48}, False),
        ("features", {"tap": "logits"}, False),
        ("elsewhere", {"head.learning_rate": 0.5}, False),  # as of a run on feature files
    ],
)
def test_features_are_to_be_used_again_only_where_they_fit(tmp_path, folder, changes, fits):
    workdirs.bind_workdir(resolve_head(settings.default()).config, epath.Path(tmp_path))
    (tmp_path / folder).mkdir()
    with pytest.raises(TransferError, match="was made with other settings: ") as caught:
        workdirs.bind_workdir(resolve_head(changed(settings.default(), changes)).config, epath.Path(tmp_path))
    assert ("uses its features again" in str(caught.value)) == fits
