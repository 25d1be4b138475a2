"""The short form of the network campaign: each page of a bad source once."""

import pytest

from tests.campaigns import short
from tests.campaigns.network import PAGES


@pytest.mark.slow
def test_every_bad_source_once(tmp_path):
    done, figures = short.run("network", f"--trials={len(PAGES)}", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] == len(PAGES) == len(figures["parts"])
