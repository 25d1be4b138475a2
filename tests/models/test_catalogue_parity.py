"""The errors that the catalogue states: one a record, measured with the record's own architecture and fields."""

import pytest
from golden import reading
from models import catalogue_parity

from transfer.weights import catalogue

# What golden cases are made narrow by.
NARROWED = ("num_classes", "hidden")
SOURCES = {"native": "torchvision"}


def test_every_record_and_no_other_has_an_error() -> None:
    assert set(catalogue.parity()) == set(catalogue.records())


@pytest.mark.parametrize("name", catalogue.names())
def test_the_error_is_a_measured_one(name: str) -> None:
    record, measured = catalogue.get(name), catalogue.parity()[name]
    assert 1e-8 < measured["error"] <= catalogue_parity.TOLERANCE
    library = SOURCES.get(record.name_map, record.name_map)
    assert measured["against"].startswith(f"{library} ")
    for case in catalogue_parity.cases(record) if record.name_map != "keras" else ():
        fields = {key: value for key, value in reading.cases()[case].fields.items() if key not in NARROWED}
        assert fields == {key: value for key, value in record.fields if key not in NARROWED}
    assert record.name_map == "keras" or catalogue_parity.cases(record)
