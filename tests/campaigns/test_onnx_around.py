"""What people put around a backbone and into it, as PyTorch exports it: the file's outputs, or one line.

The short form of the campaign `onnx_around`: a hundred drawn networks, stored; ONNX Runtime is the judge.
"""

from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_judge  # noqa: E402
from golden import onnx_around_graphs  # noqa: E402

CASES = onnx_around_graphs.cases()
QUICK = [number for number, case in enumerate(CASES) if case["arch"] == "lenet5"][:10]


def check(number: int, folder: Path) -> None:
    path = folder / "model.onnx"
    onnx.save(onnx_around_graphs.model(number), str(path))
    verdict = onnx_judge.judge(path, CASES[number])
    assert verdict.outcome == CASES[number]["outcome"], verdict.why


@pytest.mark.parametrize("number", QUICK)
def test_a_few_drawn_networks(number: int, tmp_path: Path) -> None:
    check(number, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted({case["arch"] for case in CASES}))
def test_drawn_networks_are_read_as_what_they_are_or_refused(arch: str, tmp_path: Path) -> None:
    """One test an architecture, so that a program compiled for one case serves the others."""
    for number, case in enumerate(CASES):
        if case["arch"] == arch and number not in QUICK:
            check(number, tmp_path)


def test_none_was_wrong_and_enough_are_accepted() -> None:
    """A reading that refuses everything is never wrong."""
    outcomes = [case["outcome"] for case in CASES]
    assert len(CASES) == 100 and set(outcomes) == {onnx_judge.ACCEPTED, onnx_judge.REFUSED}
    assert outcomes.count(onnx_judge.ACCEPTED) >= 35
    assert {case["exporter"] for case in CASES} == {"legacy", "dynamo"}
    unchanged = [case["outcome"] for case in CASES if not case["pieces"]]
    # those that are exported in training mode are refused
    assert unchanged.count(onnx_judge.ACCEPTED) >= 0.8 * len(unchanged)
