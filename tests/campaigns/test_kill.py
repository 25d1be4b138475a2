"""The short form of the kill campaign: every kind of work killed at a few moments ends as without."""

import pytest

from tests.campaigns import short


@pytest.mark.slow
def test_killed_at_a_few_moments(tmp_path, undisturbed):
    done, figures = short.run("kill", "--moments=5", "--cold", f"--folder={undisturbed}", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 5 and len(figures["parts"]) >= 3


@pytest.mark.slow
def test_a_fine_tuning_that_was_killed_keeps_the_epoch_of_one_that_was_not(tmp_path, undisturbed):
    """By its files bit for bit: with `keep="best"` and `patience` it keeps the third of five epochs of twelve."""
    flags = ("--moments=2", "--cold", "--work=finetuned", f"--folder={undisturbed}")
    done, figures = short.run("kill", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 2
