"""Small JSON files that a run has written into its workdir, and that may be damaged since."""

import json
from typing import Any

from etils import epath

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary


def read(path: epath.Path) -> dict[str, Any]:
    """The object in the file; TransferError, naming the file, where there is none in it."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TransferError(
            f"{path} is damaged, it holds no JSON ({error_summary(error)}); restore or delete it"
        ) from error
    if not isinstance(found, dict):
        raise TransferError(f"{path} is damaged, it holds no settings; restore or delete it")
    return found
