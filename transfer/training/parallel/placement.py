"""The placement of a head's rows: all on one device, divided among several, or read as training goes."""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from transfer.errors import TransferError, UsageError
from transfer.runtime import devices, distributed
from transfer.training.parallel.shuffle import ORDERS

# The share of memory that features may take: on a CPU there are copies of them, and the machine's other work.
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.5


class Placement(NamedTuple):
    """The devices that a head is trained on, and how its rows come to them."""

    mesh: Mesh
    stream: bool  # whether rows are read as training goes
    single_device: bool  # whether the head's own program trains it, on one device that holds all rows


def check(config: ConfigDict, reason: str | None = None) -> None:
    """Raises UsageError where settings of `config` contradict each other, before anything long begins.

    The `reason` is the setting, as a message names it, for which one process must have all rows in memory.
    """
    head, order = config.head, config.head.get("order", "rows")
    if order not in ORDERS:
        raise UsageError(f"config.head.order={order!r} is not one of {', '.join(ORDERS)}")
    if config.stream and order == "rows":
        raise UsageError("config.stream=True reads whole chunks; take config.head.order=chunks with it")
    if head.get("window") is not None and order == "rows":
        raise UsageError(f"config.head.window={head.window} has no use with config.head.order=rows")
    if reason and (config.stream or order != "rows" or config.mesh.data or config.mesh.model > 1):
        raise UsageError(
            f"{reason} needs one device that holds all rows, in the order 'rows': "
            "leave out config.stream, config.mesh and config.head.order"
        )
    if reason and distributed.process_count() > 1:
        raise UsageError(f"{reason} needs one process; in several, train config.head.name=linear with its defaults")
    if config.get("few_shot") and config.stream:
        raise UsageError("config.few_shot compares features in the memory of one process, without config.stream")
    devices.head_mesh(config.mesh.data, config.mesh.model)


def choose(
    config: ConfigDict, sizes: Mapping[str, int], dtype: str, within_epoch: bool, reason: str | None = None
) -> Placement:
    """Chooses where a run, which may go on within an epoch, trains on splits of so many bytes each, stored in `dtype`.

    Raises TransferError for rows that do not fit and that the config does not allow to stream.
    """
    mesh = devices.head_mesh(1, 1) if reason else devices.head_mesh(config.mesh.data, config.mesh.model)
    order, stream, size = config.head.get("order", "rows"), bool(config.stream), sum(sizes.values())
    if config.stream is None:
        memory = devices.memory_limit(mesh)
        share = CPU_SHARE if mesh.devices.flat[0].platform == "cpu" else ACCELERATOR_SHARE
        stream = distributed.broadcast(memory is not None and size > share * memory, "stream")
        if stream and order == "rows":
            way = f"{reason} needs them there, and" if reason else "config.head.order=chunks streams them,"
            raise TransferError(
                f"the features take {size / 1e9:.1f} GB, too much to be held in memory; "
                f"{way} config.stream=False holds them all the same"
            )
    as_published = order == "rows" and dtype == "float32" and not stream and not within_epoch
    return Placement(mesh, stream, single_device=bool(reason) or mesh.size == 1 and as_published)
