"""What campaigns share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that campaigns work in one after another: runs without disturbance are made once for all of them."""
    return tmp_path_factory.mktemp("undisturbed")
