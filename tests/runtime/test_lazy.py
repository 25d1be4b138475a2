"""Packages that hand on public names at first use: what is shown, found and known to type checkers is the same."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGES = ("transfer", "transfer.weights", "transfer.extract", "transfer.experiment", "transfer.preprocess")


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_shown_found_and_seen_by_type_checkers(name: str) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) < set(dir(package)) and "__doc__" in dir(package)
    shown = {public for public in dir(package) if not public.startswith("_")} - set(package.__all__)
    assert all(inspect.ismodule(getattr(package, other)) for other in shown) and not shown & {"lazy", "distribution"}
    for public in package.__all__:
        assert getattr(package, public).__name__ == public
    assert package.__file__
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {alias.name for alias in imported} == {alias.asname for alias in imported} == set(package.__all__)


def test_a_name_that_is_not_there() -> None:
    import transfer

    with pytest.raises(AttributeError, match="module 'transfer' has no attribute 'Extracter'"):
        transfer.Extracter  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Preprocessor'"):
        from transfer.preprocess import Preprocessor  # noqa: F401
