"""A config's head, resolved once: its settings, what trains it, and what of the config's values it would refuse."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from transfer import config as settings
from transfer import heads
from transfer.data.source import TARGETS
from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.heads.programs import Program

# What of `config.head` says how a head is run, not what it is.
RUN = ("name", "target", "order", "window", "schedule", "keep", "patience")
# What of `config.sweep` says how settings are chosen; the rest are values to choose among.
CHOICE = ("holdout", "seed", "measure", "grid")
# Parameters of an estimator that no config sets: chance is `config.seed`'s, and rows are always shuffled.
NO_SETTINGS = ("seed", "random_state", "shuffle")
# How a config writes None where a head's default is something else: None itself asks for the default.
NONE = "none"


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """Everything that a config says of its head; see `resolve_head`."""

    name: str
    target: str  # what it predicts: "classes", "labels" or "values"
    settings: Mapping[str, Any]  # all of its settings, those that the config leaves open at the head's defaults
    grid: Mapping[str, tuple]  # setting -> the values of `config.sweep` to choose among
    choice: Mapping[str, Any]  # how they are chosen: `holdout`, `seed` and `measure` of `transfer.sweep`
    tap: str | None  # `config.tap`, several separated by commas, of which one is chosen; None for feature files
    seed: int
    program: "Program | None"  # what trains it epoch by epoch; None where it is fitted in one go
    # with all settings of the head in it, as `config.json` has them whatever defaults become later
    config: ConfigDict

    @property
    def taps(self) -> list[str]:
        """The names of the taps."""
        return [name.strip() for name in (self.tap or "").split(",")]

    @property
    def chooses(self) -> bool:
        """Whether something is to be chosen on held-out rows: settings, or one of several taps."""
        return bool(self.grid) or len(self.taps) > 1

    @property
    def reason_for_in_memory(self) -> str | None:
        """The setting for which all rows must be in the memory of one process, as a message names it; None: none.

        Over several devices, and on rows that are streamed, the published head is trained by its published recipe.
        """
        from transfer.heads.programs import LINEAR

        if self.chooses:
            return "config.sweep" if self.grid else f"config.tap={self.tap}"
        if self.target != "classes":
            return f"config.head.target={self.target}"
        for key in ("scaling", "class_weight"):
            if self.settings.get(key) is not None:
                return f"config.head.{key}={self.settings[key]}"
        if self.program is not LINEAR:
            return f"config.head.name={self.name}"
        decay = self.settings["weight_decay"]
        return f"config.head.weight_decay={decay}" if decay else None

    def estimator(self, **changed: Any) -> Any:
        """The head as an estimator that is not fitted yet, some of its settings changed."""
        return make(self.name, self.target, {**self.settings, **changed}, self.seed)

    def check_values(self) -> None:
        """Raises UsageError for values that an estimator of ours would refuse, those to choose among included."""
        for changed in ({}, *({key: value} for key, values in self.grid.items() for value in values)):
            # the setting at fault is one of those that are changed, or else the config's own
            with settings.named(self.settings, "config.head"), settings.named(changed, "config.sweep"):
                getattr(self.estimator(**changed), "check_parameters", lambda: None)()


def resolve_head(config: ConfigDict) -> HeadSettings:
    """All that a config says of its head; the config stays as it is.

    Raises UsageError for an unknown head, for settings that it does not take, and for a sweep over no values.
    """
    name, target, tap = config.head.name, config.head.get("target", "classes"), config.get("tap")
    if target not in TARGETS:
        raise UsageError(f"config.head.target={target!r} is not one of {', '.join(TARGETS)}")
    try:
        defaults, program = takes(name, target), _program(name, target)
    except UsageError as error:
        raise UsageError(f"config.head.name: {error}") from error
    given = {key: value for key, value in settings.given(config.head).items() if key not in RUN}
    check_known("head", name, given, defaults)
    own = {key: given.get(key, value) for key, value in defaults.items()}
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        for key, value in own.items():
            # a setting that has no value either way is written as one that was left out
            resolved.head[key] = None if value == NONE and defaults[key] is None else value
        if program is not None and program.anneals:
            # the learning rate of each step depends on how many there are: no run may go on to another number
            resolved.head["schedule"] = resolved.head.epochs
    own = {key: None if value == NONE else value for key, value in own.items()}
    sweep = config.get("sweep") or {}
    grid = _grid(sweep, name, target, defaults)
    choice = {key: sweep[key] for key in CHOICE if key in sweep and key != "grid"}
    head = HeadSettings(name, target, own, grid, choice, tap, config.seed, program, resolved)
    head = dataclasses.replace(head, program=None) if head.chooses else head
    if head.program is None:
        _check_epochs_kept(head)
    return head


def _check_epochs_kept(head: HeadSettings) -> None:
    """Raises UsageError for settings about the epochs of a head that is fitted in one go."""
    for name, usual in (("keep", "last"), ("patience", None)):
        value = head.config.head.get(name, usual)
        if value != usual:
            why = "config.sweep fits it in one go" if head.chooses else f"config.head.name={head.name} has no epochs"
            raise UsageError(f"config.head.{name}={value} is for a head that is trained epoch by epoch: {why}")


def _program(name: str, target: str) -> "Program | None":
    return heads.find_program(name) if target == "classes" else None


def takes(name: str, target: str = "classes") -> dict[str, Any]:
    """The settings of the head `name` and their defaults; UsageError for an unknown head."""
    if (program := _program(name, target)) is not None:
        return {**program.defaults, "scaling": None, "class_weight": None}
    return {key: value for key, value in _parameters(estimator(name, target)).items() if key not in NO_SETTINGS}


def estimator(name: str, target: str = "classes") -> type:
    """The estimator class of the head `name` for a target; UsageError for an unknown head, or one without it."""
    return heads.regressor(name) if target == "values" else heads.HEADS[name]


def make(name: str, target: str, own: Mapping[str, Any], seed: int) -> Any:
    """The head as an estimator with its own settings, and `seed` where it takes one."""
    made_by: Callable[..., Any] = estimator(name, target)
    chance = {key: seed for key in ("seed", "random_state") if key in _parameters(made_by)}
    return made_by(**own, **chance)


def _parameters(made_by: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of an estimator class and their defaults."""
    return {
        key: None if taken.default is taken.empty else taken.default
        for key, taken in inspect.signature(made_by).parameters.items()
        if taken.kind not in (taken.VAR_POSITIONAL, taken.VAR_KEYWORD)
    }


def _grid(sweep: Mapping[str, Any], name: str, target: str, defaults: Mapping[str, Any]) -> dict[str, tuple]:
    """The values that `config.sweep` tries, by the setting; empty where nothing is to be chosen."""
    grid = {
        key: tuple(None if value == NONE else value for value in values)
        for key, values in sweep.items()
        if key not in CHOICE and values is not None
    }
    if sweep.get("grid") is not None:
        if sweep["grid"] != "default":
            raise UsageError(f"config.sweep.grid={sweep['grid']!r} should be 'default', or left out")
        own = getattr(estimator(name, target), "GRID", {})
        if not own:
            raise UsageError(f"config.sweep.grid=default: {name} has no values of its own; name some in config.sweep")
        grid = {**own, **grid}
    check_known("sweep", name, grid, defaults)
    for key, values in grid.items():
        if not values:
            raise UsageError(f"config.sweep.{key} has no value to try")
    return grid


def check_known(section: str, name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises UsageError for settings of a section that the head `name` does not take."""
    for key in given:
        if key not in known:
            raise UsageError(f"config.{section}.{key}: the head {name} takes no {key}; it takes {', '.join(known)}")
