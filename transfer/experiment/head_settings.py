"""Which settings a head takes, and what they are where a config leaves them open."""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from transfer import config as settings
from transfer import heads
from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.heads.programs import Program

# What of `config.head` says how a head is run, not what it is.
RUN = ("name", "target", "order", "window", "schedule")
# What of `config.sweep` says how settings are chosen; the rest are values to choose among.
CHOICE = ("holdout", "seed", "measure", "grid")
TARGETS = ("classes", "labels", "values")
# Of an estimator, what no config sets: chance is `config.seed`'s, and rows are always shuffled.
NO_SETTINGS = ("seed", "random_state", "shuffle")
# How a config writes None where a head's default is something else: None itself asks for the default.
NONE = "none"


def program(name: str) -> "Program | None":
    """What trains the head epoch by epoch; None for a head that is fitted in one go. UsageError for an unknown one."""
    return heads.find_program(name)


def takes(name: str, target: str = "classes") -> dict[str, Any]:
    """The settings of the head `name` and their defaults; UsageError for an unknown head."""
    found = program(name) if target == "classes" else None
    if found is None:
        return {key: value for key, value in _parameters(estimator(name, target)) if key not in NO_SETTINGS}
    return {**found.defaults, "scaling": None, "class_weight": None}


def estimator(name: str, target: str = "classes") -> type:
    """The estimator class of the head `name` for a target; UsageError for an unknown head, or one without it."""
    if target not in TARGETS:
        raise UsageError(f"config.head.target={target!r} is not one of {', '.join(TARGETS)}")
    return heads.regressor(name) if target == "values" else heads.HEADS[name]


def _parameters(found: type) -> Iterator[tuple[str, Any]]:
    for key, parameter in inspect.signature(found).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield key, None if parameter.default is parameter.empty else parameter.default


def make(name: str, target: str, own: dict[str, Any], seed: int) -> Any:
    """The head as an estimator with its own settings, and `seed` where it takes one."""
    found = estimator(name, target)
    taken = dict(_parameters(found))
    chance = {key: seed for key in ("seed", "random_state") if key in taken}
    return found(**own, **chance)


def check(config: ConfigDict) -> None:
    """Raises UsageError for values that the head of a resolved config would refuse, those of its sweep included."""
    name, target, usual = config.head.name, config.head.get("target", "classes"), own(config)
    tried = [{key: value} for key, values in grid(config).items() for value in values]
    for changed in ({}, *tried):
        head = make(name, target, {**usual, **changed}, config.seed)
        if hasattr(head, "check_parameters"):  # a head of ours (`transfer.heads.estimator`)
            with settings.named(usual, "config.head"), settings.named(changed, "config.sweep"):
                head.check_parameters()


def own(config: ConfigDict) -> dict[str, Any]:
    """The settings of a resolved config's head, without those of other heads."""
    known = takes(config.head.name, config.head.get("target", "classes"))
    return {key: None if config.head[key] == NONE else config.head[key] for key in known}


def grid(config: ConfigDict) -> dict[str, tuple]:
    """The values that `config.sweep` tries, by the setting; empty where nothing is to be chosen.

    Raises UsageError for settings that the head does not take, and for no values.
    """
    sweep = config.get("sweep") or {}
    wanted = {
        key: tuple(None if value == NONE else value for value in values)
        for key, values in sweep.items()
        if key not in CHOICE and values is not None
    }
    name, target = config.head.name, config.head.get("target", "classes")
    if sweep.get("grid") is not None:
        if sweep["grid"] != "default":
            raise UsageError(f"config.sweep.grid={sweep['grid']!r} should be 'default', or left out")
        usual = getattr(estimator(name, target), "GRID", {})
        if not usual:
            raise UsageError(f"config.sweep.grid=default: {name} has no values of its own; name some in config.sweep")
        wanted = {**usual, **wanted}
    _check_known("sweep", name, wanted, takes(name, target) if wanted else {})
    for key, values in wanted.items():
        if not values:
            raise UsageError(f"config.sweep.{key} has no value to try")
    return wanted


def chooses(config: ConfigDict) -> bool:
    """Whether a resolved config leaves something to be chosen on held-out rows: settings, or one of several taps."""
    return bool(grid(config)) or "," in (config.get("tap") or "")


def _check_known(section: str, name: str, given: Any, known: dict[str, Any]) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"config.{section}.{key}: the head {name} takes no {key}; it takes {', '.join(known)}")


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy of the config in which every setting of its head has a value; what other heads take is None.

    So that `config.json` says what a head was trained with, whatever defaults become later. Raises UsageError for
    an unknown head and for settings that it does not take.
    """
    name, target = config.head.name, config.head.get("target", "classes")
    if target not in TARGETS:
        raise UsageError(f"config.head.target={target!r} is not one of {', '.join(TARGETS)}")
    try:
        known = takes(name, target)
    except UsageError as error:
        raise UsageError(f"config.head.name: {error}") from error
    given = {key: value for key, value in settings.given(config.head).items() if key not in RUN}
    _check_known("head", name, given, known)
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        for key, value in known.items():
            # a setting that has no value either way is written as one that was left out
            resolved.head[key] = None if value is None and given.get(key) == NONE else given.get(key, value)
        if _has_schedule(name, target):
            # the learning rate of each step depends on how many there are: no run may go on to another number
            resolved.head["schedule"] = resolved.head.epochs
    grid(resolved)
    return resolved


def _has_schedule(name: str, target: str) -> bool:
    found = program(name) if target == "classes" else None
    return found is not None and found.anneals
