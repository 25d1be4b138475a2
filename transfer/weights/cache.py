"""Weight files on disk: shipped with the package, in the cache, or downloaded into it, and always verified."""

import hashlib
import importlib.resources
import os
import tempfile
import time
from pathlib import Path

from transfer.cache import cache_dir
from transfer.errors import TransferError
from transfer.progress import Progress
from transfer.weights.catalogue import Record, WeightFile

BLOCK = 1 << 22
TIMEOUT_SECONDS = 30
# A partial download that nothing was written to for so long was left by a process that was killed.
STALE_SECONDS = 3600


def local_path(file: WeightFile) -> Path:
    """Where `file` is, or would be after a download; nothing is looked up."""
    if file.url is None:
        return Path(str(importlib.resources.files("transfer.weights") / "files" / file.filename))
    return cache_dir() / file.filename


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 and MD5 of a file as hex, in one pass over it."""
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            for each in hashes.values():
                each.update(block)
    return {name: each.hexdigest() for name, each in hashes.items()}


def mismatch(file: WeightFile, found: dict[str, str]) -> str | None:
    """What is wrong with a file of these digests, None if nothing."""
    checks = (("SHA-256", file.sha256, "sha256"), ("SHA-256", file.sha256_prefix, "sha256"), ("MD5", file.md5, "md5"))
    for title, expected, key in checks:
        if expected and not found[key].startswith(expected.lower()):
            return f"its {title} is {found[key]}, not {expected}{'…' if len(expected) < 32 else ''}"
    return None


def fetch(record: Record, *, notop: bool = False) -> tuple[Path, str]:
    """The verified local file of a record, downloaded first where it is neither shipped nor cached.

    Args:
      record: from the catalogue.
      notop: the file without classifier, where the publisher has one; otherwise the only file.

    Returns:
      (path, SHA-256 as hex).

    Raises:
      TransferError: no network, a wrong hash (nothing is left in the cache), a damaged cached file.
      OSError: naming the file, where the disk is full or the cache is not writable.
    """
    file = record.notop if notop and record.notop else record.file
    path = local_path(file)
    if not path.is_file():
        if file.url is None:
            raise TransferError(f"{record.name}: its file {path} is missing from the installation; install it again")
        return path, _download(file, path, _elsewhere(record))
    found = digests(path)
    problem = mismatch(file, found)
    if problem:
        raise TransferError(f"{path} is not {record.name}: {problem}; delete it and run the same command again")
    return path, found["sha256"]


def _elsewhere(record: Record) -> str:
    return f", such as {record.hf_file} of {record.hf_repo} on Hugging Face" if record.hf_repo else ""


class _Bar:
    """What pooch wants of a progress bar, drawn by ours."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.progress: Progress | None = None

    @property
    def total(self) -> int:
        return (self.progress.total or 0) if self.progress else 0

    @total.setter
    def total(self, value: int) -> None:
        self.progress = Progress(self.title, value or None, "B").__enter__()

    def update(self, n: int) -> None:
        # pooch counts whole chunks, and the total once more at the end
        if self.progress is not None:
            self.progress.update(min(n, self.total - self.progress.count) if self.total else n)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        if self.progress is not None:
            self.progress.__exit__(None, None, None)


def _download(file: WeightFile, path: Path, elsewhere: str) -> str:
    """Downloads beside `path`, verifies, renames; returns the SHA-256. Only a complete, right file gets the name.

    `elsewhere` ends the message of a failure: where else there are such weights.
    """
    import pooch
    import requests

    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{file.filename}.*.part"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.filename}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        download = pooch.HTTPDownloader(progressbar=_Bar(f"download {file.filename}"), timeout=TIMEOUT_SECONDS)
        download(file.url, str(part), None)
        found = digests(part)
        problem = mismatch(file, found)
        if problem:
            raise TransferError(f"{file.url}: not the file that was published: {problem}; nothing was kept")
        part.chmod(0o644)
        os.replace(part, path)
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
        raise TransferError(
            f"cannot download {file.url} ({reason}); fetch it on a machine with a network and put it at {path}, "
            f"or name a local file (weights=FILE){elsewhere}"
        ) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return found["sha256"]
