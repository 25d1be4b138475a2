"""Whether this process is one of several, and which: from flags, from the environment, from what JAX detects."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.errors import TransferError, UsageError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# What launchers call the number of processes and the number of this one: Kubernetes' indexed jobs, Open MPI, other
# MPIs, Slurm.
COUNTS = (COUNT, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
INDICES = (INDEX, "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


@dataclass(frozen=True)
class ProcessInfo:
    """Process `process_id` of `num_processes`, whose process 0 is at `coordinator` (HOST:PORT).

    `local_device_ids`: the GPUs that are this process' own; None: all that it sees.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise UsageError(f"--coordinator={self.coordinator} is not HOST:PORT")
        if self.num_processes < 1:
            raise UsageError(f"--num_processes={self.num_processes} must be at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise UsageError(
                f"--process_id={self.process_id} must be from 0 to {self.num_processes - 1}, below --num_processes"
            )

    def __str__(self) -> str:
        return f"process {self.process_id} of {self.num_processes}"

    @property
    def host(self) -> str:
        """The name or address of process 0, without the brackets of an IPv6 address."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port at which the processes meet."""
        return int(self.coordinator.rpartition(":")[2])


def find(
    coordinator: str | None, num_processes: int | None, process_id: int | None, seconds: int
) -> ProcessInfo | None:
    """Which process of how many this one is; None where it is the only one.

    In this order: the arguments, all three or none (one process alone is `num_processes=1`); the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, the last two also by the names that Kubernetes,
    MPI and Slurm give them; what `jax.distributed` detects of Slurm, Open MPI, Kubernetes and TPU pods. JAX is
    imported only where something says that there may be such a cluster.

    Raises:
        UsageError: half of it is given, or it is wrong.
        TransferError: what says that there is a cluster does not say the rest.
    """
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in flags.items() if value is None]
    if num_processes == 1 and missing:
        return None
    if missing and len(missing) < len(flags):
        raise UsageError(f"--coordinator, --num_processes and --process_id go together; without {missing[0]}")
    if missing:
        info = _from_environment(seconds)
    else:
        assert num_processes is not None and process_id is not None
        info = ProcessInfo(str(coordinator), num_processes, process_id)
    return None if info is None or info.num_processes == 1 else info


def _from_environment(seconds: int) -> ProcessInfo | None:
    """The process that the environment variables name, else the one that JAX detects."""
    address, count, index = os.environ.get(ADDRESS), _number(COUNTS), _number(INDICES)
    if address and count is not None and index is not None:
        return ProcessInfo(address, count, index, _own_gpus())
    if count == 1 or not _may_be_cluster():
        if address or os.environ.get(COUNT, "1") != "1" or (INDEX in os.environ and COUNT not in os.environ):
            raise UsageError(f"{ADDRESS}, {COUNT} and {INDEX} go together; set all of them, or none")
        return None
    # a private part of `jax.distributed.initialize`, the only one that tells what it detects
    from jax._src.clusters import ClusterEnv

    try:
        address, count, index, gpus = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, seconds
        )
    except Exception as error:  # of the metadata server, of Kubernetes, of variables that are not what they should be
        raise TransferError(
            f"this looks like one machine of a cluster, but not which one: {error}; "
            "give --coordinator, --num_processes and --process_id, or --num_processes=1 for this machine alone"
        ) from error
    if address is None or count is None or index is None:
        return None
    return ProcessInfo(address, count, index, _own_gpus() if gpus else None)


def _number(names: Sequence[str]) -> int | None:
    """The value of the first of the variables that is set."""
    for name in names:
        if text := os.environ.get(name):
            if not text.isdecimal():
                raise UsageError(f"{name}={text} is not a number")
            return int(text)
    return None


def _may_be_cluster() -> bool:
    """Whether JAX may find a cluster: asking it costs an import, and on a TPU a request to the metadata server."""
    if "SLURM_STEP_NODELIST" in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ:
        return True
    if "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes") is not None:
        return True
    tpu = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None
    return tpu and os.environ.get("JAX_PLATFORMS") != "cpu"


def _own_gpus() -> Sequence[int] | None:
    """The GPU of this process where each of the several on a machine takes one; None: all that it sees.

    JAX gives a process of Slurm and Open MPI the GPU of its number on the machine, even where it is the only one there
    or where the launcher shows it no other.
    """
    local, sizes = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK"), os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    if not local:
        local, sizes = os.environ.get("SLURM_LOCALID"), os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = bool(sizes) and all(part.partition("(")[0] == "1" for part in sizes.split(","))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return None if not local or alone or (visible and "," not in visible) else [int(local)]
