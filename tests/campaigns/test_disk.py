"""The short form of the disk campaign: full disks and read-only folders end in one line, and nothing is lost."""

import pytest

from tests.campaigns import short
from tests.campaigns.disk import CANNOT


@pytest.mark.slow
def test_a_few_disks_run_full(tmp_path, undisturbed):
    done, figures = short.run("disk", "--trials=6", "--cold", f"--folder={undisturbed}", folder=tmp_path)
    if done.returncode == CANNOT:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] >= 6 and len(figures["parts"]) >= 5
