"""A workdir and the settings that it is bound to: `config.json`, and one run at a time."""

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from transfer.config import PLACES, default, flat, plain
from transfer.errors import TransferError
from transfer.evaluation import runs
from transfer.experiment.head_settings import resolve_head
from transfer.runtime import distributed, status
from transfer.runtime.files import atomic, lock
from transfer.runtime.files.untrusted import MAX_PRINTED, error_summary

# Settings that may change between two runs over one workdir without making its contents wrong. `config.json` has them
# as they were when what they are about was last done.
OF_FEATURES = ("batch_size", "on_error", "features", "export")
OF_TRAINING = ("head.epochs", "mesh", "stream", "checkpoint_seconds", "report")
FREE = (*OF_FEATURES, *OF_TRAINING, "few_shot")

# Settings that a message names at once.
MOST_NAMED = 8
FILE, RESULT = "config.json", "result.json"


@contextmanager
def lock_workdir(workdir: epath.Path) -> Iterator[None]:
    """Holds the workdir against a second run of it, for all processes, and keeps the status of each there.

    Leaves no folder that is empty, and no workdir that is bound to settings that were refused.

    Raises TransferError where it is held, and where the processes' workdirs are not one and the same folder.
    """
    if not distributed.is_main():
        _check_shared(workdir)
        with nullcontext() if "://" in str(workdir) else lock.working_in(Path(workdir)), status.reported(workdir):
            yield
        return
    local = Path(workdir)
    new = [] if "://" in str(workdir) else list(itertools.takewhile(lambda p: not p.exists(), (local, *local.parents)))
    try:
        with lock.hold(workdir, "workdir"), unless_refused(workdir):
            _check_shared(workdir)
            with status.reported(workdir, (workdir / RESULT).exists()):
                yield
    finally:
        with suppress(OSError):  # one has become something
            for folder in new:
                folder.rmdir()


def _check_shared(workdir: epath.Path) -> None:
    """Raises TransferError unless all processes see one folder here, by whatever path each of them reaches it."""
    if distributed.process_count() == 1:
        return
    mark = f".met-{uuid.uuid4().hex}"
    if distributed.is_main():
        atomic.write_text(workdir / mark, "")
    first, mark = distributed.broadcast([str(workdir), mark], "workdir")
    elsewhere = not (workdir / mark).exists()
    distributed.barrier("workdir seen")
    if distributed.is_main():
        (workdir / mark).unlink()
    reason = f"has --workdir={workdir}, which is not the folder {first} of process 0; give all processes the same one"
    distributed.fail_everywhere(reason if elsewhere else "", "workdir elsewhere")


def bind_workdir(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes `config.json` on a workdir's first run; on a later one, refuses settings that would contradict it.

    A later run writes nothing here: what it does about settings that may change, it says when that is done (`record`).
    Of several processes the first writes; all refuse, but where files lie is for the first to say.

    Raises TransferError where the workdir was made with other settings; the message names them.
    """
    check_workdir(config, workdir)
    path = workdir / FILE
    if distributed.is_main() and not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, _text(plain(config)))


def check_workdir(config: ConfigDict, workdir: epath.Path) -> None:
    """Raises TransferError where the workdir was made with other settings; writes nothing."""
    made_with = _made_with(workdir)
    if made_with is None:
        return
    before, now = flat(made_with), flat(plain(config))
    defaults = _defaults(config, before)
    for given in (before, now):  # what was not there yet, or is left open, was at its default
        of_head = {name for name in defaults if name.startswith("head.") and given.get(name) is None}
        given.update({name: value for name, value in defaults.items() if name not in given or name in of_head})
    unused = {"head": "finetune.", "finetune": "head."}.get(config.get("train"), "-")
    elsewhere = () if distributed.is_main() else PLACES
    free = [f"{section}." for section in FREE]
    differing = {
        name: f"{name[:MAX_PRINTED]} was {repr(before.get(name))[:MAX_PRINTED]} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if not (before.get(name) == now.get(name) or name.startswith((unused, *free)) or name in (*FREE, *elsewhere))
        and not (name == "seeds" and None not in (before.get(name), now.get(name)))  # there may be more or fewer
    }
    if differing:
        features, fit = workdir / "features", all(name.startswith(("head.", "sweep.")) for name in differing)
        again = f" (--config.features={features} uses its features again)" if fit and features.exists() else ""
        raise TransferError(
            f"{workdir} was made with other settings: {'; '.join([*differing.values()][:MOST_NAMED])}; "
            f"take another --workdir{again}, or delete this one"
        )


def record(config: ConfigDict, workdir: epath.Path, names: Iterable[str]) -> None:
    """Writes into `config.json` how something was done: the settings `names`, all of `FREE`, as `config` has them."""
    if not distributed.is_main():
        return
    path, ours = workdir / FILE, plain(config)
    written, before = atomic.read_json(path), path.read_bytes()
    for name in names:
        section, _, last = name.rpartition(".")
        source, target = (tree.get(section, {}) if section else tree for tree in (ours, written))
        if last in source:
            target[last] = source[last]
    if _text(written).encode() != before:
        atomic.write_text(path, _text(written))


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config of the run in a workdir; what an older version had no setting for is at its default.

    Raises TransferError where `config.json` is not the config of a run.
    """

    def tuples(value: Any) -> Any:  # for lists, as a config has them
        if isinstance(value, dict):
            return {name: tuples(part) for name, part in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    config = default()
    try:
        with config.unlocked():
            config.update(tuples(atomic.read_json(workdir / FILE)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TransferError(f"{workdir / FILE} is not the config of a run ({error_summary(error)})") from error
    return config


@contextmanager
def unless_refused(workdir: epath.Path) -> Iterator[None]:
    """What a command that failed has written is removed if it is but its settings and status: they bind to nothing."""
    before = _names(workdir)
    try:
        yield
    except Exception:
        made = _names(workdir) - before
        if distributed.is_main() and all(name == FILE or name.startswith(("status", "progress")) for name in made):
            for name in made:
                (workdir / name).unlink(missing_ok=True)
        raise


def _names(folder: epath.Path) -> set[str]:
    """The names of what lies in a folder; none where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _made_with(workdir: epath.Path) -> dict[str, Any] | None:
    """The settings that a workdir is bound to, over several seeds those of its first seed; None for a new workdir."""
    seeds = runs.seeds(workdir) if workdir.is_dir() else {}
    for seed, folder in seeds.items():
        if (folder / FILE).exists():
            return {**atomic.read_json(folder / FILE), "seeds": len(seeds), "seed": seed}
    return atomic.read_json(workdir / FILE) if (workdir / FILE).exists() else None


def _defaults(config: ConfigDict, before: dict[str, Any]) -> dict[str, Any]:
    """The defaults, which settings had that a `config.json` lacks; those of the head are its own."""
    defaults = default()
    if config.get("train") != "finetune":
        defaults.head.name, defaults.head.target = config.head.name, config.head.get("target", "classes")
        defaults = resolve_head(defaults).config
    values = flat(plain(defaults))
    if "head.schedule" in values:
        values["head.schedule"] = before.get("head.epochs")
    return values


def _text(tree: dict[str, Any]) -> str:
    """The content of a `config.json`."""
    return json.dumps(tree, indent=2) + "\n"
