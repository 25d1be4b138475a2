"""Runs to report on, and the browser that looks at reports."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath


@pytest.fixture(scope="session")
def trained(tmp_path_factory: Any) -> Path:
    """The quick start on fewer digits and for three epochs, as train.py runs it, with its report; nobody changes it.

    Of several test processes the first one trains.
    """
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    workdir = shared / "a run"
    with (shared / "a run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "report.html").exists():
            _train(workdir)
    return workdir


def _train(workdir: Path) -> None:
    from transfer import config, experiment

    chosen = config.default()
    chosen.tap, chosen.image_size = "block3:flatten", 32
    chosen.data.train_per_class, chosen.data.validation_per_class = 20, 12
    chosen.head.epochs, chosen.head.batch_size, chosen.head.learning_rate = 3, 16, 0.001
    chosen.few_shot = {"per_class": (1, 5), "seeds": 2, "heads": ("ridge",)}
    experiment.train(chosen, epath.Path(workdir))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def watched(browser: Any) -> Iterator[Any]:
    """`watched(path, width=…, scheme=…)` opens a file in a page, and fails at the end for any error or request."""
    opened, problems = [], []

    def open_page(path: Path, width: int = 1280, height: int = 900, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        page = context.new_page()
        opened.append(context)
        page.on("console", lambda message: problems.append(f"console: {message.type} {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        address = path.resolve().as_uri()

        def asked(request: Any) -> None:
            if request.url != address and not request.url.startswith("data:"):
                problems.append(f"request: {request.url}")

        page.on("request", asked)
        page.goto(address)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not problems
