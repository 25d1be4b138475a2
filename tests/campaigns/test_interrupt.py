"""The short form of the Ctrl-C campaign: training on files, interrupted at a few moments."""

import pytest

from tests.campaigns import short


@pytest.mark.slow
def test_interrupted_at_a_few_moments(tmp_path):
    done, figures = short.run("interrupt", "--moments=8", "--cold", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 8 and len(figures["parts"]) >= 2
