"""What `transfer.cli.main` does with errors that no command sees: those that Python cannot raise."""

import sys
import types

import pytest

from transfer.cli.main import _print_unraisable


@pytest.mark.parametrize(
    ("kind", "module", "shown"),
    [
        (ValueError, "somewhere", True),
        (ValueError, None, True),
        (ValueError, "asyncio.base_events", False),
        (KeyboardInterrupt, "somewhere", False),
        (KeyboardInterrupt, None, False),
    ],
)
def test_only_a_ctrl_c_and_errors_of_event_loops_are_left_out(monkeypatch, kind, module, shown):
    printed = []
    monkeypatch.setattr(sys, "__unraisablehook__", printed.append)
    frame = types.SimpleNamespace(f_globals={"__name__": module})
    trace = module and types.SimpleNamespace(tb_frame=frame)
    unraisable = types.SimpleNamespace(exc_type=kind, exc_traceback=trace)
    _print_unraisable(unraisable)
    assert printed == [unraisable] * shown
