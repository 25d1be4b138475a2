"""The short form of the kill campaign: every kind of work killed at a few moments ends as without."""

import pytest

from tests.campaigns import short


@pytest.mark.slow
def test_killed_at_a_few_moments(tmp_path):
    done, figures = short.run("kill", "--moments=5", "--cold", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 5 and len(figures["parts"]) >= 3
