"""No known trick with a file runs anything, or takes more than its share; the error names what was refused."""

from collections import Counter

import pytest

from tests.campaigns import hostile


@pytest.mark.slow
def test_every_trick_is_held_off() -> None:
    found = list(hostile.results(short=True))
    wrong = [f"{each['name']}: {each['problem']}" for each in found if each["problem"]]
    assert not wrong, "\n".join(wrong)
    assert len(found) == sum(1 for _ in hostile.cases(short=True))
    parts = Counter(each["part"] for each in found)
    assert parts["names"] > 800 and parts["code"] > 1000 and parts["claims"] > 500 and parts["tensors"] > 50
    assert parts["stand-ins"] > 100
    assert all(parts[kind] > 20 for kind in hostile.FILES)
