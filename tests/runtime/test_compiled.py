"""The folder of compiled programs: how much it keeps, and what becomes of an entry that cannot be read."""

import os
import warnings

import jax
import pytest

from transfer.runtime import cache

GIB = 1 << 30


@pytest.fixture
def settings(monkeypatch):
    """Keeps what is set for this process as it was."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", *cache.SETTINGS)
    before = {name: jax.config.values[name] for name in names}
    for name in cache.SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def entries(folder, *sizes):
    """Entries that take no room on the disk, the first used longest ago, and a file of somebody's."""
    for place, size in enumerate(sizes):
        with (folder / f"{place}-cache").open("wb") as stream:
            stream.truncate(size)
        os.utime(folder / f"{place}-cache", (1000 + place, 5000 - place))
    (folder / "notes").write_bytes(b"x")


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ((GIB, GIB), "01"),
        ((GIB, GIB + 1), ""),  # one alone is above half of it
        ((GIB + 1, GIB // 2, GIB // 2), "12"),
        ((GIB // 2, GIB // 2, 1, GIB), "3"),
        ((3 * GIB,), ""),
    ],
)
def test_above_two_gib_what_was_not_used_for_longest_goes_to_half_of_it(tmp_path, settings, sizes, left):
    entries(tmp_path, *sizes)
    cache.keep_compiled(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{place}-cache" for place in left), "notes"]
    values = jax.config.values
    assert values["jax_compilation_cache_dir"] == str(tmp_path)
    assert values["jax_persistent_cache_min_compile_time_secs"] == 0
    assert values["jax_persistent_cache_min_entry_size_bytes"] == -1


def test_what_the_environment_says_stays(tmp_path, settings, monkeypatch):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    cache.keep_compiled(str(tmp_path))
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 3
    assert jax.config.values["jax_persistent_cache_min_entry_size_bytes"] == -1


@pytest.mark.parametrize(("doing", "left"), [("reading", 0), ("writing", 2)])
def test_a_folder_with_an_entry_that_cannot_be_read_is_emptied_and_said_once(tmp_path, settings, caplog, doing, left):
    cache.keep_compiled(str(tmp_path))
    entries(tmp_path, 3, 4)
    for name in "ab":
        warning = f"Error {doing} persistent compilation\ncache entry for {name}: no"
        warnings.showwarning(warning, UserWarning, "x.py", 1)
    lines = [f"compilation cache {tmp_path}: Error {doing} persistent compilation cache entry for a: no"]
    assert [record.message for record in caplog.records] == lines
    assert len(list(tmp_path.glob("*-cache"))) == left and (tmp_path / "notes").exists()


def test_other_warnings_are_shown_as_ever(tmp_path, settings, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *given, **named: shown.append((given, named)))
    cache.keep_compiled(str(tmp_path))
    warnings.showwarning("a word", UserWarning, "x.py", 1, line="l")
    assert shown == [(("a word", UserWarning, "x.py", 1), {"line": "l"})]


def test_where_it_is(tmp_path, settings, monkeypatch, caplog):
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "own"))
    cache.keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "own" / "compiled")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRANSFER_CACHE")
    assert cache.cache_dir() == tmp_path / ".cache" / "transfer"
    cache.keep_compiled()  # as JAX was told before
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "own" / "compiled")
    cache.keep_compiled("~/here")
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "here")
    (tmp_path / "file").write_bytes(b"")
    cache.keep_compiled(str(tmp_path / "file" / "x"))
    assert caplog.messages == [
        f"{tmp_path}/file/x: Not a directory; compiled programs are not kept (--compilation_cache=DIR)"
    ]
    assert not jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", True)
    cache.keep_compiled("off")
    assert not jax.config.values["jax_enable_compilation_cache"]
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "here")
