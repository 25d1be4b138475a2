"""The short form of the Ctrl-C campaign: training on files, and a work that the commit draws, at a few moments."""

import zlib

import pytest

from tests.campaigns import short
from tests.campaigns.figures import machine


@pytest.mark.slow
def test_interrupted_at_a_few_moments(tmp_path, undisturbed):
    seed = zlib.crc32(machine()["commit"].encode())
    flags = ("--moments=8", "--cold", f"--seed={seed}", f"--folder={undisturbed}")
    done, figures = short.run("interrupt", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 8 and len(figures["parts"]) >= 2
