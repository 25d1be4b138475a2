"""The mutation campaign: which tokens it changes, which tests it shows them to, and that a change is noticed."""

import pytest

from tests.campaigns import mutations

SOURCE = '''"""A docstring, 1 + 1."""
from typing import Any

@cached(True)
def function(x: "Any" = 3) -> "Any":
    """Returns 2 * x."""
    text = f"{x} is 7"
    return not x and a is not b or (x - 1) <= y["<"] if x not in "a long sentence" else True
'''


def test_changes_what_a_test_could_notice_and_nothing_else():
    changes = [(each.line, each.name) for each in mutations.mutations("transfer/a.py", SOURCE)]
    assert changes == [
        (5, "3 -> 4"),
        *((8, name) for name in ("not  -> ", "and -> or", "or -> and", "- -> +", "1 -> 2", "<= -> <", '"<" -> ">"')),
        (8, "True -> False"),
    ]


def test_a_changed_file_differs_in_one_token():
    for each in mutations.mutations("transfer/a.py", SOURCE):
        before, after = SOURCE.splitlines()[each.line - 1], each.applied(SOURCE).splitlines()[each.line - 1]
        assert after == before[: each.start] + each.after + before[each.stop :] != before
        compile(each.applied(SOURCE), "a.py", "exec")


def test_files_have_tests():
    about, others = mutations.tests_about("transfer/runtime/files/digest.py")
    assert "tests/runtime/test_digest.py" in about and not set(about) & set(others)
    assert others and all(test.startswith("tests/runtime/") for test in others)


@pytest.mark.slow
def test_a_change_is_noticed_and_the_copy_is_as_it_was(tmp_path):
    copy, path = mutations.copied(tmp_path), "transfer/runtime/files/digest.py"
    source = (copy / path).read_text("utf-8")
    change = next(each for each in mutations.mutations(path, source) if each.name == "not  -> ")
    tests = [(["tests/runtime/test_tables.py"], "not slow"), (["tests/runtime/test_digest.py"], "not slow")]
    assert mutations.failing(copy, change, tests[:1]) is None
    assert mutations.failing(copy, change, tests) == "1 files, not slow"
    assert (copy / path).read_text("utf-8") == source
