"""Two results beside each other: ratios, intervals that hold, and what a script is told."""

import json

import numpy as np
import pytest
from scipy import stats

from transfer import __main__ as program
from transfer.bench import results
from transfer.bench.compare import CONFIDENCE, Speedup, compare, speedup
from transfer.runtime.timing import spread

MACHINE = {"device_kind": "cpu", "processor": "Some CPU", "devices": 2, "hosts": 1, "jax": "0.10.2", "cores": 2}


def network(compute, whole=None, matmul=None, **changes):
    seconds = {"compute": compute, "end to end": whole or [2 * value for value in compute]}
    if matmul:
        seconds["matmul"] = matmul
    row = {"kind": "extractor", "failed": None, "model": "vgg16", "weights": "random", "tap": "pre_logits"}
    row |= {"image_size": [32, 32], "batch": 64, "dtype": "float32", "precision": "high", "seconds": seconds}
    return row | MACHINE | changes


HEAD = {"kind": "head", "case": "1,000 x 512", "failed": None, "rows": 1000, **MACHINE}
STEADY = [1.0, 1.01, 0.99, 1.0, 1.005]


def write(path, *rows):
    path.write_text(results.text("python -m transfer bench", "2026-01-31", rows, True))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Writes the rows of A and of B; returns the flags that compare them."""
    return lambda a, b: ["bench", "--compare", write(tmp_path / "a.json", *a), write(tmp_path / "b.json", *b)]


def test_the_interval_is_welchs_of_the_logarithms():
    before, after = [1.0, 1.2, 0.9, 1.1], [0.5, 0.8, 0.6]
    logs = np.log(before), np.log(after)
    middle, low, high = speedup(before, after)
    assert middle == pytest.approx(np.exp(logs[0].mean() - logs[1].mean()))
    test = stats.ttest_ind(*logs, equal_var=False).confidence_interval(CONFIDENCE)
    assert (np.log(low), np.log(high)) == (pytest.approx(test.low), pytest.approx(test.high))
    assert speedup(after, before) == pytest.approx((1 / middle, 1 / high, 1 / low))


@pytest.mark.parametrize("spreads", [(0.02, 0.02), (0.01, 0.1), (0.3, 0.3)], ids=str)
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(spreads):
    generator, held = np.random.default_rng(5), 0
    for _ in range(400):
        before, after = (
            np.exp(generator.normal(mean, spread, 5)) for mean, spread in zip((0.3, 0), spreads, strict=True)
        )
        _, low, high = speedup(before.tolist(), after.tolist())
        held += low <= np.exp(0.3) <= high
    assert 0.975 <= held / 400 <= 1


@pytest.mark.parametrize(("before", "after"), [([1.0], [2.0, 2.1]), ([1.0, 1.1], [2.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_too_few_rounds_for_an_interval(before, after):
    found = speedup(before, after)
    assert found.ratio == pytest.approx(np.mean(before) / np.mean(after), rel=0.01)
    assert np.isnan(found.low) and found.verdict == "-" and "[" not in str(found)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [((1.1, 1.05, 1.2), "faster"), ((0.9, 0.8, 0.99), "SLOWER"), ((1.1, 0.9, 1.3), "equal")]
)
def test_verdicts(ratio, verdict):
    assert Speedup(*ratio).verdict == verdict


def test_the_table_word_for_word(files, capsys):
    a = [network(STEADY), {**HEAD, "ours": "ours", "seconds": {"ours": STEADY, "PyTorch loop": STEADY}}]
    b = [
        network([value / 2 for value in STEADY], STEADY, jax="0.12.0"),
        {**HEAD, "ours": "ours", "seconds": {"ours": STEADY, "Keras": STEADY}},
        network(STEADY, batch=1),
        {**network(STEADY, batch=2, failed="no memory"), "seconds": None},
    ]
    assert program.main(files(a, b)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "device cpu, processor Some CPU, devices 2, hosts 1, cores 2",
        "jax: 0.10.2 in A, 0.12.0 in B",
        "",
        "case                             contender   B over A              beside the yardstick  verdict",
        "vgg16, 32 px, batch 64, float32  compute     2.000 [1.969, 2.032]  -                     faster",
        "vgg16, 32 px, batch 64, float32  end to end  2.000 [1.969, 2.032]  -                     faster",
        "1,000 x 512                      ours        1.000 [0.984, 1.016]  -                     equal",
        "B over A: how many times as fast, 99% intervals; a yardstick took turns with ours, in both",
        "only in B: vgg16, 32 px, batch 1, float32",
        "failed in B: vgg16, 32 px, batch 2, float32: no memory",
    ]


def test_a_machine_that_became_slower_is_not_our_fault(files):
    slow = [2 * value for value in STEADY]
    yardsticks = [0.1, 0.099, 0.1, 0.102, 0.1], [0.2, 0.199, 0.203, 0.2, 0.2]
    rows = (network(seconds, matmul=yardstick) for seconds, yardstick in zip((STEADY, slow), yardsticks, strict=True))
    comparison = compare(files(*([row] for row in rows))[2:])
    assert [each.decisive.verdict for each in comparison.changes] == ["equal", "equal", "SLOWER"]
    assert comparison.changes[0].plain.verdict == "SLOWER" and not comparison.slower_than(0.95)


@pytest.mark.parametrize(
    ("factor", "limit", "code"), [(1.0, 0.95, 0), (1.2, 0.95, 1), (1.2, 0.5, 0), (1.04, 0.95, 0), (0.8, 0.95, 0)]
)
def test_a_script_is_told(files, capsys, factor, limit, code):
    flags = files([network(STEADY)], [network([factor * value for value in STEADY])])
    assert program.main([*flags, f"--fail_below={limit}"]) == code
    captured = capsys.readouterr()
    assert "verdict" in captured.out
    said = f"error: slower than --fail_below={limit}: vgg16, 32 px, batch 64, float32, compute: {1 / factor:.3f} ["
    assert captured.err.startswith(said) if code else not captured.err


def test_of_a_single_round_the_ratio_decides(files):
    comparison = compare(files([network([1.0])], [network([1.2])])[2:])
    assert [each.decisive.verdict for each in comparison.changes] == ["-", "-"]
    assert len(comparison.slower_than(0.95)) == 2 and not comparison.slower_than(0.8)


@pytest.mark.parametrize("unknown", [None, [], [1.0, None, 1.0], [1.0, float("nan")], [0.0, 1.0]], ids=str)
def test_a_contender_without_all_its_rounds_is_left_out(files, unknown):
    rows = [network(STEADY, matmul=STEADY), network(STEADY, matmul=STEADY)]
    rows[1]["seconds"] |= {"end to end": unknown, "matmul": unknown}
    (change,) = compare(files([rows[0]], [rows[1]])[2:]).changes
    assert (change.contender, change.plain.verdict, change.beside) == ("compute", "equal", None)


def test_a_yardstick_of_other_rounds_is_none(files):
    rows = [network(STEADY, matmul=STEADY[:rounds]) for rounds in (5, 3)]
    assert {change.beside for change in compare(files(*([row] for row in rows))[2:]).changes} == {None}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_known(tmp_path, value):
    path = write(tmp_path / "a.json", network(STEADY, error=value, errors={"fc7": value, "fc6": 1e-3}))
    ((row,),) = (content["rows"] for content in results.read([path]))
    assert row["error"] is None and row["errors"] == {"fc7": None, "fc6": 1e-3}


def test_a_file_without_rows_is_no_result(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"schema": 1}')
    assert program.main(["bench", "--compare", *[str(tmp_path / "a.json")] * 2]) == 1
    assert "a.json is not a result of `python -m transfer bench --output`" in capsys.readouterr().err


@pytest.mark.parametrize("other", [network(STEADY, failed="no memory"), network(STEADY, dtype="bfloat16"), HEAD])
def test_nothing_in_common(files, capsys, other):
    assert program.main(files([network(STEADY)], [other])) == 1
    assert "have no measurement in common" in capsys.readouterr().err


def test_an_older_results_share_of_a_matmul(tmp_path):
    row = network(STEADY, mfu=1.5, peak_source="matmul")
    (tmp_path / "a.json").write_text(json.dumps({"schema": 1, "command": "bench", "rows": [row]}))
    ((read,),) = ([content["rows"] for content in results.read([tmp_path / "a.json"])],)
    assert read[0]["times_matmul"] == 1.5 and read[0]["mfu"] is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--fail_below=0.9"], "--fail_below=0.9 goes with --compare"),
        (["--rate=3"], "--rate=3 goes with --latency"),
        (["--compare", "a", "b", "--fail_below=-1"], "--fail_below=-1 should be more than 0"),
        (["--peak_tflops=0"], "--peak_tflops=0 should be more than 0"),
        (["--compare", "a", "b", "--fail_below=nan"], "--fail_below=nan should be more than 0"),
        (["--compare", "a", "b", "--head"], "are different things; take one"),
    ],
)
def test_flags_that_mean_nothing(capsys, flags, said):
    assert program.main(["bench", *flags]) == 2
    assert said in capsys.readouterr().err


def test_the_spread_of_rounds():
    assert spread({"compute": [1.0, 2.0, 3.0]}) == {"compute": pytest.approx((2.8 - 1.2) / 2)}
