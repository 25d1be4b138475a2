"""The short form of the campaign of processes; and which exit codes fit which signal."""

import pytest

from tests.campaigns import short
from tests.campaigns.processes import fitting

TERM, ALL, KILL, INT, STOP = "SIGTERM", "SIGTERM to all", "SIGKILL", "SIGINT", "SIGSTOP and SIGCONT"
CODES = [
    (TERM, [75, 75, 75], True),
    (TERM, [0, 0, 0], True),
    (TERM, [75, 0, 75], True),
    (TERM, [76, 76, 76], True),
    (ALL, [75, 75, 76], False),
    (TERM, [75, 75, 1], False),
    (TERM, [76, 1, 76], False),
    (KILL, [76, -9, 76], True),
    (KILL, [0, -9, 76], True),
    (KILL, [75, -9, 76], False),
    (KILL, [1, -9, 76], False),
    (INT, [76, 130, 76], True),
    (INT, [76, 1, 76], False),
    (STOP, [0, 0, 0], True),
    (STOP, [76, 76, 76], False),
]


@pytest.mark.parametrize(("name", "codes", "fits"), CODES)
def test_codes_that_fit_the_signal_and_each_other(name, codes, fits):
    assert fitting(name, codes, [1], ["", "", ""]) is fits


def test_one_that_left_before_the_others_came():
    line = "error: SIGTERM: stopped before the first step; run the same command again"
    assert fitting(TERM, [76, 75], [1], ["", line]) and not fitting(TERM, [76, 75], [1], ["", ""])


@pytest.mark.slow
def test_a_run_that_a_signal_ends(tmp_path):
    done, figures = short.run("processes", "--runs=1", "--processes=2", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] == 1
