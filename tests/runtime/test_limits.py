"""What a file may claim, just at each limit and one beyond; and how a message shows what it holds."""

import io
import pickle

import numpy as np
import pytest

from transfer.errors import TransferError
from transfer.runtime.files import unpickler, untrusted
from transfer.runtime.files.unpickler import RestrictedUnpickler, resolve_pending


def load(program: bytes, constructors=None):
    return RestrictedUnpickler(io.BytesIO(program), constructors or {}).load()


def shared(times, size):
    """A list that holds the same list of numbers so many times; it expands to 1 + times * (size + 1) values."""
    return [[0] * size] * times


def test_lists_that_share_their_parts_expand_to_so_many_values():
    """32 Mi values, however few there are, and to four times as many as there are."""
    values = shared(18_631, 1800)
    assert 1 + 18_631 * 1801 == 1 << 25 and resolve_pending(values) == values
    with pytest.raises(
        TransferError, match=r"^refused: lists that share their parts, 1803 values that expand to 33554433"
    ):
        resolve_pending([*values, 0])


def test_what_is_there_may_be_expanded_fourfold(monkeypatch):
    monkeypatch.setattr(unpickler, "MAX_EXPANDED", 10)
    resolve_pending([*shared(4, 10), *[0] * 6])  # 51 of 18; 4 * 18 = 72
    resolve_pending([[0] * 17] * 4)  # 73 of 19
    with pytest.raises(TransferError, match="19 values that expand to 91"):
        resolve_pending([[0] * 17] * 5)


def nested(depth, kind=list):
    value = kind([0])
    for _ in range(depth):
        value = kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, lambda items: dict(enumerate(items))])
def test_a_hundred_deep(kind):
    assert resolve_pending(nested(100, kind)) == nested(100, kind)
    with pytest.raises(TransferError, match="^refused: nested more than 100 deep$"):
        resolve_pending(nested(101, kind))


def test_what_holds_itself_and_what_was_never_called():
    value: list = []
    value.append([value])
    with pytest.raises(TransferError, match="^refused: a list that holds itself$"):
        resolve_pending(value)
    with pytest.raises(pickle.UnpicklingError, match="a constructor that was never called"):
        resolve_pending([unpickler.ORDERED_DICT])


class Copy(unpickler.Pending):
    """Zeros that are a copy of bytes."""

    __slots__ = ("_raw",)

    def __init__(self, raw):
        self._raw = raw

    def value(self):
        return np.zeros(3)

    def raw(self):
        return self._raw


def test_the_same_bytes_are_copied_to_so_many(monkeypatch):
    """The first copy of any bytes is free."""
    monkeypatch.setattr(unpickler, "DECOMPRESSION_FLOOR", 10 << 20)
    whole = bytes(10 << 20)
    copies = [Copy(whole), Copy(whole), Copy(b"xy")]
    assert [array.shape for array in resolve_pending(copies)] == [(3,)] * 3
    with pytest.raises(TransferError, match="^refused: arrays that copy the same bytes to more than 10 MB$"):
        resolve_pending([*copies, Copy(copies[2].raw())])


KEYS = [
    ("x", True),
    (None, True),
    (1.5, True),
    ((1 << 60) - 1, True),
    (1 << 128, True),
    ((1 << 128) + 1, False),
    (-(1 << 128) - 1, False),
    (tuple(range(16)), True),
    (tuple(range(17)), False),
    ((1, "a", None), True),
    ((1, (2,)), False),
    ((1, (1 << 128) + 1), False),
    ((1, 1 << 128), True),
    (frozenset({1}), False),
]


@pytest.mark.parametrize(("key", "allowed"), KEYS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("make", [lambda key: {key: 1}, lambda key: {key}, lambda key: frozenset({key})])
def test_keys_that_python_hashes_are_flat_and_small(key, allowed, make):
    program = pickle.dumps(make(key), 4)
    if allowed:
        assert load(program) == make(key)
        return
    with pytest.raises(TransferError, match=r"^refused: .* as a key, at opcode (SETITEM|ADDITEMS|FROZENSET)$"):
        load(program)


def test_a_thousand_keys_that_can_be_chosen_to_collide():
    large = [n << 60 for n in range(-500, 502) if n]
    edge = dict.fromkeys([(1 << 60) - 1, 1 - (1 << 60)])
    usual = {str(n): n for n in range(2000)} | dict.fromkeys(range(2000)) | edge
    assert load(pickle.dumps([usual, dict.fromkeys(large[:1000])], 4))[1].keys() == set(large[:1000])
    refused = "^refused: more than 1000 keys that are neither text nor small numbers, at opcode SETITEMS$"
    with pytest.raises(TransferError, match=refused):
        load(pickle.dumps([dict.fromkeys(large[:500]), dict.fromkeys(large[500:])], 4))
    assert unpickler.MAX_OBJECT_BYTES == 1 << 30


ORDERED = {("collections", "OrderedDict"): unpickler.ORDERED_DICT}


def test_ordered_dicts_are_made_of_pairs():
    call = b"ccollections\nOrderedDict\n"
    assert load(call + b"(tR.", ORDERED) == {} == load(call + b"((ltR.", ORDERED)
    made = load(call + b"((l(I2\nS'b'\nta(I1\nS'a'\nlatR.", ORDERED)
    assert list(made.items()) == [(2, "b"), (1, "a")]
    for pair in (b"(I2\nta", b"(I2\nI3\nI4\nta", b"S'ab'\na"):
        with pytest.raises(
            pickle.UnpicklingError, match="an OrderedDict of something else than pairs, at opcode REDUCE$"
        ):
            load(call + b"((l" + pair + b"tR.", ORDERED)
    for program in (call + b"I1\nR.", b"I1\n(tR."):
        with pytest.raises(pickle.UnpicklingError, match="a call of .*, which is no constructor, at opcode REDUCE$"):
            load(program, ORDERED)


def test_instances_are_refused_by_the_name_that_they_ask_for():
    with pytest.raises(TransferError, match=r"^refused: it asks for os\.mk\ufffddir; only plain values"):
        load(b"(ios\nmk\xffdir\n.")
    with pytest.raises(TransferError, match="^refused: opcode INST makes an object"):
        load(b"(icollections\nOrderedDict\n.", ORDERED)


def test_data_outside_the_pickle():
    with pytest.raises(TransferError, match="^refused: opcode PERSID refers to data outside the pickle$"):
        load(b"Pa\n.")
    assert RestrictedUnpickler(io.BytesIO(b"Pa\n."), {}, lambda name: name * 2).load() == "aa"


def test_objects_out_of_few_bytes(monkeypatch):
    """Each opcode costs what it may take, beside the bytes of the file."""
    monkeypatch.setattr(unpickler, "MAX_OBJECT_BYTES", 1 << 20)
    assert load(b"(" + b"N" * ((1 << 20) // 40 - 100) + b"l.")
    refused = r"^refused: it makes more than 1 MB of objects out of \d+ bytes, at opcode NONE$"
    with pytest.raises(TransferError, match=refused):
        load(b"(" + b"N" * ((1 << 20) // 39 + 200) + b"l.")


SHOWN = [
    ("a", "a"),
    ("a" * 80, "a" * 80),
    ("a" * 81, "a" * 80 + "…"),
    (b"a" * 81, "a" * 80 + "…"),
    (b"\xff", "ÿ"),
    ("\x1b[31m\n", r"\x1b[31m\n"),
    (True, "True"),
    (None, "None"),
    (1.5, "1.5"),
    ((1 << 127) - 1, str((1 << 127) - 1)),
    (1 << 127, "a int"),
    ([1], "a list"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=lambda value: repr(value)[:20])
def test_messages_show_what_a_file_holds_in_short(text, shown):
    assert untrusted.printable(text) == shown


def test_errors_in_a_few_words():
    assert untrusted.error_summary(ValueError("a\n  b")) == "ValueError: a b"
    assert untrusted.error_summary(KeyError()) == "KeyError"
    assert untrusted.error_summary(ValueError("a" * 161)) == f"ValueError: {'a' * 160}…"
    with pytest.raises(TransferError, match="^x.p: no$"), untrusted.prefix_errors("x.p"):
        raise TransferError("no")


def test_what_is_packed_may_unpack_to_so_much():
    assert untrusted.decompression_limit(0) == untrusted.decompression_limit((256 << 20) // 50) == 256 << 20
    assert untrusted.decompression_limit(1 << 30) == 50 << 30 and untrusted.MAX_CLASSES == 1 << 20


def test_a_reader_gives_what_is_there_and_no_more():
    reader = untrusted.LimitedReader(io.BytesIO(b"ab\ncdef"), 5)
    assert reader.readline() == b"ab\n" and (reader.bytes_read, reader.bytes_left) == (3, 2)
    with pytest.raises(EOFError, match="^3 bytes are claimed where 2 are left$"):
        reader.read(3)
    assert reader.read(0) == b"" and reader.read(None) == b"cd" and reader.readline() == b"" == reader.read(0)
    with pytest.raises(EOFError, match="^it ends early$"):
        reader.read(1)
    assert untrusted.LimitedReader(io.BytesIO(b"abc\n")).readline(2) == b"ab"
    for size in (None, -1, 9):  # whatever is asked for
        assert untrusted.LimitedReader(io.BytesIO(b"abcd\n"), 3).readline(size) == b"abc"
    assert untrusted.LimitedReader(io.BytesIO(b"a\nb")).readline(0) == b""
    shorter = untrusted.LimitedReader(io.BytesIO(b"ab"), 9)
    with pytest.raises(EOFError, match="^3 bytes are claimed where 2 are left$"):
        shorter.read(3)
    stream = io.BytesIO(b"abcdef")
    stream.seek(2)
    assert untrusted.remaining_size(stream) == 4 and stream.tell() == 2
