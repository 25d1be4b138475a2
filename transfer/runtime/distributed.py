"""Several processes, on one machine or many, that run the same command, connected by `jax.distributed`.

Where nothing says that there are several, every function does what one process needs, and JAX is not imported.
"""

import base64
import contextlib
import datetime
import json
import queue
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from absl import logging

from transfer.errors import TransferError, Unfinished
from transfer.runtime import cluster, consistency, log, preemption, rendezvous

CONNECT_SECONDS, LOST_SECONDS = 300, 30
# How much later than JAX the monitor (`transfer.runtime.rendezvous`) may notice on a busy machine that a process has
# gone.
NAMING_SECONDS = 3
# Longer than any run waits for its slowest process; a process that is gone is noticed otherwise.
_WAIT_MS = 24 * 3600 * 1000
# Characters of one message of many, of which the longest is 4 MB.
_MESSAGE = 1 << 20
# How often a line says that a process waits for the others.
WAITING_SECONDS = 60.0

# JAX's own key for the notice of a preemption: its `reached_preemption_sync_point`, and Orbax's checkpoints, follow it.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"

_info: cluster.ProcessInfo | None = None
_monitor: rendezvous.PeerMonitor | None = None
_uses: Counter[str] = Counter()


def initialise(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    connect_seconds: int = CONNECT_SECONDS,
    lost_seconds: int = LOST_SECONDS,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Makes this process one of several, before JAX has looked for devices; does nothing where it is the only one.

    Args:
        coordinator: HOST:PORT of process 0, as the others reach it; these three together, or none of them: then the
            environment says it (`transfer.runtime.cluster.find`).
        num_processes: of the run.
        process_id: from 0.
        connect_seconds: after which the processes that came give up, each naming those that did not.
        lost_seconds: after which the others end at the latest, each with one line, once a process' machine has gone;
            twice as long where it is there but does nothing. A process that is killed is noticed at once.
        settings: what else, by name, has to be the same in all processes (`transfer.runtime.consistency`).

    Raises:
        UsageError: half of the arguments, or wrong ones; processes have other settings, and which.
        Unfinished: a process did not come.
        TransferError: one has other versions, or the coordinator's port is in use.
    """
    global _info, _monitor
    info = cluster.find(coordinator, num_processes, process_id, connect_seconds)
    if info is None:
        return
    preemption.begin()
    log.process = info.process_id
    facts = consistency.local_facts({**(settings or {}), "--lost_seconds": lost_seconds})
    monitor, address, bind = rendezvous.assemble(info, connect_seconds, lost_seconds, facts)
    _info, _monitor = info, monitor
    monitor.start()
    _start_jax(info, address, bind, connect_seconds, lost_seconds)
    preemption.install()  # JAX has set a handler of its own
    _share_preemption()


def _start_jax(info: cluster.ProcessInfo, address: str, bind: str, connect_seconds: int, lost_seconds: int) -> None:
    import jax

    try:
        jax.distributed.initialize(
            address,
            info.num_processes,
            info.process_id,
            local_device_ids=info.local_device_ids,
            cluster_detection_method="deactivate",
            coordinator_bind_address=bind,
            initialization_timeout=max(connect_seconds, 60),
            # by then we have noticed ourselves, and said so in one line
            heartbeat_timeout_seconds=3 * lost_seconds,
        )
    except RuntimeError as error:
        raise TransferError(f"JAX cannot connect the processes at {address}: {str(error).splitlines()[0]}") from error


def _share_preemption() -> None:
    """Announces a request to end to all processes, through JAX, and has them agree where to stop once there is one."""
    client, notices = _jax_state().client, queue.SimpleQueue[None]()

    def announce() -> None:
        notices.get()
        with contextlib.suppress(RuntimeError):  # all know already, or this is the end of the run
            client.key_value_set(_NOTICE, datetime.datetime.now(datetime.UTC).isoformat())

    def follow() -> None:
        with contextlib.suppress(RuntimeError, TransferError):  # the end of the run
            client.blocking_key_value_get(_NOTICE, _WAIT_MS)
            preemption.follow_remote_request(lambda calls: map(int, _gathered(str(calls), "calls").values()))

    for follower in (announce, follow):
        threading.Thread(target=follower, daemon=True, name="preemption").start()
    preemption.announce_by(lambda: notices.put(None))  # safe in a signal handler, whatever it interrupts


def process_index() -> int:
    """Number of this process, from 0."""
    return info.process_id if (info := _process_info()) else 0


def process_count() -> int:
    """Number of processes of this run."""
    return info.num_processes if (info := _process_info()) else 1


def is_main() -> bool:
    """Whether this is process 0: the one that prints, and that writes what is not divided."""
    return process_index() == 0


def print_once(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_main():
        print(line, flush=True)


def process_label() -> str:
    """The beginning of this process' messages, "process 1 of 4: "; "" where it is the only one."""
    return f"process {process_index()} of {process_count()}: " if process_count() > 1 else ""


def _process_info() -> Any:
    """Which process this is, of how many; JAX's state where a program calls `jax.distributed.initialize` itself."""
    if _info is not None:
        return _info
    state = _jax_state()
    return state if state is not None and state.client is not None and state.num_processes > 1 else None


def _jax_state() -> Any:
    # Private, and what Orbax and Flax use too: the public functions start the devices, and there is none for keys.
    module = sys.modules.get("jax._src.distributed")
    return module.global_state if module is not None else None


def barrier(name: str) -> None:
    """Waits until all processes have come to the barrier `name`, as often as they did before."""
    if process_count() > 1:
        _ask_jax("wait_at_barrier", _key(name), _WAIT_MS)


def broadcast(value: Any, name: str) -> Any:
    """Process 0's `value`, a JSON value, in all processes; the others' values are ignored."""
    if process_count() == 1:
        return value
    key = _key(name)
    if is_main():
        text = json.dumps(value)
        _ask_jax("key_value_set", key, text)
    else:
        text = _ask_jax("blocking_key_value_get", key, _WAIT_MS)
    return json.loads(text)


def asked_once(make: Callable[[], Any], name: str) -> Any:
    """What `make()` gives in process 0, a JSON value of any length, in all processes; the others do not call it."""
    if process_count() == 1:
        return make()
    packed = zlib.compress(json.dumps(make()).encode(), 1) if is_main() else b""
    text = base64.b64encode(packed).decode()
    starts = range(0, broadcast(len(text), f"length of {name}"), _MESSAGE)
    text = "".join(broadcast(text[start : start + _MESSAGE], name) for start in starts)
    return json.loads(zlib.decompress(base64.b64decode(text)))


def any_of(value: bool, name: str) -> bool:
    """Whether `value` is true in any of the processes, which all wait for each other here."""
    return value if process_count() == 1 else bool(_gathered("true" if value else "", name))


def share_count(name: str, count: int) -> int:
    """How much all processes have done of what is called `name`, as far as they have said; this one `count`."""
    return count if _monitor is None else _monitor.share_count(name, count)


def fail_everywhere(reason: str, name: str) -> None:
    """Ends all processes with one error where any of them has a reason to: what it has that it should not, or "".

    Raises:
        TransferError: "process 1 has …", in every process.
    """
    reasons = _gathered(reason, name) if process_count() > 1 else {}
    for process in sorted(reasons):
        finish()  # each ends by itself,
        barrier("refused")  # and none of them before all others know that it may
        raise TransferError(f"process {process} {reasons[process]}")


def _gathered(text: str, name: str) -> dict[int, str]:
    """The texts of all processes, by their numbers; empty ones are left out."""
    key = _key(name)
    if text:
        _ask_jax("key_value_set", f"{key}/{process_index()}", text)
    barrier(name)
    return {int(own.rpartition("/")[2]): value for own, value in _ask_jax("key_value_dir_get", f"{key}/")}


def _key(name: str) -> str:
    """A key that all processes make of their n-th use of `name`, and that no other use has."""
    _uses[name] += 1
    return f"transfer/{name}/{_uses[name]}"


def _ask_jax(method: str, *arguments: Any) -> Any:
    """Calls JAX's client in a thread: signals reach Python only between two lines of its own in the main one."""
    client, answer = _jax_state().client, futures.Future[Any]()

    def call() -> None:
        try:
            answer.set_result(getattr(client, method)(*arguments))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True, name="waits-for-others").start()
    start = time.monotonic()
    try:
        while True:
            with contextlib.suppress(futures.TimeoutError), preemption.untimed():
                return answer.result(WAITING_SECONDS)
            name, seconds = str(arguments[0]).split("/")[1], time.monotonic() - start
            logging.warning("waiting for the other processes (%s): %.0f s so far", name, seconds)
    except Exception as error:
        if _monitor is not None:
            time.sleep(NAMING_SECONDS)  # where a process has gone, the monitor ends this one meanwhile, and names it
        raise Unfinished(f"the other processes cannot be reached: {str(error).splitlines()[0]}") from error


def finish() -> None:
    """Waits until every process has done, and saved, all that it is to do; from then on the others may go.

    Where one of them fails or is gone before, this process ends here, with a line that names it.
    """
    preemption.part_is_over()
    if _monitor is not None and not _monitor.finished.is_set():
        barrier("end")
        _monitor.finished.set()


def shutdown() -> None:
    """Ends the run: waits for the others, then disconnects; afterwards this is one process again."""
    global _info, _monitor
    if _info is None:
        return
    finish()
    import jax

    jax.distributed.shutdown()
    preemption.announce_by(None)
    _info = _monitor = None


def abort() -> None:
    """Tells the others that this process ends by an error, so that they end too."""
    if _monitor is not None:
        _monitor.abort()
