"""Weight files on disk: shipped with the package, in the cache, or downloaded into it, and always verified."""

import hashlib
import importlib.resources
import os
from pathlib import Path

from absl import logging

from transfer.errors import TransferError
from transfer.runtime.cache import cache_dir
from transfer.runtime.files.untrusted import prefix_errors
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress
from transfer.weights import download
from transfer.weights.catalogue import Record, WeightFile
from transfer.weights.readers import index_file

BLOCK = 1 << 22


def local_path(file: WeightFile) -> Path:
    """Where `file` is, or would be after a download; nothing is looked up."""
    if file.url is None:
        return Path(str(importlib.resources.files("transfer.weights") / "files" / file.filename))
    return cache_dir() / file.filename


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 and MD5 of a file as hex, in one pass over it.

    Of an index of shards the SHA-256 is that of the lines `sha256sum` prints of them, in the order of their names.
    """
    if index_file.is_index(path):
        with prefix_errors(path):
            shards = index_file.shards(path)
        lines = (f"{digests(path.parent / shard)['sha256']}  {shard}\n" for shard in shards)
        return {"sha256": hashlib.sha256("".join(lines).encode()).hexdigest(), "md5": ""}
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size = path.stat().st_size
    with path.open("rb") as stream, Progress(f"hashing {path.name}", size, "B", delay=NOTICEABLE_SECONDS) as progress:
        while block := stream.read(BLOCK):
            for hasher in hashes.values():
                hasher.update(block)
            progress.update(len(block))
    return {name: hasher.hexdigest() for name, hasher in hashes.items()}


def mismatch(file: WeightFile, computed: dict[str, str]) -> str | None:
    """The mismatch of a file with these digests; None if there is none."""
    checks = (("SHA-256", file.sha256, "sha256"), ("SHA-256", file.sha256_prefix, "sha256"), ("MD5", file.md5, "md5"))
    for title, expected, key in checks:
        if expected and not computed[key].startswith(expected.lower()):
            return f"its {title} is {computed[key]}, not {expected}{'…' if len(expected) < 32 else ''}"
    return None


def fetch(record: Record, *, notop: bool = False) -> tuple[Path, str]:
    """The verified local file of a record and its SHA-256 as hex, downloaded first if neither shipped nor cached.

    `notop`: the file without classifier, where the publisher has one; otherwise the only file.

    Raises:
      TransferError: no network, a wrong hash (nothing is left in the cache), a damaged cached file.
      OSError: naming the file, where the disk is full or the cache is not writable.
    """
    file = record.notop if notop and record.notop else record.file
    path = local_path(file)
    if not path.is_file():
        if file.url is None:
            raise TransferError(f"{record.name}: its file {path} is missing from the installation; install it again")
        elsewhere = f", such as {record.hf_file} of {record.hf_repo} on Hugging Face" if record.hf_repo else ""
        return path, _download(file, path, elsewhere)
    computed = digests(path)
    problem = mismatch(file, computed)
    if problem:
        raise TransferError(f"{path} is not {record.name}: {problem}; delete it and run the same command again")
    return path, computed["sha256"]


def _download(file: WeightFile, path: Path, elsewhere: str) -> str:
    """Downloads beside `path`, verifies, renames; returns the SHA-256. Only a complete, right file gets the name.

    What came before a source failed is kept for the same command. `elsewhere`: where else there are such weights.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with download.part_of(path) as part:
            # no part: another process was faster
            computed = digests(path) if part is None else _into(part, file)
            problem = mismatch(file, computed)
            if problem:
                raise TransferError(f"{file.url}: not the file that was published: {problem}; nothing was kept")
            if part is not None:
                os.replace(part, path)
    except download.SourceError as error:
        part = path.with_name(f".{path.name}.part")
        size = part.stat().st_size if part.is_file() else 0
        kept = f"the same command goes on after the {size / 1e6:.1f} MB that are here; or " if size else ""
        raise TransferError(
            f"cannot download {file.url} ({error}); {kept}fetch it on a machine with a network and put it at "
            f"{path}, or name a local file (weights=FILE){elsewhere}"
        ) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    if not file.sha256:
        text = "%s: published without a SHA-256, verified by %s; its SHA-256 is %s"
        logging.warning(text, path.name, file.verified_by, computed["sha256"])
    return computed["sha256"]


def _into(part: Path, file: WeightFile) -> dict[str, str]:
    """Fills `part` and returns its digests. What is of no use later is removed: a wrong file, or an empty one."""
    keep = False
    try:
        if file.verified_by == "nothing":
            os.truncate(part, 0)  # nothing would tell whether both halves are of one file
        computed = digests(part)
        # a whole file was only left without its name; where old bytes may be what is wrong, it begins again
        while mismatch(file, computed) or not part.stat().st_size:
            went_on = download.fetch(str(file.url), part, file.filename)
            computed = digests(part)
            if not went_on or not mismatch(file, computed):
                break
            os.truncate(part, 0)
        keep = mismatch(file, computed) is None
        return computed
    except (download.SourceError, KeyboardInterrupt):
        keep = part.stat().st_size > 0
        raise
    finally:
        if not keep:
            part.unlink()
