"""A file is there whole or not at all, and nothing is left beside it."""

import errno
from pathlib import Path

import pytest

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import atomic


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / "a.json.part").write_bytes(b"half of")
    with atomic.writing(tmp_path / "a.json") as stream:
        assert [path.name for path in tmp_path.iterdir()] == ["a.json.part"]
        stream.write(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"whole")]


def test_several_may_write_the_same_at_once(tmp_path):
    """In containers on several machines they have one and the same process id."""
    with atomic.writing(tmp_path / "a", shared=True) as stream:
        stream.write(b"first")
        with atomic.writing(tmp_path / "a", shared=True) as other:
            other.write(b"another")
            assert all(path.match(".a.*.part") for path in tmp_path.iterdir())
        assert (tmp_path / "a").read_bytes() == b"another"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_leaves_the_file_as_it_was(tmp_path, error):
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(error), atomic.writing(tmp_path / "a") as stream:
        stream.write(b"half")
        raise error
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "full").mkdir()
    for path, failure, named in (
        (tmp_path / "full", OSError(errno.ENOSPC, "full"), tmp_path / "full"),
        (tmp_path / "a", OSError(errno.EIO, "of another", "/elsewhere"), Path("/elsewhere")),
        (tmp_path / "missing" / "a", None, tmp_path / "missing" / "a"),
    ):
        with pytest.raises(OSError) as raised, atomic.writing(path):
            raise failure
        assert Path(raised.value.filename) == named and raised.value.filename2 is None


def test_text_keeps_names_that_are_no_text(tmp_path):
    atomic.write_text(tmp_path / "a", "é\udcff")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\xff"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is damaged, it holds no JSON (JSONDecodeError: Expecting property name"),
        (b"[" * 100_000, "is damaged, it holds no JSON (RecursionError: maximum recursion depth"),
        (b"\xff", "is damaged, it holds no JSON (UnicodeDecodeError"),
        (b"[1]", "is damaged, it holds no settings; restore or delete it"),
    ],
    ids=lambda value: repr(value)[:9],
)
def test_json_that_is_damaged_is_one_line(tmp_path, content, problem):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(TransferError) as raised:
        atomic.read_json(tmp_path / "a.json")
    assert str(raised.value).startswith(f"{tmp_path}/a.json {problem}")
    assert str(raised.value).endswith("; restore or delete it") and "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8191, 8192, 9000])
def test_the_ends_of_a_file_say_what_it_is(tmp_path, size):
    """All of a file up to 8 KiB, else 4 KiB at each end; an empty one is nobody's."""
    content = bytes(n % 251 for n in range(size))
    (tmp_path / "a").write_bytes(content)
    seen = []
    atomic.check_output(tmp_path / "a", lambda ends: not seen.append(ends))
    assert seen == ([content if size <= 8192 else content[:4096] + content[-4096:]] if size else [])
    if size:
        with pytest.raises(UsageError) as raised:
            atomic.check_output(tmp_path / "a", lambda ends: False, "a report", "plots")
        assert str(raised.value) == (
            f"--plots: {tmp_path}/a is there already and is not a report made here; choose another name, "
            "or move it away"
        )
    atomic.check_output(tmp_path / "a")


def test_files_of_a_run_are_no_outputs(tmp_path):
    atomic.check_output(tmp_path / "config.json")  # nothing else of a run is here
    (tmp_path / "config.json").write_bytes(b"{}")
    atomic.check_output(tmp_path / "config.json")
    with pytest.raises(
        UsageError, match=r"^--output: .*/result\.json is a file of the run in .*; choose another name$"
    ):
        atomic.check_output(tmp_path / "result.json")
    with pytest.raises(UsageError, match="is a folder; name a file$"):
        atomic.check_output(tmp_path)
