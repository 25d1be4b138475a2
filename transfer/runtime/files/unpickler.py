"""An unpickler without the dangerous half of Python's, and with limits on what a pickle may use.

A pickle is a program. Names are looked up in a table of our own constructors and never imported; nothing else can be
called, no object is made or altered in any other way, and what a program makes of few bytes (memo, DUP, shared parts)
is counted. Where a reader allows it, a name that is not in the table becomes a stand-in, which does nothing.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, DECOMPRESSION_FLOOR, LimitedReader, error_summary, printable

# What the Python objects of a pickle may take, in bytes, beside the bytes that the file itself holds.
MAX_OBJECT_BYTES = 1 << 30
# What an opcode takes at most, with the copy that `resolve_pending` makes; the others: a pointer and a number.
COST = 40
COSTS: Mapping[int, int] = {
    **dict.fromkeys(pickle.MARK + pickle.EMPTY_LIST + pickle.LIST, 250),
    **dict.fromkeys(pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3, 250),
    **dict.fromkeys(pickle.EMPTY_DICT + pickle.DICT + pickle.REDUCE, 300),
    **dict.fromkeys(pickle.SETITEM, 200),
    **dict.fromkeys(pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.OBJ + pickle.INST, 200),
    **dict.fromkeys(pickle.GLOBAL + pickle.STACK_GLOBAL, 600),  # less, but a file needs few
    **dict.fromkeys(pickle.EMPTY_SET + pickle.FROZENSET, 600),
    **dict.fromkeys(pickle.MEMOIZE + pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT, 150),
}
COST_OF_ITEM = 100
# Keys that Python hashes in the same way in every process can be chosen to collide; of those there may be so many.
MAX_UNUSUAL_KEYS = 1000
SMALL_KEY, LARGEST_KEY = 1 << 60, 1 << 128
MAX_KEY_LENGTH = 16
# How deep lists, dicts and tuples may lie in one another, and to how many values those that share parts may expand.
MAX_DEPTH = 100
MAX_EXPANDED = DECOMPRESSION_FLOOR // 8


class Pending:
    """A value that is known only when the whole pickle has been read."""

    __slots__ = ()

    def value(self) -> object:
        """The finished value."""
        raise NotImplementedError

    def raw(self) -> object:
        """The bytes that the value is a copy of, None where it copies none."""
        return None


class StandIn(Pending):
    """A name in place of a class, a function or an object that a pickle asks for and that is not known here.

    A pickle may call it, build it and fill it: that makes another stand-in, or nothing. It is a key as itself alone.

    Attributes:
      name: `module.name`, as a message may show it.
      says: what is text, a number or a dict in the state that it was given, by its name.
      entries: those under a text, of what a pickle fills as it fills a dict, such as a dict of another class.
    """

    __slots__ = ("name", "says", "entries")

    def __init__(self, name: str) -> None:
        self.name = name
        self.says: Mapping[str, object] = {}
        self.entries: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            known = (str, int, float, dict)
            self.says = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, known)}

    def value(self) -> "StandIn":
        """The stand-in itself."""
        return self


class Constructor:
    """A callable that a pickle may name; BUILD, which sets state, finds no `__setstate__` in it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)


class Ordered(dict):
    """A `collections.OrderedDict`; the attributes that PyTorch hangs on it (`_metadata`) are ignored."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


# Python hashes the keys as it makes one, so the unpickler does it, which looks at them first.
ORDERED_DICT = Constructor(Ordered)

# The one written in Python: its memo is a dict, where the one in C allocates whatever index a file names.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class RestrictedUnpickler(_Unpickler):
    """An unpickler that knows only `constructors`; `persistent` resolves PyTorch's persistent ids.

    `load()` may return what is pending: pass its result to `resolve_pending`. A `LimitedReader` may hold several
    pickles. With `stand_ins`, a name that is not known becomes one instead of an error.
    """

    handlers: Mapping[int, Callable[[Any], None]]  # by opcode; filled in below

    def __init__(
        self,
        stream: BinaryIO | LimitedReader,
        constructors: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], object] | None = None,
        stand_ins: bool = False,
    ) -> None:
        self._reader = stream if isinstance(stream, LimitedReader) else LimitedReader(stream)
        super().__init__(self._reader, encoding="latin1")
        self._constructors, self._persistent, self._stand_ins = constructors, persistent, stand_ins
        self._unusual_keys = self._spent = 0
        self._code = pickle.STOP[0]

    @property
    def dispatch(self) -> "RestrictedUnpickler":  # type: ignore[override]
        """The handlers that `load` takes, by opcode; no attribute, or the memo would die late."""
        return self

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._code = code
        self._spent += COSTS.get(code, COST)
        if self._spent > MAX_OBJECT_BYTES:
            self._spend(0)
        if code not in self.handlers:
            raise pickle.UnpicklingError("there is no such opcode")
        return self.handlers[code]

    def load(self) -> Any:
        """Runs the program; what a damaged one raises is an UnpicklingError that names the opcode."""
        try:
            return super().load()
        except TransferError:
            raise
        except DAMAGE_ERRORS as error:
            # short, so that the opcode is seen where a message is cut
            raise pickle.UnpicklingError(f"{error_summary(error)[:100]}, at {self._opcode}") from error

    @property
    def _opcode(self) -> str:
        operation = pickletools.code2op.get(chr(self._code))  # type: ignore[attr-defined]
        return f"opcode {operation.name if operation else f'0x{self._code:02x}'}"

    def _spend(self, size: int) -> None:
        self._spent += size
        if self._spent > MAX_OBJECT_BYTES + self._reader.bytes_read:
            raise TransferError(
                f"refused: it makes more than {MAX_OBJECT_BYTES >> 20} MB of objects out of {self._reader.bytes_read} "
                f"bytes, at {self._opcode}"
            )

    def find_class(self, module: str, name: str) -> Any:
        """Returns our constructor for `module.name`; for any other name a stand-in, or TransferError."""
        if (module, name) in self._constructors:
            return self._constructors[module, name]
        title = f"{printable(module)}.{printable(name)}"
        if not self._stand_ins:
            raise TransferError(f"refused: it asks for {title}; only plain values and arrays are read, no code is run")
        self._spend(len(title))
        return StandIn(title)

    def persistent_load(self, pid: Any) -> object:
        """Returns the value behind a persistent id; pickles of arrays have none."""
        if self._persistent is None:
            raise TransferError(f"refused: {self._opcode} refers to data outside the pickle")
        try:
            return self._persistent(pid)
        except TransferError as error:
            raise TransferError(f"{error}, at {self._opcode}") from None

    def _instantiate(self, kind: object, arguments: object) -> None:
        """Makes a stand-in's object, for OBJ and INST too; what it is made of is not kept."""
        if not isinstance(kind, StandIn):
            raise TransferError(f"refused: {self._opcode} makes an object; only plain values and arrays are read")
        self.append(StandIn(kind.name))

    def load_newobj(self) -> None:
        """Makes a stand-in's object of a tuple."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        self._instantiate(kind, arguments)

    def load_newobj_ex(self) -> None:
        """Makes a stand-in's object of a tuple and a dict."""
        self.stack.pop()
        self.load_newobj()

    def load_inst(self) -> None:
        """Makes a stand-in's object by its name, which may be of any bytes."""
        module, name = (self.readline()[:-1].decode("ascii", "replace") for _ in range(2))
        self._instantiate(self.find_class(module, name), self.pop_mark())

    def get_extension(self, code: int) -> NoReturn:
        """Refuses a name out of the registry of extensions: it would come past `find_class`."""
        raise TransferError(f"refused: {self._opcode} asks for extension {code}, which may be any function")

    def load_next_buffer(self) -> NoReturn:
        """Refuses buffers beside the pickle: there are none."""
        raise TransferError(f"refused: {self._opcode} refers to data outside the pickle")

    def load_bytearray8(self) -> None:
        """Reads an array of bytes that are there; the base class makes the array first."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_reduce(self) -> None:
        """Calls a constructor, and counts what it has copied."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if isinstance(function, StandIn):
            self.stack[-1] = StandIn(function.name)
            return
        if not isinstance(function, Constructor) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of {printable(function)}, which is no constructor")
        self._spend(COST_OF_ITEM * len(arguments))
        for argument in arguments:
            if isinstance(argument, (list, tuple)):
                self._spend(COST_OF_ITEM * len(argument))
            elif isinstance(argument, (str, bytes)):
                self._spend(len(argument))
        if function is not ORDERED_DICT:
            self.stack[-1] = function(*arguments)
            return
        self.stack[-1], pairs = Ordered(), arguments[0] if arguments else ()
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise pickle.UnpicklingError("an OrderedDict of something else than pairs")
        self._set_items([part for pair in pairs for part in pair])

    def load_build(self) -> None:
        """Sets the state of what has a way of its own to take it."""
        state = self.stack.pop()
        if not hasattr(type(self.stack[-1]), "__setstate__"):
            raise pickle.UnpicklingError(f"state set on {printable(self.stack[-1])}")
        if isinstance(self.stack[-1], StandIn) and isinstance(state, dict):
            self._spend(COST_OF_ITEM * len(state))
        self.stack[-1].__setstate__(state)

    def load_append(self) -> None:
        """Appends an item to a list, and to nothing else; a stand-in lets it go, as it does all items."""
        self._append([self.stack.pop()])

    def load_appends(self) -> None:
        """Appends items to a list, and to nothing else."""
        self._append(self.pop_mark())

    def _append(self, items: list) -> None:
        if not isinstance(self.stack[-1], StandIn):
            self._top(list).extend(items)

    def load_setitem(self) -> None:
        """Sets an item of a dict, and of nothing else."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        """Sets items of a dict, and of nothing else."""
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        """Makes a dict of checked keys."""
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        """Adds checked items to a set, and to nothing else."""
        items = self.pop_mark()
        if not isinstance(self.stack[-1], StandIn):
            self._check_keys(items)
            self._top(set).update(items)

    def load_frozenset(self) -> None:
        """Makes a frozenset of checked items."""
        items = self.pop_mark()
        self._check_keys(items)
        self.append(frozenset(items))

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError(f"{printable(self.stack[-1])} in place of a {kind.__name__}")
        return self.stack[-1]

    def _set_items(self, items: list) -> None:
        if len(items) % 2:
            raise pickle.UnpicklingError("a key without a value")
        entries = zip(items[::2], items[1::2], strict=True)
        if isinstance(self.stack[-1], StandIn):
            self._spend(COST_OF_ITEM * len(items))
            self.stack[-1].entries.update((key, value) for key, value in entries if isinstance(key, str))
            return
        self._check_keys(items[::2])
        self._top(dict).update(entries)

    def _check_keys(self, keys: Any) -> None:
        """Checks keys before Python hashes them: a deep tuple would overflow its stack, and chosen numbers collide."""
        self._spend(COST_OF_ITEM * len(keys))
        for key in keys:
            if isinstance(key, (str, bytes, float, bool, type(None))):
                continue
            if isinstance(key, int) and -SMALL_KEY < key < SMALL_KEY:
                continue
            short = isinstance(key, tuple) and len(key) <= MAX_KEY_LENGTH
            flat = short and not any(isinstance(part, (tuple, frozenset)) or _is_large(part) for part in key)
            if not (flat or isinstance(key, (int, Pending))) or _is_large(key):
                raise TransferError(f"refused: {printable(key)} as a key, at {self._opcode}")
            self._unusual_keys += 1
            if self._unusual_keys > MAX_UNUSUAL_KEYS:
                raise TransferError(
                    f"refused: more than {MAX_UNUSUAL_KEYS} keys that are neither text nor small numbers, "
                    f"at {self._opcode}"
                )


def _is_large(key: object) -> bool:
    return isinstance(key, int) and abs(key) > LARGEST_KEY


# Python's handlers by their names, so that those of the same name above stand in their places.
RestrictedUnpickler.handlers = {
    code: getattr(RestrictedUnpickler, handler.__name__) for code, handler in _Unpickler.dispatch.items()
}


def resolve_pending(value: object) -> Any:
    """Replaces what is pending in nested dicts, lists, tuples and sets by real values; shared values stay shared.

    Stand-ins stay what they are, but for what they hold as dicts.

    Raises TransferError for what holds itself, lies deeper than `MAX_DEPTH`, or shares its parts so often that it would
    expand to many times what is there.
    """
    resolver = _Resolver()
    resolved, expanded = resolver.resolve(value, 0)
    if expanded > max(MAX_EXPANDED, 4 * resolver.count):
        raise TransferError(f"refused: lists that share their parts, {resolver.count} values that expand to {expanded}")
    return resolved


class _Resolver:
    """Resolves values, each once; `count` is how many there are, counting each shared one once."""

    def __init__(self) -> None:
        # id of what the pickle made -> what `resolve` returns for it; None while that is being found out
        self._resolved: dict[int, tuple[Any, int] | None] = {}
        self.count = 0
        # ids of the bytes that arrays are copies of, and how many bytes were copied more than once
        self._raw: set[int] = set()
        self._copied = 0

    def resolve(self, value: Any, depth: int) -> tuple[Any, int]:
        """The resolved value, and how many values it expands to, counting shared parts each time."""
        if isinstance(value, Constructor):
            raise pickle.UnpicklingError("a constructor that was never called")
        if not isinstance(value, (Pending, dict, list, tuple, set, frozenset)):
            self.count += 1
            return value, 1
        if id(value) in self._resolved:
            if (known := self._resolved[id(value)]) is None:
                raise TransferError(f"refused: {printable(value)} that holds itself")
            return known
        if depth > MAX_DEPTH:
            raise TransferError(f"refused: nested more than {MAX_DEPTH} deep")
        self._resolved[id(value)] = None
        if isinstance(value, StandIn):
            value.entries, expanded = self._container(value.entries, depth)
            result = value, expanded
        else:
            result = self._array(value) if isinstance(value, Pending) else self._container(value, depth)
        self._resolved[id(value)] = result
        return result

    def _container(self, value: Any, depth: int) -> tuple[Any, int]:
        self.count += 1
        parts, expanded = [], 1
        for part in [*value, *dict.values(value)] if isinstance(value, dict) else value:
            resolved, size = self.resolve(part, depth + 1)
            parts.append(resolved)
            expanded += size
        if isinstance(value, dict):
            return dict(zip(parts[: len(value)], parts[len(value) :], strict=True)), expanded
        return (parts if isinstance(value, list) else type(value)(parts)), expanded

    def _array(self, value: Pending) -> tuple[Any, int]:
        raw = value.raw()
        if raw is not None:
            self._copied += len(raw) if id(raw) in self._raw else 0  # type: ignore[arg-type]
            self._raw.add(id(raw))
            if self._copied > DECOMPRESSION_FLOOR:
                limit = f"{DECOMPRESSION_FLOOR >> 20} MB"
                raise TransferError(f"refused: arrays that copy the same bytes to more than {limit}")
        result = value.value()
        size = int(np.size(result))  # type: ignore[arg-type]
        self.count += size
        return result, size
