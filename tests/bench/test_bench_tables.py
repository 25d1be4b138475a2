"""The whole text of every table of `bench`, as kept in `tests/golden/bench/`: each heading, figure, dash and remark.

`rows.json` there has a few rows of each benchmark. After a change that is meant,
`PYTHONPATH=. python tests/bench/test_bench_tables.py` writes the tables again; read their diff.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from transfer.bench import results, table

GOLDEN = Path(__file__).parents[1] / "golden" / "bench"
ROWS: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / "rows.json").read_text())


def shown(benchmark: str, folder: Path) -> str:
    """The table of a benchmark's rows; "report" stands for the Markdown of all that are compared."""
    if benchmark != "report":
        return importlib.import_module(f"transfer.bench.{benchmark}").table(ROWS[benchmark]) + "\n"
    paths = [folder / "networks.json", folder / "head.json"]
    for path in paths:
        path.write_text(results.text(f"bench --output={path.name}", "2025-01-31", ROWS[path.stem], True))
    return table.report(paths) + "\n"


@pytest.mark.parametrize("benchmark", [*ROWS, "report"])
def test_the_table_is_what_it_was(benchmark, tmp_path):
    assert shown(benchmark, tmp_path) == (GOLDEN / f"{benchmark}.txt").read_text("utf-8")


def test_no_rows_and_no_common_settings():
    assert table.text([]) == "nothing was measured"
    failed = ROWS["networks"][2]
    assert table.text([failed]).splitlines()[1].startswith("tap pre_logits, px 0, dtype float32, precision high")


if __name__ == "__main__":
    import tempfile

    for name in (*ROWS, "report"):
        with tempfile.TemporaryDirectory() as temporary:
            (GOLDEN / f"{name}.txt").write_text(shown(name, Path(temporary)), "utf-8")
