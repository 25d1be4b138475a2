"""Weights from a Hub: `hf:OWNER/REPO`, `hf:OWNER/REPO@REVISION`, or a folder on the disk with such a repository in it.

The library `huggingface_hub` asks and downloads: its cache, token, endpoint and offline switch are what everybody has.
"""

import contextlib
import functools
import os
import re
from collections.abc import Sequence
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
# What people write without it: OWNER/REPO, a page's address.
OTHER_ADDRESS = re.compile(r"(?:hf:/*|https?://[^/]+/)?(?P<repo>[\w.-]+/[\w.-]+)(?:/tree/.*)?", re.IGNORECASE)
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


def meant(name: str) -> str:
    """What a message on an unknown name adds where it may be a repository's."""
    match = OTHER_ADDRESS.fullmatch(name)
    return f"; the repository of a Hub is {PREFIX}{match['repo']}" if match else ""


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
    try:
        info = hub.HfApi(**us).model_info(repo, revision=revision)
    except Exception as error:  # the library's own, or of whichever HTTP library its version uses
        problem = f"{address}: {_problem(error, repo, revision)}"
        cached = _cached(repo, revision)
        if cached is None:
            is_offline = isinstance(error, hub.errors.OfflineModeIsEnabled)
            where = f", and it is not in {hub.constants.HF_HUB_CACHE}" if is_offline else ""
            raise TransferError(problem + where) from error
        if cached.revision != revision:
            logging.warning("%s; taken from the cache, at commit %s", problem, cached.revision)
        return cached
    if info.id != repo:
        logging.warning("%s%s is called %s%s now", PREFIX, repo, PREFIX, info.id)
    listed = [file.rfilename for file in info.siblings or ()]
    weights = next((name for name in WEIGHTS if name in listed), None)
    if weights is None:
        names = ", ".join(map(printable, listed[:SHOWN])) or "no file"
        raise TransferError(f"{address}: it has {names}, and none of {', '.join(WEIGHTS)}")

    def get(name: str, at: str | None) -> Path:
        try:
            return Path(hub.hf_hub_download(repo, name, revision=at, **us))
        except Exception as error:
            raise TransferError(f"{address}: {name}: {_problem(error, repo, revision)}") from error

    at = revision
    for name in (beside.CONFIG, beside.PREPROCESSOR, weights):
        if name in listed:
            file = get(name, at)
            at = file.parent.name  # …/snapshots/COMMIT/NAME: the branch may move on meanwhile
    with prefix_errors(file):
        shards = index_file.listed(file) if index_file.is_index(file) else ()
    for shard in shards:  # that one is missing is for the reader to say
        if shard in listed:
            get(shard, at)
    return Place(file, at)


def _cached(repo: str, revision: str | None) -> Place | None:
    """What an earlier download has left in the library's cache."""
    from huggingface_hub import errors, try_to_load_from_cache

    with contextlib.suppress(errors.HFValidationError):
        for name in WEIGHTS:
            file = try_to_load_from_cache(repo, name, revision=revision)
            if isinstance(file, str):
                return Place(Path(file), Path(file).parent.name)
    return None


def _problem(error: Exception, repo: str, revision: str | None) -> str:
    """What the Hub's refusal means, and what to do."""
    from huggingface_hub import constants, errors

    token = "`hf auth login` or HF_TOKEN"
    known: Sequence[tuple[type, str]] = (
        (errors.GatedRepoError, f"gated: ask for access on {constants.ENDPOINT}/{repo}, then {token}"),
        (errors.RepositoryNotFoundError, f"there is no such repository, or it is private and wants {token}"),
        (errors.RevisionNotFoundError, f"it has no revision {printable(revision)}"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
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
        return f"{error.strerror}: {error.filename or constants.HF_HUB_CACHE}"
    return f"no whole answer from {constants.ENDPOINT} ({error_summary(error.__cause__ or error)})"
