"""Weights from a Hub: `hf:OWNER/REPO`, `hf:OWNER/REPO@REVISION`, or a folder on the disk with such a repository in it.

The library `huggingface_hub` asks and downloads: its cache, token, endpoint and offline switch are what everybody has.
"""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import NAME, VERSION, install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable
from transfer.weights import beside
from transfer.weights.readers import index_file

PREFIX = "hf:"
ADDRESS = re.compile(rf"{PREFIX}(?P<repo>[^@\s]+)(?:@(?P<revision>\S+))?")
# The weights of a repository, the first of these that it has.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SHOWN = 5


class Place(NamedTuple):
    """A weight file on the disk, and the commit of its repository; None for a folder's own."""

    file: Path
    revision: str | None


def find(place: object) -> Place | None:
    """The weight file of an `hf:` address or of a folder; None for anything else.

    Raises:
      UsageError: no address, or nothing that asks for it is installed.
      TransferError: the Hub does not give it, or there is no weight file.
    """
    if isinstance(place, str) and place.startswith(PREFIX):
        match = ADDRESS.fullmatch(place)
        if match is None:
            raise UsageError(f"{printable(place)!r} is not {PREFIX}OWNER/REPO or {PREFIX}OWNER/REPO@REVISION")
        return _from_hub(match["repo"], match["revision"])
    folder = Path(paths.expand(place)) if isinstance(place, (str, os.PathLike)) else None
    if folder is None or not folder.is_dir():
        return None
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise TransferError(f"{folder} is a folder without {' or '.join(WEIGHTS)}; name the weight file in it")
    return Place(file, None)


def pinned(place: Any, revision: str | None) -> Any:
    """The same address at that commit; anything else as it is."""
    match = ADDRESS.fullmatch(place) if isinstance(place, str) and revision else None
    return f"{PREFIX}{match['repo']}@{revision}" if match else place


@functools.cache
def _from_hub(repo: str, revision: str | None) -> Place:
    """Asks once in a process, so that a branch that moves meanwhile stays one commit."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise UsageError(f"{PREFIX}{repo} needs huggingface_hub: {install_hint('hub')}") from error
    address = f"{PREFIX}{repo}@{revision}" if revision else f"{PREFIX}{repo}"
    us: dict[str, Any] = dict(library_name=NAME, library_version=VERSION)
    listed: list[str] | None = None
    problem = ""
    try:
        info = hub.HfApi(**us).model_info(repo, revision=revision)
        listed = [file.rfilename for file in info.siblings or ()]
        if info.id != repo:
            logging.warning("%s%s is called %s%s now", PREFIX, repo, PREFIX, info.id)
    except Exception as error:  # the library's own, or of whichever HTTP library its version uses
        problem = _problem(error, repo, revision)

    def get(name: str, commit: str | None) -> Path | None:
        if listed is not None and name not in listed:
            return None
        try:
            at = commit or revision
            return Path(hub.hf_hub_download(repo, name, revision=at, local_files_only=listed is None, **us))
        except Exception as error:
            if listed is None:
                return None
            raise TransferError(f"{address}: {name}: {_problem(error, repo, revision)}") from error

    file = _weights(get)
    if file is None:
        holds = f"it has {', '.join(map(printable, (listed or ['no file'])[:SHOWN]))}, and none of {', '.join(WEIGHTS)}"
        raise TransferError(f"{address}: {problem or holds}")
    if problem:
        logging.warning("%s: %s; taken from the cache, at commit %s", address, problem, file.parent.name)
    return Place(file, file.parent.name)


def _weights(get: Callable[[str, str | None], Path | None]) -> Path | None:
    """The first weight file that `get` gives, after the files that say something of it, all of one commit."""
    commit: str | None = None
    for name in (beside.CONFIG, beside.PREPROCESSOR, *WEIGHTS):
        path = get(name, commit)
        if path is None:
            continue
        commit = commit or path.parent.name  # …/snapshots/COMMIT/NAME
        if name in WEIGHTS:
            with prefix_errors(path):
                shards = index_file.shards(path) if index_file.is_index(path) else ()
            for shard in shards:  # that one is missing is for the reader to say
                get(shard, commit)
            return path
    return None


def _problem(error: Exception, repo: str, revision: str | None) -> str:
    """What the Hub's refusal means, and what to do."""
    from huggingface_hub import constants, errors

    token = "`hf auth login` or HF_TOKEN"
    offline = f"HF_HUB_OFFLINE is set, and it is not in {constants.HF_HUB_CACHE}"
    known: Sequence[tuple[type, str]] = (
        (errors.GatedRepoError, f"gated: ask for access on {constants.ENDPOINT}/{repo}, then {token}"),
        (errors.RepositoryNotFoundError, f"there is no such repository, or it is private and wants {token}"),
        (errors.RevisionNotFoundError, f"it has no revision {printable(revision)}"),
        (errors.OfflineModeIsEnabled, offline),
        (errors.HFValidationError, error_summary(error)),
    )
    for kind, text in known:
        if isinstance(error, kind):
            return text
    response = getattr(error, "response", None)
    if response is not None:
        hint = f"; perhaps it wants {token}" if response.status_code in (401, 403) else ""
        return f"{constants.ENDPOINT} answers HTTP {response.status_code}{hint}"
    if isinstance(error, OSError) and error.errno:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return f"no whole answer from {constants.ENDPOINT} ({error_summary(error.__cause__ or error)})"
