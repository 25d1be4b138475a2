"""The short form of the flip campaign: a few bytes of everything that is kept on disk, each noticed or harmless."""

import pytest

from tests.campaigns import short


@pytest.mark.slow
def test_a_few_changes_are_noticed_or_harmless(tmp_path):
    pytest.importorskip("onnx")
    done, figures = short.run("flip", "--changes=90", "--batch=6", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["held"] == figures["done"] == 90 and len(figures["parts"]) >= 8
