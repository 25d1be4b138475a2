"""What a benchmark writes down of where it ran."""

import subprocess

import pytest

from transfer.bench import machine


def test_the_commit_is_that_of_our_own_repository(tmp_path, monkeypatch):
    """An environment may lie in somebody else's: what is installed there is no part of it."""
    ours = tmp_path / "machine.py"
    ours.write_text("")
    monkeypatch.setattr(machine, "__file__", str(ours))

    def git(*arguments):
        who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
        try:
            subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("git is not installed")

    git("init")
    git("commit", "--allow-empty", "--message=theirs")
    assert machine._commit() is None
    git("add", "machine.py")
    git("commit", "--message=ours")
    commit = machine._commit()
    assert commit and not commit.endswith("+")
    ours.write_text("changed")
    assert machine._commit() == f"{commit}+"
