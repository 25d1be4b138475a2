"""The machine that a pickle is a program for, without its dangerous half, and with a limit on what it may use.

Names are looked up in a table of our own constructors and never imported; nothing else can be called, no object is
made or altered in any other way, and what a program makes of few bytes (memo, DUP, shared parts) is counted.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DECOMPRESSION_FLOOR, LimitedReader, error_summary, printable

# What reading a damaged or hostile file raises; everything else is a bug of ours.
DAMAGE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

# What the Python objects of a pickle may take, in bytes, beside the bytes that the file itself holds.
POOL = 1 << 30
# What an opcode takes at most, with the copy that `resolve_pending` makes; the others: a pointer and a number.
COST = 40
COSTS: Mapping[int, int] = {
    **dict.fromkeys(pickle.MARK + pickle.EMPTY_LIST + pickle.LIST, 250),
    **dict.fromkeys(pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3, 250),
    **dict.fromkeys(pickle.EMPTY_DICT + pickle.DICT + pickle.REDUCE, 300),
    **dict.fromkeys(pickle.SETITEM, 200),
    **dict.fromkeys(pickle.EMPTY_SET + pickle.FROZENSET, 600),
    **dict.fromkeys(pickle.MEMOIZE + pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT, 150),
}
COST_OF_ITEM = 100
# Keys that Python hashes in the same way in every process can be chosen to collide; of those there may be so many.
MOST_ODD_KEYS = 1000
SMALL_KEY, LARGEST_KEY = 1 << 60, 1 << 128
LONGEST_KEY = 16
# How deep lists, dicts and tuples may lie in one another, and to how many values those that share parts may expand.
DEEPEST = 100
EXPANDED = DECOMPRESSION_FLOOR // 8


class Pending:
    """A value that is known only when the whole pickle has been read."""

    __slots__ = ()

    def value(self) -> object:
        """Returns the finished value."""
        raise NotImplementedError

    def raw(self) -> object:
        """The bytes that the value is a copy of, None where it copies none."""
        return None


class Constructor:
    """A callable that a pickle may name; unlike a function or a class it has no state for BUILD to set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)  # type: ignore[attr-defined]

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("state set on a constructor")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise pickle.UnpicklingError("attribute set on a constructor")


class Ordered(dict):
    """A `collections.OrderedDict`; the attributes that PyTorch hangs on it (`_metadata`) are ignored."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


# Python hashes the keys as it makes one, so the machine does it, which looks at them first.
ORDERED_DICT = Constructor(Ordered)


def _name(code: int) -> str:
    operation = pickletools.code2op.get(chr(code))  # type: ignore[attr-defined]
    return operation.name if operation else f"0x{code:02x}"


# The one written in Python: its memo is a dict, where the one in C allocates whatever index a file names.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class RestrictedUnpickler(_Unpickler):
    """An unpickler that knows only `constructors`; `persistent` resolves PyTorch's persistent ids.

    `load()` may return stand-ins: pass its result to `resolve_pending`. A `LimitedReader` may hold several pickles.
    """

    handlers: dict[int, Callable[[Any], None]] = dict(_Unpickler.dispatch)

    def __init__(
        self,
        stream: BinaryIO | LimitedReader,
        constructors: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], object] | None = None,
        encoding: str = "latin1",
    ) -> None:
        self._bounded = stream if isinstance(stream, LimitedReader) else LimitedReader(stream)
        super().__init__(self._bounded, encoding=encoding)
        self._constructors = constructors
        self._persistent = persistent
        self._odd_keys = 0
        self._spent = 0
        self._code = pickle.STOP[0]

    @property
    def dispatch(self) -> "RestrictedUnpickler":  # type: ignore[override]
        """What `load` takes the handler of each opcode from; no attribute, or the memo would die late."""
        return self

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._code = code
        self._spent += COSTS.get(code, COST)
        if self._spent > POOL:
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
            raise pickle.UnpicklingError(f"{error_summary(error)}, at opcode {_name(self._code)}") from error

    def _spend(self, size: int) -> None:
        self._spent += size
        if self._spent > POOL + self._bounded.bytes_read:
            raise TransferError(
                f"refused: it makes more than {POOL >> 20} MB of objects out of {self._bounded.bytes_read} bytes, "
                f"at opcode {_name(self._code)}"
            )

    def find_class(self, module: str, name: str) -> Any:
        """Returns our constructor for `module.name`; TransferError for any name that is not in the table."""
        try:
            return self._constructors[module, name]
        except KeyError:
            raise TransferError(
                f"refused: it asks for {printable(module)}.{printable(name)}; "
                "only plain values and arrays are read, no code is run"
            ) from None

    def persistent_load(self, pid: Any) -> object:
        """Returns the value behind a persistent id; pickles of arrays have none."""
        if self._persistent is None:
            raise TransferError(f"refused: opcode {_name(self._code)} refers to data outside the pickle")
        try:
            return self._persistent(pid)
        except TransferError as error:
            raise TransferError(f"{error}, at opcode {_name(self._code)}") from None

    def _refused(self) -> NoReturn:
        raise TransferError(
            f"refused: opcode {_name(self._code)} makes an object; only plain values and arrays are read"
        )

    def load_inst(self) -> None:
        """Looks the name up, so that the error can say it, and makes nothing."""
        module, name = (self.readline()[:-1].decode("ascii", "replace") for _ in range(2))
        self.find_class(module, name)
        self._refused()

    def get_extension(self, code: int) -> NoReturn:
        """The registry of extensions may hold real functions, which would come past `find_class`."""
        raise TransferError(f"refused: opcode {_name(self._code)} asks for extension {code}, which may be any function")

    def load_next_buffer(self) -> NoReturn:
        """Buffers beside the pickle: there are none."""
        raise TransferError(f"refused: opcode {_name(self._code)} refers to data outside the pickle")

    def load_bytearray8(self) -> None:
        """Only bytes that are there: the base class makes the array first."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_reduce(self) -> None:
        """Calls a constructor, and counts what it has copied."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Constructor) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of {printable(function)}, which is no constructor")
        self._spend(COST_OF_ITEM * len(arguments))
        for argument in arguments:
            if isinstance(argument, (list, tuple)):
                self._spend(COST_OF_ITEM * len(argument))
            elif isinstance(argument, (str, bytes)):
                self._spend(len(argument))
        self.stack[-1] = self._ordered(*arguments) if function is ORDERED_DICT else function(*arguments)

    def _ordered(self, pairs: Any = ()) -> Ordered:
        made = Ordered()
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise pickle.UnpicklingError("an OrderedDict of something else than pairs")
        self._into(made, [part for pair in pairs for part in pair])
        return made

    def load_build(self) -> None:
        """Sets the state of what has a way of its own to take it."""
        state = self.stack.pop()
        if not hasattr(type(self.stack[-1]), "__setstate__"):
            raise pickle.UnpicklingError(f"state set on {printable(self.stack[-1])}")
        self.stack[-1].__setstate__(state)

    def load_append(self) -> None:
        """To lists alone."""
        value = self.stack.pop()
        self._top(list).append(value)

    def load_appends(self) -> None:
        """To lists alone."""
        items = self.pop_mark()
        self._top(list).extend(items)

    def load_setitem(self) -> None:
        """In dicts alone."""
        value, key = self.stack.pop(), self.stack.pop()
        self._check_keys((key,))
        self._top(dict)[key] = value

    def load_setitems(self) -> None:
        """In dicts alone."""
        items = self.pop_mark()
        self._into(self._top(dict), items)

    def load_dict(self) -> None:
        """As SETITEMS."""
        made: dict = {}
        self._into(made, self.pop_mark())
        self.append(made)

    def load_additems(self) -> None:
        """To sets alone."""
        items = self.pop_mark()
        self._check_keys(items)
        self._top(set).update(items)

    def load_frozenset(self) -> None:
        """As ADDITEMS."""
        items = self.pop_mark()
        self._check_keys(items)
        self.append(frozenset(items))

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError(f"{printable(self.stack[-1])} in place of a {kind.__name__}")
        return self.stack[-1]

    def _into(self, target: dict, items: list) -> None:
        if len(items) % 2:
            raise pickle.UnpicklingError("a key without a value")
        self._check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))

    def _check_keys(self, keys: Any) -> None:
        """Before Python hashes them: a deep tuple would overflow its stack, and chosen numbers collide."""
        self._spend(COST_OF_ITEM * len(keys))
        for key in keys:
            if isinstance(key, (str, bytes, float, bool, type(None))):
                continue
            if isinstance(key, int) and -SMALL_KEY < key < SMALL_KEY:
                continue
            short = isinstance(key, tuple) and len(key) <= LONGEST_KEY
            flat = short and not any(isinstance(part, (tuple, frozenset)) or _is_large(part) for part in key)
            if not (flat or isinstance(key, (int, Pending))) or _is_large(key):
                raise TransferError(f"refused: {printable(key)} as a key, at opcode {_name(self._code)}")
            self._odd_keys += 1
            if self._odd_keys > MOST_ODD_KEYS:
                raise TransferError(
                    f"refused: more than {MOST_ODD_KEYS} keys that are neither text nor small numbers, "
                    f"at opcode {_name(self._code)}"
                )


def _is_large(key: object) -> bool:
    return isinstance(key, int) and abs(key) > LARGEST_KEY


for _operation, _handler in {
    pickle.BYTEARRAY8: RestrictedUnpickler.load_bytearray8,
    pickle.NEXT_BUFFER: RestrictedUnpickler.load_next_buffer,
    pickle.INST: RestrictedUnpickler.load_inst,
    pickle.REDUCE: RestrictedUnpickler.load_reduce,
    pickle.BUILD: RestrictedUnpickler.load_build,
    pickle.APPEND: RestrictedUnpickler.load_append,
    pickle.APPENDS: RestrictedUnpickler.load_appends,
    pickle.SETITEM: RestrictedUnpickler.load_setitem,
    pickle.SETITEMS: RestrictedUnpickler.load_setitems,
    pickle.DICT: RestrictedUnpickler.load_dict,
    pickle.ADDITEMS: RestrictedUnpickler.load_additems,
    pickle.FROZENSET: RestrictedUnpickler.load_frozenset,
    **dict.fromkeys((pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX), RestrictedUnpickler._refused),
}.items():
    RestrictedUnpickler.handlers[_operation[0]] = _handler


def resolve_pending(value: object) -> Any:
    """Replaces the stand-ins in nested dicts, lists, tuples and sets by real values; shared values stay shared.

    Raises TransferError for what holds itself, lies deeper than `DEEPEST`, or shares its parts so often that it would
    expand to many times what is there.
    """
    return _Finisher().finished(value)


COMPOUND = (Pending, dict, list, tuple, set, frozenset)


class _Finisher:
    def __init__(self) -> None:
        # id of what the pickle made -> (finished, how many values it expands to, counting shared parts each time)
        self._done: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        self._raw: set[int] = set()
        # Values that are there, each counted once; bytes of arrays that copy what another has copied.
        self._there = 0
        self._copied = 0

    def finished(self, value: object) -> Any:
        result, expanded = self._finish(value, 0)
        if expanded > max(EXPANDED, 4 * self._there):
            raise TransferError(
                f"refused: lists that share their parts, {self._there} values that expand to {expanded}"
            )
        return result

    def _finish(self, value: object, depth: int) -> tuple[Any, int]:
        if isinstance(value, Constructor):
            raise pickle.UnpicklingError("a constructor that was never called")
        if not isinstance(value, COMPOUND):
            self._there += 1
            return value, 1
        if id(value) in self._open:
            raise TransferError(f"refused: {printable(value)} that holds itself")
        if id(value) in self._done:
            return self._done[id(value)]
        if depth > DEEPEST:
            raise TransferError(f"refused: nested more than {DEEPEST} deep")
        self._open.add(id(value))
        self._done[id(value)] = result = self._made(value, depth)
        self._open.discard(id(value))
        return result

    def _made(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, Pending):
            return self._array(value)
        self._there += 1
        if isinstance(value, dict):
            keys, expanded = self._all(value, depth)
            items, more = self._all(dict.values(value), depth)
            return dict(zip(keys, items, strict=True)), expanded + more
        parts, expanded = self._all(value, depth)
        return (parts if isinstance(value, list) else type(value)(parts)), expanded

    def _all(self, values: Any, depth: int) -> tuple[list[Any], int]:
        parts, expanded = [], 1
        for value in values:
            part, size = self._finish(value, depth + 1)
            parts.append(part)
            expanded += size
        return parts, expanded

    def _array(self, value: Pending) -> tuple[Any, int]:
        raw = value.raw()
        if raw is not None:
            self._copied += len(raw) if id(raw) in self._raw else 0  # type: ignore[arg-type]
            self._raw.add(id(raw))
            if self._copied > DECOMPRESSION_FLOOR:
                raise TransferError(
                    f"refused: arrays that copy the same bytes to more than {DECOMPRESSION_FLOOR >> 20} MB"
                )
        result = value.value()
        self._there += np.size(result)  # type: ignore[arg-type]
        return result, int(np.size(result))  # type: ignore[arg-type]


def guarded_load(read: Callable[[], Any], name: str) -> Any:
    """Calls `read`; what a damaged or hostile file makes it raise becomes one TransferError with its name."""
    try:
        return read()
    except TransferError as error:
        raise TransferError(f"{name}: {error}") from None
    except DAMAGE_ERRORS as error:
        text = str(error) if isinstance(error, pickle.UnpicklingError) else error_summary(error)
        raise TransferError(f"{name}: not a pickle, or a damaged or truncated one ({text})") from error
