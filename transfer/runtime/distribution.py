"""What the package is called and which version it is: read by all that says either, without importing anything."""

# The import and the command are `transfer`, which on PyPI is another project's name. setup.cfg says it, too: it can
# take a version from here, but no name.
NAME = "transfer-flax"
VERSION = "0.1.0"


def install_hint(extra: str) -> str:
    """The command that installs what an extra lists, where the package is installed and where it is only a clone."""
    return f"pip install '{NAME}[{extra}]' (in a clone: pip install -e '.[{extra}]')"
