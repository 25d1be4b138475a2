"""Where the package keeps what it can fetch or make again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The environment variable TRANSFER_CACHE, else `~/.cache/transfer`; it need not exist."""
    return Path(os.environ.get("TRANSFER_CACHE") or "~/.cache/transfer").expanduser()
