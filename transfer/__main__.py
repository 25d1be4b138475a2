"""`python -m transfer VERB`, and `transfer VERB` where the package is installed."""

import sys
from collections.abc import Sequence

from transfer.runtime import interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb, by default of the command line; returns the exit code."""
    if arguments is None:
        interrupts.install()  # before what takes time to import
        arguments = sys.argv[1:]
    from transfer.cli import verbs

    return verbs.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
