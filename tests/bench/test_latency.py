"""Latency: of requests that come one after another or when they are due, and of the first one."""

import json
import time

import jax
import numpy as np
import pytest

from transfer import __main__ as program
from transfer.bench import latency
from transfer.bench.cases import NetworkSpec


def test_one_after_another():
    durations = latency.requests(lambda: time.sleep(0.01), seconds=0.1, rate=None)
    assert 2 <= len(durations) <= 10 and (durations >= 0.01).all()


def test_those_that_wait_for_a_slow_one_count():
    """Twenty a second that take 0.1 s each: each comes 0.05 s later than the one before, and waits as much longer."""
    durations = latency.requests(lambda: time.sleep(0.1), seconds=0.25, rate=20)
    assert len(durations) == 5
    assert (np.diff(durations) > 0.04).all() and durations[-1] > 0.28


def test_a_rate_that_is_kept():
    start = time.perf_counter()
    durations = latency.requests(lambda: None, seconds=0.2, rate=50)
    assert len(durations) in (10, 11) and time.perf_counter() - start >= 0.17 and np.median(durations) < 0.02


def test_a_rate_that_is_too_fast_comes_to_an_end():
    start = time.perf_counter()
    durations = latency.requests(lambda: time.sleep(0.01), seconds=0.02, rate=1e6)
    assert time.perf_counter() - start < 2 and 2 <= len(durations) <= 20 and (np.diff(durations) > 0).all()


def test_a_rate_slower_than_a_round_has_one_request():
    assert len(latency.requests(lambda: None, seconds=0.05, rate=0.1)) == 1


@pytest.mark.parametrize(
    ("answered", "rate"),
    [(41.0, 20), (39.0, 10), (25.0, 10), (4.0, 2), (2.0, 1), (1.9, 0.5), (0.03, 0.01), (950, 200)]
    + [(2 * 999.9999999999999, 500)],  # whose logarithm is 3
)
def test_two_runs_have_the_same_usual_rate(answered, rate):
    assert latency.usual_rate(answered) == rate


def test_no_compiled_program_is_there_at_a_cold_start(monkeypatch):
    """Not from JAX_COMPILATION_CACHE_DIR, either."""
    kept = []
    monkeypatch.setattr(latency, "load", lambda spec: kept.append(jax.config.jax_enable_compilation_cache))
    monkeypatch.setattr(latency, "_request", lambda *arguments: None)
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", True)
    try:
        latency.first_features((NetworkSpec("vgg11"), "float32", "high"))
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert kept == [False]


@pytest.mark.slow
def test_rows_and_table(tmp_path, capsys):
    output = tmp_path / "latency.json"
    flags = ["--latency", "--models=vgg11_slim.cifar10", "--rounds=2", "--seconds=0.05", f"--output={output}"]
    assert program.main(["bench", *flags]) == 0
    content = json.loads(output.read_text())
    alone, at_a_rate = content["rows"]
    for row in (alone, at_a_rate):
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["batch"] == 1 and row["requests"] >= 2 and len(row["seconds"]["ours"]) == 2
        # Python, JAX and a compilation: more than a request
        assert row["cold_start_seconds"] > row["latency_ms"]["p99"] / 1e3
    assert alone["rate"] is None and at_a_rate["rate"] > 0
    assert content["units"]["latency_ms"] == "ms" and content["units"]["rate"] == "requests/s"
    assert capsys.readouterr().out.splitlines()[0].split() == (
        ["model", "px", "dtype", "requests/s", "requests", "p50", "ms", "p90", "ms", "p99", "ms", "cold", "start", "s"]
    )


@pytest.mark.parametrize(
    ("flag", "said"), [("--batch=8", "leave --batch=8 out"), ("--rate=0", "--rate=0 should be more than 0")]
)
def test_wrong_flags(capsys, flag, said):
    assert program.main(["bench", "--latency", flag]) == 2
    assert said in capsys.readouterr().err


def test_a_cold_start_that_fails_has_no_figure(caplog):
    assert latency.cold_start(NetworkSpec("no_such_network"), "float32", "high") is None
