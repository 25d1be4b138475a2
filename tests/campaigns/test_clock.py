"""The short form of the clock campaign: extraction and training on clocks that jump end as on others."""

import pytest

from tests.campaigns import short


@pytest.mark.slow
def test_on_a_few_clocks(tmp_path, undisturbed):
    done, figures = short.run("clock", "--trials=2", "--cold", f"--folder={undisturbed}", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] == 2
