"""Damaged files of every kind: each reader returns, or raises one TransferError of one line, and does nothing else."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.campaigns import fuzz, mutate
from tests.campaigns.fuzz_targets import TARGETS
from tests.campaigns.watched import Watch


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """One audit hook for all; libraries may be imported."""
    folder = tmp_path_factory.mktemp("fuzz")
    before, handler = logging.get_verbosity(), signal.getsignal(signal.SIGALRM)
    logging.set_verbosity(logging.ERROR)
    found = Watch(folder, seconds=30, memory=None)
    found.libraries = True
    yield found
    logging.set_verbosity(before)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, watch: Watch) -> None:
    target = TARGETS[name]
    trials = fuzz.Trials(target, Path(watch.folders[0]), watch)
    seeds = target.seeds()
    for content in seeds:
        assert trials.run(content) is None
    assert trials.answers["read"], "no seed is read: what is damaged was not valid"

    @settings(max_examples=target.short, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(choose=st.randoms(use_true_random=False))
    def damage(choose: object) -> None:
        content = mutate.mutated(choose, seeds, target.tokens)
        assert trials.run(content) is None

    damage()


@pytest.mark.parametrize("path", sorted(fuzz.FOUND.rglob("*.bin")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_found_stays_repaired(path: Path, watch: Watch) -> None:
    target = next(target for name, target in TARGETS.items() if fuzz.slug(name) == path.parent.name)
    trials = fuzz.Trials(target, Path(watch.folders[0]), watch)
    assert trials.run(path.read_bytes()) is None


def test_the_inputs_of_a_seed_are_always_the_same() -> None:
    target = TARGETS["features .p"]
    assert fuzz.content(target, 0, 5) == fuzz.content(target, 0, 5) != fuzz.content(target, 1, 5)
