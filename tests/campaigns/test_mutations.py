"""The mutation campaign: which tokens it changes, which tests it shows them to, and that a change is noticed."""

import pytest

from tests.campaigns import mutations
from tests.campaigns.equivalents import EQUIVALENT

SOURCE = '''"""A docstring, 1 + 1."""
from typing import Any

@cached(True)
def function(x: "Any" = 3) -> "Any":
    """Returns 2 * x."""
    text = f"{x} is 7"
    zip(x, x, strict=True), x.reshape(-1)
    return not x and a is not b or (x - 1) <= y["<"] if x not in "a long sentence" else True
'''


def test_changes_what_a_test_could_notice_and_nothing_else():
    changes = [(each.line, each.name) for each in mutations.mutations("transfer/a.py", SOURCE)]
    assert changes == [
        (5, "3 -> 4"),
        *((9, name) for name in ("not  -> ", "and -> or", "or -> and", "- -> +", "1 -> 2", "<= -> <", '"<" -> ">"')),
        (9, "True -> False"),
    ]


def test_a_changed_file_differs_in_one_token():
    for each in mutations.mutations("transfer/a.py", SOURCE):
        before, after = SOURCE.splitlines()[each.line - 1], each.applied(SOURCE).splitlines()[each.line - 1]
        assert after == before[: each.start] + each.after + before[each.stop :] != before
        compile(each.applied(SOURCE), "a.py", "exec")


def test_a_sample_is_the_same_where_the_package_is():
    files = "transfer/runtime/files/*"
    sample = mutations.drawn(files, 0)
    assert sample == mutations.drawn(files, 0) and sample[:20] != mutations.drawn(files, 1)[:20]
    digests = mutations.drawn("transfer/runtime/files/digest.py", 0)
    assert digests == [each for each in sample if each.path == "transfer/runtime/files/digest.py"]


def test_equivalents_are_mutations_of_lines_that_are_there():
    for path, rows in EQUIVALENT.items():
        source = (mutations.REPOSITORY / path).read_text("utf-8")
        lines = source.splitlines()
        there = {(lines[each.line - 1].strip(), each.name) for each in mutations.mutations(path, source)}
        assert {(line, name) for line, name, _ in rows} <= there, path


def test_files_have_tests():
    about = mutations.tests_about("transfer/runtime/files/digest.py")
    assert "tests/runtime/test_digest.py" in about and "tests/runtime/test_tables.py" not in about


def test_the_quickest_tests_of_a_line_come_first():
    path, of_file = "transfer/runtime/files/digest.py", "tests/runtime/test_digest.py"
    lines = {path: {3: ["other::quick", f"{of_file}::slow", f"{of_file}::quick", "other::long"], 4: ["other::4"]}}
    seconds = {"other::quick": 0.1, f"{of_file}::slow": 3.0, f"{of_file}::quick": 0.2, "other::long": 1000.0}
    tests = mutations.Tests(lines, seconds)
    on_line = mutations.Mutation(path, 3, 0, 1, "<", "<=")
    assert tests.running(on_line) == [f"{of_file}::quick", f"{of_file}::slow", "other::quick"]
    imported = mutations.Mutation(path, 1, 0, 1, "<", "<=")
    assert "other::4" in tests.running(imported)


@pytest.mark.slow
def test_a_change_is_noticed_and_the_copy_is_as_it_was(tmp_path):
    copy, path = mutations.copied(tmp_path), "transfer/runtime/files/digest.py"
    source = (copy / path).read_text("utf-8")
    change = next(each for each in mutations.mutations(path, source) if each.name == "not  -> ")
    groups = {"of others": ["tests/runtime/test_tables.py"], "of its own": ["tests/runtime/test_digest.py"]}
    assert mutations.failing(copy, change, {"of others": groups["of others"]}) is None
    found = mutations.failing(copy, change, groups)
    assert found is not None and found.startswith("tests/runtime/test_digest.py::") and found.endswith(" of its own")
    assert (copy / path).read_text("utf-8") == source
