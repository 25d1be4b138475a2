"""Pickles of plain values and arrays load, whoever wrote them; everything else is refused and never run."""

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from transfer.errors import TransferError
from transfer.runtime.files.pickles import load_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5),
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
values = st.recursive(
    plain | arrays,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype.newbyteorder(a.dtype.byteorder) and _equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.astype(a.dtype).tobytes()


@given(values, st.sampled_from(PROTOCOLS))
@settings(max_examples=150, deadline=None)
def test_what_was_pickled_comes_back(value: Any, protocol: int) -> None:
    assert same(value, load_arrays(io.BytesIO(pickle.dumps(value, protocol))))


def test_arrays_are_writable_native_and_keep_fortran_order_values() -> None:
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    for protocol in PROTOCOLS:
        loaded = load_arrays(io.BytesIO(pickle.dumps(array, protocol)))
        assert loaded.flags.writeable and loaded.dtype == np.float32 and loaded.dtype.isnative
        np.testing.assert_array_equal(loaded, array)


def test_scalars_ordered_dicts_and_shared_arrays() -> None:
    shared = np.arange(3)
    loaded = load_arrays(io.BytesIO(pickle.dumps(OrderedDict(a=np.float32(2), b=shared, c=[shared]))))
    assert loaded["a"] == 2 and loaded["a"].dtype == np.float32
    assert type(loaded) is dict and loaded["b"] is loaded["c"][0]


def test_numpy_1_and_2_paths_are_both_known() -> None:
    written = pickle.dumps({"features": np.arange(4.0)}, 2)
    for ours, theirs in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        np.testing.assert_array_equal(
            load_arrays(io.BytesIO(written.replace(ours, theirs)))["features"], np.arange(4.0)
        )


def python2_pickle(array: np.ndarray, protocol: int) -> bytes:
    """`{'data': array}` as Python 2 wrote it: the bytes are a byte string, which Python 3 writes in another way."""
    shape = b"".join(b"I%d\n" % n for n in array.shape)
    names = b"(dp0\nS'data'\np1\n" if protocol == 0 else b"\x80\x02}q\x00U\x04dataq\x01"
    raw = array.tobytes()
    string = b"S" + repr(raw)[1:].encode() + b"\n" if protocol == 0 else b"T" + struct.pack("<i", len(raw)) + raw
    dtype = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb" % array.dtype.str[1:].encode()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return names + head + b"(I1\n(" + shape + b"t" + dtype + b"I00\n" + string + b"tbs."


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("dtype", ["f4", "i8", "u1"])
def test_python_2_pickles(protocol: int, dtype: str) -> None:
    array = np.arange(100, 220).astype(dtype).reshape(30, 4)
    # the reference reads it too: the fixture is a pickle, not only something that our reader likes
    pickled = python2_pickle(array, protocol)
    np.testing.assert_array_equal(pickle.loads(pickled, encoding="latin1")["data"], array)
    np.testing.assert_array_equal(load_arrays(io.BytesIO(pickled))["data"], array)


class _Runs:
    """Pickles as a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_refused_by_name_and_not_made(tmp_path: Path, protocol: int) -> None:
    pickled = pickle.dumps({"features": _Runs(tmp_path / "made")}, protocol)
    with pytest.raises(TransferError, match=r"evil\.p: refused: it asks for posix\.mkdir"):
        load_arrays(io.BytesIO(pickled), "evil.p")
    assert not (tmp_path / "made").exists()


# An array up to its shape, and from its shape to its data.
ARRAY, FLOATS = b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n", b"cnumpy\ndtype\n(S'f4'\ntRI00\n"
# Programs in the pickle language that try other ways in; {} is a folder that must not come to be.
HOSTILE = {
    "a builtin": b"c__builtin__\neval\n(S'1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__class__'\ntR.",
    "a name with dots": b"\x80\x04\x8c\x05numpy\x94\x8c\x10ndarray.__init__\x94\x93.",
    "an instance": b"(S'{}'\nios\nmkdir\n.",
    "an object": b"(cos\nmkdir\nS'{}'\no.",
    "state on a constructor": b"cnumpy\nndarray\n(N}S'_make'\nNstb.",
    "state on a constructor, flat": b"cnumpy\nndarray\n}S'_make'\nNsb.",
    "a constructor as the value": b"cnumpy\nndarray\n.",
    "a new object of a constructor": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pnumber\n.",
    "a memo entry far away": b"Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff.",
    "a frame larger than memory": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x3f.",
    "bytes larger than memory": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x3fabc.",
    "an array without state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
    "an array of another size": ARRAY + b"(I9\nt" + FLOATS + b"S'ab'\ntb.",
    "an array of negative size": ARRAY + b"(I-1\nt" + FLOATS + b"S''\ntb.",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE)
def test_other_ways_in_are_closed(tmp_path: Path, program: bytes) -> None:
    target = tmp_path / "made"
    with pytest.raises(TransferError, match=r"^evil\.p: "):
        load_arrays(io.BytesIO(program.replace(b"{}", str(target).encode())), "evil.p")
    assert not target.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([{}, 1]), "object array"),
        (np.array([(1, 2.0)], dtype="i4,f8"), "dtype 'V12'"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dtype 'M8'"),
        (np.ma.masked_array([1, 2]), "refused"),
        (range(3), "refused"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_what_is_not_an_array_of_numbers_or_text_is_refused(value: Any, message: str, protocol: int) -> None:
    with pytest.raises(TransferError, match=message):
        load_arrays(io.BytesIO(pickle.dumps(value, protocol)))


def test_plain_sets_are_values() -> None:
    assert load_arrays(io.BytesIO(pickle.dumps({1, np.float32(2)}, 4))) == {1, 2}


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_pickle_never_ends_in_another_error(data: st.DataObject) -> None:
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    whole = bytearray(pickle.dumps({"features": np.arange(6.0).reshape(2, 3), "labels": [1, (2, "x")]}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        load_arrays(io.BytesIO(bytes(whole[:cut] if data.draw(st.booleans()) else whole)), "x.p")
    except TransferError as error:
        assert str(error).startswith("x.p: ")
