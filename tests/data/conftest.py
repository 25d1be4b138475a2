"""Tiny data sets, one of every kind, in their real formats."""

import pytest
from real_formats import MAKERS


@pytest.fixture(scope="session", params=MAKERS)
def data_set(request, tmp_path_factory):
    """(kind, spec, split -> (images, labels)) of every kind of source in turn."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root))
        patch.setenv("TRANSFER_CACHE", str(root / "cache"))
        yield request.param, *MAKERS[request.param](root)
