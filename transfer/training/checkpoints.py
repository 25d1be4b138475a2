"""Checkpoints of a training run: its latest state, its best weights, and its progress, each with a checksum.

Orbax writes them, atomically; over several processes each writes its own shards, and they are read onto whatever
devices the next run has. A checkpoint after whole epochs lies in `WORKDIR/checkpoints/EPOCHS`. One within an epoch
lies in `WORKDIR/checkpoints_within_epoch`, until the next one after a whole epoch is there.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import distributed, interrupts, preemption
from transfer.runtime.files import lock
from transfer.training.run import Run

WHOLE, WITHIN = "checkpoints", "checkpoints_within_epoch"
# The name of a checkpoint within an epoch: epochs times this, and the batches since.
_BATCHES = 10**9
# Words that a checksum is computed of at a time.
_BLOCK = 1 << 20


def newest(workdir: epath.Path) -> tuple[int, int]:
    """Epochs and batches of the next one that the newest checkpoint of a run has; 0, 0 where there is none."""
    whole, within = (_latest(workdir / name) for name in (WHOLE, WITHIN))
    return max((whole, 0), divmod(within, _BATCHES))


def _latest(folder: epath.Path) -> int:
    """The number of the latest checkpoint in a folder; 0 where there is none."""
    paths = [path for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
    if "://" in str(folder):  # nothing is renamed there: a file that is written last says that one is whole
        paths = [path for path in paths if (path / "commit_success.txt").exists()]
    return max((int(path.name) for path in paths), default=0)


def _place(epochs: int, batches: int) -> str:
    """The folder of a checkpoint after so many epochs and batches of the next one."""
    return f"{WITHIN}/{epochs * _BATCHES + batches}" if batches else f"{WHOLE}/{epochs}"


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: epath.Path) -> None:
        self._workdir = workdir
        self._importing: threading.Thread | None = None
        self._progress: tuple[int, int] | None = None  # of the newest checkpoint that this run has read or written

    # Orbax takes a third of a second to import: the first time that there is something to read or to write.
    @functools.cached_property
    def _ocp(self) -> Any:
        import orbax.checkpoint as ocp

        return ocp

    # Not its manager, which asks JAX before every save whether all processes are to stop at this step: that is settled
    # in `transfer.runtime.preemption`, and JAX knows steps of 32 bits only.
    @functools.cached_property
    def _checkpointer(self) -> Any:
        handlers = {name: self._ocp.StandardCheckpointHandler() for name in ("latest", "best")}
        handlers["progress"] = self._ocp.JsonCheckpointHandler()
        return self._ocp.Checkpointer(self._ocp.CompositeCheckpointHandler(**handlers))

    def restore(self, run: Run) -> None:
        """Fills `run` from the newest checkpoint, if there is one, sharded as `run` is.

        Raises TransferError where it is damaged, or holds another model (Orbax would load what fits without a word).
        """
        progress = distributed.broadcast(newest(self._workdir), "newest checkpoint")
        if not any(progress):
            return
        folder = self._workdir / _place(*progress)
        try:
            self._restore(run, folder)
        except TransferError:
            raise
        except Exception as error:  # whatever Orbax and its readers make of a file that is not as it was written
            if isinstance(error, OSError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            raise _damaged(folder, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}") from error

    def _restore(self, run: Run, folder: epath.Path) -> None:
        args, path = self._ocp.args, folder.resolve()  # Orbax takes absolute paths only
        metadata = self._checkpointer.metadata(path).item_metadata
        for name, tree in (("latest", run.state), ("best", run.best)):
            if _shapes(metadata[name].tree) != _shapes(tree):
                raise TransferError(f"the checkpoint {folder} is of another model; take another --workdir")
        arrays = {"latest": args.StandardRestore(run.state), "best": args.StandardRestore(run.best)}
        restored = self._checkpointer.restore(path, args=args.Composite(progress=args.JsonRestore(), **arrays))
        progress = restored["progress"]
        # a checkpoint of an older version has no checksums
        if "sha256" in progress and progress.pop("sha256") != _sha256(progress):
            raise _damaged(folder, "what it says of the run's progress does not match its checksum")
        for name, expected in progress.get("checksums", {}).items():
            if checksum(restored[name]) != expected:
                raise _damaged(folder, f"the arrays of {name} do not match their checksum")
        run.state, run.best = restored["latest"], restored["best"]
        run.history, run.best_epoch = progress["history"], progress["best_epoch"]
        run.seconds, run.position = progress["seconds"], progress.get("position")
        self._progress = run.progress

    @interrupts.uninterruptible
    def save(self, run: Run) -> None:
        """Writes a checkpoint of `run`, unless one is there, atomically, and returns when it is on disk.

        Raises OSError where the disk is full or refuses; what was begun is removed, that of several processes
        by the next run.
        """
        from transfer.runtime.files.kvstore import translated_errors

        if run.progress == self._progress:
            return
        args, folder = self._ocp.args, self._workdir.resolve() / _place(*run.progress)
        progress = {
            "history": run.history,
            "best_epoch": run.best_epoch,
            "seconds": run.seconds,
            "position": run.position,
            "checksums": {"latest": checksum(run.state), "best": checksum(run.best)},
        }
        items = {
            "latest": args.StandardSave(run.state),
            "best": args.StandardSave(run.best),
            "progress": args.JsonSave({**progress, "sha256": _sha256(progress)}),
        }
        preemption.part_is_over()
        lock.check_folders(at_once=True)
        self._clean_up()
        try:
            with translated_errors(str(folder.parent)), preemption.untimed():
                self._checkpointer.save(folder, args=args.Composite(**items))
        except (OSError, TransferError):
            # others may be writing there: they would fail, too, and with another error than the one to tell
            if distributed.process_count() == 1:
                self._clean_up()
            raise
        self._progress = run.progress
        self._clean_up()

    def _clean_up(self) -> None:
        """Removes all but the newest checkpoint, also what was begun and not finished; the first process does so."""
        if not distributed.is_main():
            return
        kept = _place(*newest(self._workdir))
        for path in [path for name in (WHOLE, WITHIN) for path in (self._workdir / name).glob("*")]:
            is_ours = path.name.isdigit() or ".orbax-checkpoint-tmp" in path.name  # Orbax may put a time behind it
            if is_ours and f"{path.parent.name}/{path.name}" != kept:
                # what is still on its way may come into a folder as it is removed; the next time removes it, then
                with contextlib.suppress(OSError):
                    path.rmtree(missing_ok=True)

    def prepare(self) -> None:
        """Begins to import what `save` needs, while the device computes."""
        if self._importing is None and "_ocp" not in vars(self):
            self._importing = threading.Thread(target=importlib.import_module, args=("orbax.checkpoint",))
            self._importing.start()

    def close(self) -> None:
        """Waits for checkpoints that are being written."""
        if "_checkpointer" in vars(self):
            self._checkpointer.close()


def _damaged(folder: epath.Path, how: str) -> TransferError:
    return TransferError(f"the checkpoint {folder} is damaged ({how}); delete it, and training begins anew")


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each array by its path, whatever kinds of containers hold it."""

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(map(name, path)): tuple(leaf.shape) for path, leaf in flat if hasattr(leaf, "shape")}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum(tree: Any) -> int:
    """The checksum of a tree's arrays, the same however they are sharded: it tells any one word that has changed.

    The words of an array are weighted by the odd numbers, modulo 2^32, where no two sums of one changed word are equal.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        words = _sum_on_host(np.asarray(leaf)) if is_local else int(_sum_on_devices(leaf))
        total = (total * 1_000_003 + words) % (1 << 64)
    return total


def _sum_on_host(array: np.ndarray) -> int:
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(np.uint32 if flat.dtype.itemsize % 4 == 0 else np.uint8)
    total = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint32, copy=False)
        weights = np.arange(2 * start + 1, 2 * (start + len(block)), 2, dtype=np.uint64).astype(np.uint32)
        total += int((block * weights).sum(dtype=np.uint64))
    return total % (1 << 32)


@jax.jit
def _sum_on_devices(array: jax.Array) -> jax.Array:
    """`_sum_on_host` of values of four bytes of which other processes have parts, as of a head's."""
    words = jax.lax.bitcast_convert_type(array, jnp.uint32)
    number, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        number += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        stride *= array.shape[axis]
    return jnp.sum(words * (2 * number + 1), dtype=jnp.uint32)
