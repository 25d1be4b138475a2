"""What is said of images that could not be read, and that a class without any of them stops the run."""

from types import SimpleNamespace as Given

import numpy as np
import pytest

from transfer.errors import TransferError
from transfer.store import skipped


class Source:
    """Two cats, four dogs, no emu, one fox."""

    target = "classes"
    class_names = ("cat", "dog", "emu", "fox")
    labels = np.array([0, 1, 1, 0, 1, 1, 3])

    def __len__(self) -> int:
        return len(self.labels)


SOURCE = Source()


def store(*rows: int) -> Given:
    names = [f"{SOURCE.class_names[SOURCE.labels[row]]}/{row}" for row in rows]
    return Given(metadata=dict(skipped_rows=list(rows), skipped=names), labels=np.delete(SOURCE.labels, rows))


def test_the_facts_of_images_that_were_skipped() -> None:
    assert skipped.facts(store(), SOURCE) is None
    one = {"images": 1, "of": 7, "first": ["dog/2"], "classes": {"dog": 1}}
    assert skipped.facts(store(2), SOURCE) == one
    assert skipped.line("train", one) == "train: 1 of 7 images could not be read and was skipped: dog/2 (1 of dog)"
    six = skipped.facts(store(0, 1, 2, 4, 5, 6), SOURCE)
    first = ["cat/0", "dog/1", "dog/2", "dog/4", "dog/5"]
    assert six == {"images": 6, "of": 7, "first": first, "classes": {"dog": 4, "cat": 1, "fox": 1}}
    assert list(six["classes"]) == ["dog", "cat", "fox"]
    assert skipped.line("test", six) == (
        "test: 6 of 7 images could not be read and were skipped: cat/0, dog/1, dog/2, dog/4, dog/5, … "
        "(4 of dog, 1 of cat, 1 of fox)"
    )


def test_a_class_is_lost_where_all_its_images_were_skipped() -> None:
    skipped.check("train", store(0, 1, 2, 4), SOURCE)  # an emu was never there
    with pytest.raises(TransferError) as error:
        skipped.check("train", store(6, 0, 3), SOURCE)
    words = "train: no image of class cat, fox could be read, so that 1 of 3 classes are left; config.on_error="
    assert str(error.value).startswith(words)
