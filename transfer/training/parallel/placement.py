"""Where the rows of a head are: all on one device, divided among several, or read as training goes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from transfer.errors import TransferError, UsageError
from transfer.heads.programs import LINEAR
from transfer.runtime import devices, distributed
from transfer.training.parallel.shuffle import ORDERS

# The share of memory that features may take: on a CPU there are copies of them, and the machine's other work.
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.5


class Plan(NamedTuple):
    """How a head is trained.

    Attributes:
        mesh: its devices.
        stream: whether rows are read as training goes.
        plain: whether the head's own program for one device, that holds all rows, does it.
    """

    mesh: Mesh
    stream: bool
    plain: bool


def check(config: ConfigDict, program: Any, whole: str | None = None) -> None:
    """Raises UsageError where settings of `config` contradict each other, before anything long begins.

    Args:
        program: of the head (`transfer.heads.program`), None for one that is fitted in one go.
        whole: what needs all rows in the memory of one process, for a message; None for nothing.
    """
    head, whole = config.head, _whole(config, program, whole)
    order = head.get("order", "rows")
    if order not in ORDERS:
        raise UsageError(f"config.head.order={order!r} is not one of {', '.join(ORDERS)}")
    if config.stream and order == "rows":
        raise UsageError("config.stream=True reads whole chunks; take config.head.order=chunks with it")
    if head.get("window") is not None and order == "rows":
        raise UsageError(f"config.head.window={head.window} has no use with config.head.order=rows")
    if whole and (config.stream or order != "rows" or config.mesh.data or config.mesh.model > 1):
        raise UsageError(f"{whole} trains on one device that holds all rows, in the order 'rows'")
    if whole and distributed.process_count() > 1:
        raise UsageError(f"{whole} trains in one process; config.head.name=linear as it is in several")
    if config.get("few_shot") and config.stream:
        raise UsageError("config.few_shot compares features in the memory of one process, without config.stream")
    devices.head_mesh(config.mesh.data, config.mesh.model)


def choose(
    config: ConfigDict,
    program: Any,
    sizes: Mapping[str, int],
    dtype: str,
    within: bool,
    whole: str | None = None,
) -> Plan:
    """How to train on splits of so many bytes each, that are stored in `dtype`.

    Args:
        program, whole: as for `check`.
        within: whether the run goes on within an epoch.

    Raises TransferError for rows that do not fit and that the config does not allow to stream.
    """
    whole = _whole(config, program, whole)
    mesh = devices.head_mesh(1, 1) if whole else devices.head_mesh(config.mesh.data, config.mesh.model)
    order = config.head.get("order", "rows")
    stream = bool(config.stream)
    if config.stream is None:
        stream = distributed.broadcast(_too_large(mesh, sum(sizes.values())), "stream")
        if stream and order == "rows":
            way = f"{whole} needs them there, and" if whole else "config.head.order=chunks streams them,"
            raise TransferError(
                f"the features take {sum(sizes.values()) / 1e9:.1f} GB, too much to be held in memory; "
                f"{way} config.stream=False holds them all the same"
            )
    special = stream or order != "rows" or within or dtype != "float32"
    return Plan(mesh, stream, plain=bool(whole) or mesh.size == 1 and not special)


def _whole(config: ConfigDict, program: Any, whole: str | None) -> str | None:
    """What needs all rows: what the caller says, or a head that knows no other way."""
    return whole or (None if program is LINEAR else f"config.head.name={config.head.name}")


def _too_large(mesh: Mesh, size: int) -> bool:
    memory = devices.memory_limit(mesh)
    share = CPU_SHARE if mesh.devices.flat[0].platform == "cpu" else ACCELERATOR_SHARE
    return memory is not None and size > share * memory
