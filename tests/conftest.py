"""What several tests share."""

import gc
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before Keras is imported anywhere.
os.environ.setdefault("KERAS_BACKEND", "jax")

REPOSITORY = Path(__file__).parent.parent

# Before JAX is, here and in the processes that tests start: most of a test's time is compilation, often of the same.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# A process that a test starts would compile the package's sources again, which is an eighth of what its start takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Before NumPy is. Every core has a process of its own: threads of a matrix product would only wait for each other,
# busily, at four times the CPU in the logistic head's tests.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

SHARED_DATA = Path(os.environ.get("TRANSFER_TEST_DATA") or REPOSITORY / "data")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: a tenth of the time a test waits, for processes that it started or for a limit."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects no garbage meanwhile, and from then on what is made from then on.

    Tests and what they import are half a million objects that stay; to go through them again and again was a third of
    the collection's time, and a twentieth of the tests'.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# Each compiled program takes several memory maps, and Linux allows a process 65,530: beyond, XLA crashes. A test of an
# estimator may need 2,000.
MAPS, MOST_MAPS, LOOK_EVERY = Path("/proc/self/maps"), 10_000, 10
_tests = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Forgets compiled programs where they have become too many; those on disk are read again."""
    if next(_tests) % LOOK_EVERY or "jax" not in sys.modules or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder with `vgg16_keras_notop.h5` and `cifar10_jpeg.zip`, which are too large for the repository."""
    for name in ("vgg16_keras_notop.h5", "cifar10_jpeg.zip"):
        if not (SHARED_DATA / name).exists():
            pytest.skip(f"{SHARED_DATA / name} is not there; set TRANSFER_TEST_DATA to a folder that holds it")
    return SHARED_DATA


@pytest.fixture
def small_network(monkeypatch):
    """The name of an architecture that trains in a moment (`small_network.py`)."""
    import small_network

    from transfer.models import registry

    for name, builder in small_network.ARCHITECTURES.items():
        monkeypatch.setitem(registry.architectures(), name, builder)
    return "small"


@pytest.fixture(scope="module")
def several():
    """Real processes over loopback, started once for all tests of a file (`several.py`)."""
    from several import Several

    with Several() as started:
        yield started


# Nothing that a browser does by itself may look like a request of the page.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, the system's or Playwright's own."""
    from playwright.sync_api import Error, sync_playwright

    own = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=own, args=list(ARGUMENTS))
        except Error as error:
            # where there is none the tests are not run, and a CI without one has to say so
            if own is not None or "CI" in os.environ:
                raise
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}; `playwright install chromium`")
        yield started
        started.close()


@pytest.fixture(scope="module")
def compiled_quickly():
    """Programs without the passes that make them fast, here and in processes that are started.

    For tests of which most of the time is compilation, and which say nothing of how fast a program is or how it rounds.
    """
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "1")
        jax.config.update(name, True)
        yield
        jax.config.update(name, before)
