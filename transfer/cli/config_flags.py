"""Settings on the command line: `--config.head.epochs=100` changes one, `--config.features=None` takes one back."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path, tuple_parser

from transfer import config as settings
from transfer.errors import UsageError, did_you_mean, similar
from transfer.runtime.files.untrusted import printable

# How a setting is given: with one dash or two, its value behind "=" or as the next argument.
SETTING = re.compile(r"--?(?:no)?config\.(.*)")
NONE = "None"
# Of both ends of an error that quotes a value.
MAX_LETTERS = 200
# Stands for None in a tuple: ml_collections makes one tuple of all values that are given for a setting.
_NOTHING = object()


class _Parser(flags.ArgumentParser):
    """A parser that takes None, too, and names the type that it wants."""

    def __init__(self, parser: flags.ArgumentParser, wanted: str) -> None:
        self._parser, self._wanted = parser, wanted

    def parse(self, argument: Any) -> Any:
        if argument == NONE:
            return None
        try:
            return self._parser.parse(argument)
        except (TypeError, ValueError, SyntaxError):
            raise ValueError(f"it must be {self._wanted}") from None


class _Section(flags.ArgumentParser):
    """A parser for a whole section."""

    def parse(self, argument: Any) -> ConfigDict:
        return argument if isinstance(argument, ConfigDict) else ConfigDict(dict(ast.literal_eval(argument)))


class _Tuple(tuple_parser.TupleParser):
    """The parser of ml_collections, which takes None, too."""

    def parse(self, argument: Any) -> Any:
        return (_NOTHING,) if argument == NONE else super().parse(argument)


PARSERS: dict[type, flags.ArgumentParser] = {
    int: _Parser(flags.IntegerParser(), "a whole number"),
    float: _Parser(flags.FloatParser(), "a number"),
    bool: _Parser(flags.BooleanParser(), "True or False"),
    str: _Parser(flags.ArgumentParser(), "text"),
    ConfigDict: _Parser(_Section(), "settings and values, {'NAME': VALUE}"),
    tuple: _Tuple(),
}
for kind, parser in PARSERS.items():
    config_flags.register_flag_parser_for_type(kind, parser)


def apply(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Changes the config by the settings among the arguments of a command, and returns the other arguments.

    Raises UsageError for settings that the config does not have, with near names, and for values of another type.
    """
    given = [argument for argument in arguments if SETTING.match(argument)]
    for argument in given:
        _check_name(config, _name(argument))
    whole = _unset_sections(config, given)
    given, arguments = ([part for part in parts if part not in whole] for parts in (given, arguments))
    parsed = flags.FlagValues()
    parsed.set_gnu_getopt(True)  # the other arguments may stand between
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=parsed, sys_argv=given)
        changed = config_flags.get_override_values(parsed["config"])
        del parsed.config  # `--config=FILE` is one of the other arguments
        rest = parsed(arguments, known_only=True)
    except (flags.Error, LookupError, TypeError, ValueError) as error:
        text = " ".join(str(error).split()).removeprefix("flag --")
        if len(text) > 2 * MAX_LETTERS:
            text = f"{text[:MAX_LETTERS]}…{text[-MAX_LETTERS:]}"
        raise UsageError(text) from error
    for name, value in changed.items():
        if isinstance(value, tuple) and _NOTHING in value:
            value = value[len(value) - value[::-1].index(_NOTHING) :] or None
            config_path.set_value(name, config, value)
        if value is None:
            _unset(config, name)
    return rest


def _name(argument: str) -> str:
    """The name of a setting: head.epochs of `--config.head.epochs=100`."""
    return SETTING.sub(r"\1", argument.partition("=")[0])


def _unset_sections(config: ConfigDict, given: Sequence[str]) -> list[str]:
    """Makes sections what they are by default, where nothing in them is set before; returns the arguments for it."""
    unset = []
    for position, argument in enumerate(given):
        name = _name(argument)
        inside = any(_name(before).startswith(f"{name}.") for before in given[:position])
        if argument.endswith(f"={NONE}") and isinstance(config_path.get_value(name, config), ConfigDict) and not inside:
            _unset(config, name)
            unset.append(argument)
    return unset


def _unset(config: ConfigDict, name: str) -> None:
    """Makes a setting None, and a section what it is by default; UsageError for a setting that needs a value."""
    try:
        default = config_path.get_value(name, settings.default())
    except LookupError:  # of the config file alone
        default = None
    if not (default is None or isinstance(default, ConfigDict)):
        raise UsageError(f"config.{name}=None: it needs a value; by default it is {default!r}")
    config_path.set_value(name, config, default)


def _check_name(config: ConfigDict, name: str) -> None:
    """UsageError unless the config has the setting, or the section, `name`."""
    if "[" in name:  # a place in a tuple, which ml_collections finds
        return
    section: Any = config
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict):
            raise UsageError(f"there is no config.{printable(name)}: config.{'.'.join(parts[:depth])} is one setting")
        if part not in section:
            raise UsageError(f"there is no config.{printable(name)}{_hint(config, section, parts, depth)}")
        section = section[part]


def _hint(config: ConfigDict, section: ConfigDict, parts: list[str], depth: int) -> str:
    """A hint for a name whose part at `depth` is unknown: similar settings of that section, else of all."""
    names = list(_names(config))
    here = [".".join([*parts[:depth], each, *parts[depth + 1 :]]) for each in _like(parts[depth], section)]
    meant = [name for name in here if name in names]
    if not meant:
        last = _like(parts[-1], {name.rpartition(".")[2] for name in names})
        meant = [name for name in names if name.rpartition(".")[2] in last]
    hint = did_you_mean([f"config.{name}" for name in meant[:3]])
    return hint or f"; {'.'.join(['config', *parts[:depth]])} has {', '.join(section)}"


def _like(name: str, known: Iterable[str]) -> list[str]:
    """The known names that may be meant: nearly the same letters, or words that begin with these (`lr`)."""
    known = list(known)
    initials = [each for each in known if "".join(word[:1] for word in each.lower().split("_")) == name.lower()]
    return list(dict.fromkeys([*similar(name, known), *initials]))


def _names(section: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yields the sections and the settings of a config by their whole names."""
    for name, value in section.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{name}.")
