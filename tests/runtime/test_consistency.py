"""Processes of one run with other settings, versions, rows or workdirs: one line in each that names it, no waiting."""

import hashlib
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
from head_runs import make_files
from hypothesis import given
from hypothesis import strategies as st

from transfer import config
from transfer.errors import TransferError, UsageError
from transfer.runtime import consistency, distribution

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.py"
FEW = ["--config.data.train_per_class=4", "--config.data.validation_per_class=2", "--config.few_shot.per_class=2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


def of(folder):
    return [f"--{split}_file={folder}/{name}.npz" for split, name in (("training", "train"), ("validation",) * 2)]


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    return [*value, 1] if isinstance(value, list) else value + (1 if isinstance(value, int | float) else "é")


@pytest.mark.parametrize("name", config.flat(config.default().to_dict()))
def test_every_setting_that_differs_is_named(name):
    """But for where files lie."""
    settings = config.common(config.default())
    mine, theirs = (consistency.local_facts(each) for each in (settings, settings))
    theirs["settings"] = consistency.local_facts({**settings, f"config.{name}": changed(settings[f"config.{name}"])})[
        "settings"
    ]
    consistency.check_same({0: mine, 1: mine, 2: mine})
    with pytest.raises(UsageError, match=rf"^process 2 has config\.{name}=.*, processes 0 and 1 have .*same command$"):
        consistency.check_same({0: mine, 1: mine, 2: theirs})


@pytest.mark.parametrize("name", config.PLACES)
def test_where_files_lie_may_differ(name):
    own = []
    for place in ("folder:/a", "/b/c", "d"):
        each = config.default()
        each.update_from_flattened_dict({name: place})
        own.append(consistency.local_facts(config.common(each)))
    consistency.check_same(dict(enumerate(own)))


@pytest.mark.parametrize("name", consistency.VARIABLES)
def test_every_variable_that_changes_what_is_computed_is_named(name, monkeypatch):
    for each in consistency.VARIABLES:
        monkeypatch.delenv(each, raising=False)
    unset = consistency.local_facts({})
    assert unset["variables"] == {}
    monkeypatch.setenv(name, "--b --a")
    facts = consistency.local_facts({})
    monkeypatch.setenv(name, "--a --xla_dump_to=/tmp/of_this_machine --b")
    assert consistency.local_facts({}) == facts
    with pytest.raises(UsageError) as raised:
        consistency.check_same({0: unset, 1: facts})
    assert str(raised.value) == (
        f"process 1 has {name}=--a --b, process 0 has none: set it alike in the environment of all processes"
    )


values = st.dictionaries(st.sampled_from(["a", "b.c", "é"]), st.text(max_size=200))


@given(st.lists(st.fixed_dictionaries({"versions": values, "settings": values}), min_size=1, max_size=6))
def test_what_differs_is_named_with_who_has_it(each):
    facts = dict(enumerate(each))
    differing = [
        [name for name in ("a", "b.c", "é") if len({own[kind].get(name, consistency.ABSENT) for own in each}) > 1]
        for kind in ("versions", "settings")
    ]
    if not any(differing):
        consistency.check_same(facts)
        return
    with pytest.raises(TransferError) as raised:
        consistency.check_same(facts)
    assert isinstance(raised.value, UsageError) == (not differing[0])
    assert all(name in str(raised.value) for name in differing[0] or differing[1])
    assert re.search(r"process(es)? 0(, \d+)*( and \d+)? ha(s|ve) ", str(raised.value))


@pytest.mark.parametrize("count", [2, 9, 64])
def test_many_processes_that_all_differ_are_a_short_line(count):
    facts = {
        process: consistency.local_facts({"config.seed": process, "config.x": "é" * 10_000}) for process in range(count)
    }
    with pytest.raises(UsageError) as raised:
        consistency.check_same(facts)
    assert len(str(raised.value)) < 200 and "process 1 has config.seed=1" in str(raised.value)
    facts = {
        process: consistency.local_facts({f"config.x{i}": process % 2 for i in range(100)}) for process in range(count)
    }
    with pytest.raises(UsageError, match="92 more: give all processes the same command"):
        consistency.check_same(facts)


SAME = "give all processes the same command"
# the values of `a` in processes 0, 1, …, and what is said of them
VALUES = {
    "two": ("xyxx", "process 1 has a=y, processes 0, 2 and 3 have x"),
    "four": ("xyzw", "process 1 has a=y, process 2 has z, process 3 has w, process 0 has x"),
    "five": (
        "xyzwv",
        "process 1 has a=y, process 2 has z, process 3 has w, process 0 has x (and others yet other values)",
    ),
    "eight": ("x" + 8 * "y", "processes 1, 2, 3, 4, 5, 6, 7 and 8 have a=y, process 0 has x"),
    "nine": ("x" + 9 * "y", "processes 1, 2, 3, 4, 5, 6, 7, 8, … (9 in all) have a=y, process 0 has x"),
}


@pytest.mark.parametrize(("values", "line"), VALUES.values(), ids=VALUES)
def test_what_differs_word_for_word(values, line):
    with pytest.raises(UsageError) as raised:
        consistency.check_same({process: {"settings": {"a": value}} for process, value in enumerate(values)})
    assert str(raised.value) == f"{line}: {SAME}"


def test_eight_names_are_said_and_the_others_counted():
    for count, more in ((8, ""), (9, "; 1 more"), (11, "; 3 more")):
        with pytest.raises(UsageError) as raised:
            consistency.check_same({i: {"settings": {str(name): str(i) for name in range(count)}} for i in range(2)})
        names = [f"process 1 has {name}=1, process 0 has 0" for name in range(8)]
        assert str(raised.value) == f"{'; '.join(names)}{more}: {SAME}"


def test_facts_are_versions_and_settings_long_ones_by_their_hash():
    settings = {"short": "a" * 78, "long": "a" * 39 + "é" * 40}  # with their quotes 80 and 81 letters
    facts = consistency.local_facts(settings)
    text = repr(settings["long"])
    shortened = f"{text[:40]}… (hash {hashlib.sha256(text.encode()).hexdigest()[:12]})"
    assert set(facts) == set(consistency.KINDS)
    assert facts["settings"] == {"short": repr(settings["short"]), "long": shortened}
    named = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")}
    python = "{}.{}".format(*sys.version_info)
    assert facts["versions"] == {"transfer": distribution.VERSION, "Python": python, **named}


# script, flags of all, what each process has of its own, what the line says, the exit code of all
EPOCHS = [[f"--config.head.epochs={epochs}"] for epochs in (30, 40, 30)]
OTHER = {
    "epochs": ("train.py", EPOCHS, "process 1 has config.head.epochs=40, processes 0 and 2 have 30: give all", 2),
    "of extraction": ("extract.py", EPOCHS, "process 1 has config.head.epochs=40, processes 0 and 2 have 30", 2),
    "few shots": ("train.py", [["--config.few_shot.seeds=3"], []], "process 1 has config.few_shot.seeds=10, proc", 2),
    "three": (
        "train.py",
        [[], ["--config.stream=True", "--config.mesh.data=1"], ["--config.checkpoint_seconds=1"]],
        "process 1 has config.stream=True, processes 0 and 2 have None; process 1 has config.mesh.data=1, processes "
        "0 and 2 have None; process 2 has config.checkpoint_seconds=1.0, processes 0 and 1 have 30.0",
        2,
    ),
    "data": (
        "extract.py",
        [[], ["--config.data.source=tfds:é"]],
        "process 1 has config.data.source='tfds:é', process 0 has 'digits'",
        2,
    ),
    "way of training": (
        "train.py",
        [[], ["--config.train=finetune"]],
        "process 1 has config.train='finetune', process 0 has 'head': give all",
        2,
    ),
    "of finetuning": (
        "train.py",
        [["--config.train=finetune"], ["--config.train=finetune", "--config.finetune.epochs=3"]],
        "process 1 has config.finetune.epochs=3, process 0 has ",
        2,
    ),
    "flags": ("train.py", [[], ["--lost_seconds=9"]], "process 1 has --lost_seconds=9, process 0 has 30", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("script, own, line, code", OTHER.values(), ids=OTHER)
def test_other_settings_end_all_before_anything_starts(several, tmp_path, script, own, line, code):
    settings = {"script": script, "flags": []}
    common = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *FEW]
    ended = several.run("script", settings, len(own), each=[{"flags": [*common, *flags]} for flags in own])
    for process, one in enumerate(ended):
        assert one.code == code and one.err.startswith(f"error: process {process} of {len(own)}: {line}")
        assert len(one.err.splitlines()) == 1 and not one.out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_variables(several):
    each = [{}, {"environment": {"JAX_ENABLE_X64": "1"}}]
    for process, one in enumerate(several.run("nothing", {}, 2, each=each)):
        line = f"error: process {process} of 2: process 1 has JAX_ENABLE_X64=1, process 0 has none: set it alike"
        assert one.code == 2 and one.err.startswith(line)


@pytest.mark.slow
def test_other_commands(several, files, tmp_path):
    """Feature files beside a config, extraction beside training."""
    config_, workdir = f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"
    each = [{"script": "train.py", "flags": [config_, workdir]} for _ in range(3)]
    each[1]["script"] = "extract.py"
    each[2]["flags"] = [config_, workdir, *of(files)]
    first, *others = several.run("script", {}, 3, each=each)
    assert "process 1 has the command='extract', processes 0 and 2 have 'train'" in first.err
    assert "has --training_file=none, process 2 has 'PATH', process 0 has None" in first.err
    assert [one.code for one in (first, *others)] == [2] * 3 and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_versions(several):
    ended = several.run("nothing", {}, 3, each=[{}, {}, {"version": "0.0.9"}])
    for process, one in enumerate(ended):
        line = f"error: process {process} of 3: process 2 has transfer 0.0.9, processes 0 and 1 have "
        assert one.code == 1 and one.err.startswith(line) and "install the same versions" in one.err


@pytest.mark.slow
def test_other_folders_and_other_rows(several, files, tmp_path):
    """Refused by what is in them, whatever they are called, before anything is written."""
    make_files(tmp_path / "other", rows=700)
    run = f"--workdir={tmp_path / 'run'}"
    for own, line in (
        (
            [*of(files), f"--workdir={tmp_path / 'b'}"],
            f"process 1 has --workdir={tmp_path / 'b'}, which is not the fol",
        ),
        ([*of(tmp_path / "other"), run], f"process 1 has --training_file={tmp_path / 'other'}/train.npz, whose rows"),
        ([of(files)[0], of(tmp_path / "other")[1], run], "process 1 has --validation_file="),
    ):
        settings = {"script": "train.py"}
        each = [{"flags": [*of(files), run]}, {"flags": own}]
        ended = several.run("script", settings, 2, each=each)
        assert [one.code for one in ended] == [1, 1]
        for process, one in enumerate(ended):
            assert one.errors[-1].startswith(f"error: process {process} of 2: {line}")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


@pytest.mark.slow
def test_what_may_differ(several, files, tmp_path):
    """How paths are spelled, where copies of the files lie, what a process shows, how long it waits."""
    shutil.copytree(files, tmp_path / "copy")
    (tmp_path / "link").symlink_to("run")
    own = [
        [*of(files), f"--workdir={tmp_path / 'run'}"],
        [*of(tmp_path / "copy"), f"--workdir={tmp_path}/copy/../run", "--debug", "--compilation_cache=off"],
        [*of(files), f"--workdir={tmp_path / 'link'}", "--connect_seconds=50", "--config.export=x.npz"],
    ]
    (tmp_path / "run").mkdir()
    config_ = f"--config={CONFIG}"
    settings = {"script": "train.py"}
    each = [{"flags": [config_, "--epochs=2", *flags]} for flags in own]
    ended = several.run("script", settings, 3, each=each)
    assert [one.code for one in ended] == [0] * 3, [one.err for one in ended]
    assert (tmp_path / "run" / "result.json").exists() and not list((tmp_path / "run").glob(".met*"))


@pytest.mark.slow
def test_local_copies_of_the_images(several, tmp_path):
    """A folder of each machine's own; the second time, too, where the first process alone compares with config.json."""
    from PIL import Image

    for copy in ("a", "b"):
        for label in range(2):
            (tmp_path / copy / str(label)).mkdir(parents=True)
            for row in range(12):
                Image.new("RGB", (32, 32), (20 * row, 200 * label, 9)).save(tmp_path / copy / str(label) / f"{row}.png")
    common = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", "--config.batch_size=4", *FEW]
    each = [{"flags": [*common, f"--config.data.source=folder:{tmp_path / copy}"]} for copy in ("a", "b")]
    for _ in range(2):
        ended = several.run("script", {"script": "extract.py"}, 2, each=each)
        assert [one.code for one in ended] == [0] * 2, [one.err for one in ended]
