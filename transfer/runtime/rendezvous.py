"""Processes meet at process 0 before JAX connects them, and stay connected to it, so that whoever fails is named.

`jax.distributed` ends a process by a C++ abort where another does not come or is gone, and before it is connected it
can tell nobody who. So the processes meet here first, at the coordinator's port, and are told where JAX's own service
will listen. The connections stay open because nothing notices sooner, or with less doubt, that a process has gone: the
kernel closes them, whatever it died of, and probes a machine that is silent.

A message is a line of JSON. In the meeting: `process` K `of` N with its `facts` (`transfer.runtime.consistency`); `go`
with JAX's port; `end` with the reason and an exit `code`; `late`, from one that will not wait any longer. Afterwards:
`gone` K and `why`; `heartbeat`; `done`, how much of something processes have done.
"""

import contextlib
import json
import math
import os
import selectors
import socket
import threading
import time
from collections import defaultdict
from typing import Any, NoReturn

from absl import logging

from transfer.errors import TransferError, Unfinished, UsageError
from transfer.runtime import consistency, log, preemption
from transfer.runtime.cluster import ProcessInfo

# All settings of a config are a few KiB.
MAX_LINE, MAX_REASON = 1 << 20, 4000
# How long a process that ends the run waits for the others to read why: JAX's service ends with process 0.
SHUTDOWN_GRACE_SECONDS = 2.0
POLL_SECONDS = 0.2
SECONDS_UNTIL_NOTICE = 10
FAILED = "has failed; its own error says why, and then"
STOPPED = "stopped on request before it began; run the same command again"
ERRORS = {error.exit_code: error for error in (TransferError, UsageError, preemption.Preempted, Unfinished)}


class Connection:
    """A connection to another process; messages are dicts."""

    def __init__(self, connection: socket.socket, lost_seconds: int) -> None:
        self.socket, self._rest, self._sending = connection, b"", threading.Lock()
        connection.settimeout(lost_seconds)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # the kernel gives up what nobody acknowledges; a probe is sent three times in `lost_seconds`
        sixth = max(lost_seconds // 6, 1)
        options = {"KEEPIDLE": 2 * sixth, "KEEPINTVL": sixth, "KEEPCNT": 3, "USER_TIMEOUT": 4000 * sixth}
        for option, value in options.items():
            if hasattr(socket, f"TCP_{option}"):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)

    def send(self, **message: Any) -> None:
        """Sends a message; does nothing where the other end is gone, which whoever reads this connection notices."""
        with contextlib.suppress(OSError), self._sending:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; ConnectionError where the other end is gone, ValueError for other bytes."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            raise ConnectionError(error) from error
        if not data:
            raise ConnectionError("closed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        with contextlib.suppress(RecursionError):
            messages = [json.loads(line) for line in lines]
            if len(self._rest) <= MAX_LINE and all(isinstance(message, dict) for message in messages):
                return messages
        raise ValueError("not one of our messages")


def assemble(
    info: ProcessInfo, connect_seconds: int, lost_seconds: int, facts: consistency.Facts
) -> tuple["PeerMonitor", str, str]:
    """Waits until every process is there, and checks that their `facts` are the same.

    Returns:
        The monitor of the other processes, to be started; the address of JAX's service, and the one to bind it to.

    Raises:
        Unfinished: not all came in `connect_seconds`, and who; or process 0 is not at the address.
        TransferError: the port is in use, or versions differ.
        UsageError: settings differ.
        Preempted: SIGTERM came first.
    """
    given = info, connect_seconds, lost_seconds, facts
    connections, port = join(*given) if info.process_id else Coordinator(*given).meet()
    host = info.coordinator.rpartition(":")[0]
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "[::]:0").rpartition(":")[0]
    return PeerMonitor(info, connections, lost_seconds), f"{host}:{port}", f"{bind}:{port}"


class Coordinator:
    """Process 0 until all the others are there."""

    def __init__(self, info: ProcessInfo, seconds: int, lost_seconds: int, facts: consistency.Facts) -> None:
        self.info, self.seconds, self.lost_seconds = info, seconds, lost_seconds
        self.connections: dict[int, Connection] = {}
        self.facts: dict[int, consistency.Facts] = {0: facts}
        self.where: dict[int, str] = {0: _host_and_pid()}
        self.selector = selectors.DefaultSelector()

    def meet(self) -> tuple[dict[int, Connection], int]:
        """The connections to the others, by their numbers, and the port for JAX's service."""
        with self._listen() as listener, self.selector:
            self.selector.register(listener, selectors.EVENT_READ)
            start, logged = time.monotonic(), False
            while missing := self._missing():
                waited = time.monotonic() - start
                if waited > self.seconds:
                    self._end(self._did_not_come(), code=Unfinished.exit_code)
                if waited > SECONDS_UNTIL_NOTICE and not logged:
                    logged, names = True, consistency.describe_processes(missing)
                    logging.info("waiting for %s of %d at %s", names, self.info.num_processes, self.info.coordinator)
                if preemption.requested():
                    self._end(STOPPED, code=preemption.EXIT_PREEMPTED)
                for key, _ in self.selector.select(POLL_SECONDS):
                    if key.data is not None:
                        self._read(key.data)
                        continue
                    with contextlib.suppress(OSError):
                        connection = Connection(listener.accept()[0], self.lost_seconds)
                        self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        try:
            consistency.check_same(self.facts)
        except TransferError as error:
            self._end(str(error), code=error.exit_code)
        with socket.create_server(("", 0)) as probe:  # that another takes the port in between is a line of its own
            port: int = probe.getsockname()[1]
        _broadcast(self.connections, go=port)
        return self.connections, port

    def _listen(self) -> socket.socket:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            return socket.create_server(("", self.info.port), family=family, backlog=1024, dualstack_ipv6=dual)
        except OSError as error:
            raise TransferError(
                f"{self.info}: port {self.info.port} of {self.info.coordinator} cannot be used on this machine: "
                f"{error.strerror}; stop the program that uses it, or choose another --coordinator"
            ) from error

    def _missing(self) -> list[int]:
        return [process for process in range(1, self.info.num_processes) if process not in self.connections]

    def _did_not_come(self) -> str:
        missing = f"{consistency.describe_processes(self._missing())} of {self.info.num_processes}"
        return f"{missing} did not come within {self.seconds} s (--connect_seconds); were they started? see their logs"

    def _read(self, connection: Connection) -> None:
        try:
            for message in connection.receive():
                if "process" in message:
                    self._admit(connection, message)
                elif "late" in message:
                    self._end(self._did_not_come(), code=Unfinished.exit_code)
        except (ConnectionError, ValueError, KeyError, TypeError):  # it has gone again, or is a stranger
            self.selector.unregister(connection.socket)
            connection.socket.close()
            self.connections = {process: own for process, own in self.connections.items() if own is not connection}

    def _admit(self, connection: Connection, message: dict[str, Any]) -> None:
        """Takes in a process that has introduced itself, or ends the run where it cannot be one of this run's."""
        process, count, where = int(message["process"]), int(message["of"]), str(message["who"])[:200]
        facts = {
            kind: {name: str(value) for name, value in dict(values).items()}
            for kind, values in dict(message.get("facts", {})).items()  # an older version sends none
        }
        if count != self.info.num_processes:
            text = f"process {process} ({where}) was started as one of {count}, process 0 as one of"
            self._end(f"{text} {self.info.num_processes}; --num_processes must be the same", connection)
        if process == 0 or process in self.connections:
            text = f"two processes say that they are process {process} of {count}: {self.where[process]} and {where}"
            self._end(f"{text}; give each a --process_id of its own", connection)
        self.connections[process], self.where[process], self.facts[process] = connection, where, facts

    def _end(self, reason: str, *others: Connection, code: int = TransferError.exit_code) -> NoReturn:
        """Tells all that are there, waits until they have read it, and gives up."""
        reading, deadline = [*self.connections.values(), *others], time.monotonic() + SHUTDOWN_GRACE_SECONDS
        for connection in reading:
            connection.send(end=reason, code=code)
            connection.socket.settimeout(POLL_SECONDS)
        while reading and time.monotonic() < deadline:
            with contextlib.suppress(ValueError):
                try:
                    reading[-1].receive()
                except ConnectionError as error:
                    if not isinstance(error.__cause__, TimeoutError):
                        reading.pop()
        raise ERRORS[code](f"{self.info}: {reason}")


def join(
    info: ProcessInfo, seconds: int, lost_seconds: int, facts: consistency.Facts
) -> tuple[dict[int, Connection], int]:
    """The connection to process 0, where any other process comes to it, and the port of JAX's service."""
    deadline, reason = time.monotonic() + seconds, "no answer"
    while (left := deadline - time.monotonic()) > 0:
        _stop_if_requested(info)
        try:
            address = info.host, info.port
            connection = Connection(socket.create_connection(address, timeout=min(left, 5)), lost_seconds)
        except socket.gaierror:  # a pod's name is there once the pod is
            reason = f"the name {info.host} is not known"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        else:
            try:
                return {0: connection}, _wait_for_port(info, connection, deadline, facts)
            except ValueError:
                reason = "something else answers"
            except ConnectionError:  # process 0 may be started again
                reason = "what answered there has gone"
            connection.socket.close()
        time.sleep(POLL_SECONDS)
    raise Unfinished(
        f"{info}: process 0 was not found at {info.coordinator} within {seconds} s "
        f"(--connect_seconds): {reason}; is that its address (--coordinator), and was it started?"
    )


def _wait_for_port(info: ProcessInfo, connection: Connection, deadline: float, facts: consistency.Facts) -> int:
    """The port of JAX's service once all are there; ValueError where nobody says it in time."""
    late = False
    connection.send(process=info.process_id, of=info.num_processes, who=_host_and_pid(), facts=facts)
    with selectors.DefaultSelector() as selector:
        selector.register(connection.socket, selectors.EVENT_READ)
        while time.monotonic() < deadline + SHUTDOWN_GRACE_SECONDS:
            if time.monotonic() > deadline and not late:
                late = True
                connection.send(late=True)  # the answer says for whom we have waited
            _stop_if_requested(info)
            for message in connection.receive() if selector.select(POLL_SECONDS) else ():
                if "go" in message:
                    return int(message["go"])
                if "end" in message:
                    error = ERRORS.get(message.get("code", 1), TransferError)
                    raise error(f"{info}: {str(message['end'])[:MAX_REASON]}")
    raise ValueError("no answer")


def _stop_if_requested(info: ProcessInfo) -> None:
    if preemption.requested():
        raise preemption.Preempted(f"{info}: {STOPPED}")


class PeerMonitor:
    """The connections from the meeting to the end of the run, and the thread that reads them.

    Where a process goes, or says that it failed, or is silent for twice `lost_seconds`, each of the others ends with
    one line, whatever it is doing. Process 0 is connected to all, the others to process 0.
    """

    def __init__(self, info: ProcessInfo, connections: dict[int, Connection], lost_seconds: int) -> None:
        self.info, self.connections = info, dict(connections)
        self._interval, self._patience = lost_seconds / 3, 2 * lost_seconds
        self._heard_at: dict[int, float] = {}
        self._beat_at = -math.inf
        # The line with which this process ends once all but the lost one have read it, or at the deadline.
        self._verdict, self._deadline = "", math.inf
        self._lost: int | None = None
        # What is done -> how much of it each process has done, as it said last.
        self._done: defaultdict[str, dict[int, int]] = defaultdict(dict)
        # All that there was to do is done and saved: from now on the others may go.
        self.finished = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="peer-monitor")

    def start(self) -> None:
        """Watches the others from now on."""
        self._thread.start()

    def share_count(self, name: str, count: int) -> int:
        """Says how much this process has done of what is called `name`; how much all have, as far as is known.

        Process 0 is told, and tells the others with its heartbeat.
        """
        counts = self._done[name]
        counts[self.info.process_id] = count
        if self.info.process_id:
            self.connections[0].send(done=name, counts=[(self.info.process_id, count)])
        return sum(list(counts.values()))

    def abort(self) -> None:
        """Tells the others that this process ends by an error, whose line it prints itself; waits until they know."""
        self.finished.set()
        _broadcast(self.connections, gone=self.info.process_id, why=FAILED)
        if self._thread.is_alive():
            self._thread.join(SHUTDOWN_GRACE_SECONDS)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for process, connection in self.connections.items():
                selector.register(connection.socket, selectors.EVENT_READ, process)
            while self.connections.keys() - {self._lost} and (left := self._deadline - time.monotonic()) > 0:
                for key, _ in selector.select(min(self._interval, left)):
                    try:
                        for message in self.connections[key.data].receive():
                            self._heard_at[key.data] = time.monotonic()
                            if "done" in message:
                                self._note_counts(str(message["done"]), dict(message["counts"]))
                            if "gone" in message:
                                self._lose(int(message["gone"]), str(message["why"])[:200])
                    except (ConnectionError, ValueError, TypeError, KeyError):
                        selector.unregister(key.fileobj)
                        self.connections.pop(key.data).socket.close()
                        self._lose(key.data, "has gone;")
                self._send_heartbeat()
        if self._verdict:  # the main thread may be deep in a computation
            log.end(self._verdict, Unfinished.exit_code)

    def _note_counts(self, name: str, counts: dict[int, int]) -> None:
        others = {int(process): int(count) for process, count in counts.items() if process != self.info.process_id}
        self._done[name].update(others)

    def _send_heartbeat(self) -> None:
        """Lets the others hear from this process, and ends it where one of them was silent for too long."""
        now = time.monotonic()
        if now - self._beat_at < self._interval:
            return
        if now - self._beat_at > 2 * self._interval:  # just begun, or this process itself was held up: it cannot tell
            self._heard_at = dict.fromkeys(self.connections, now)
        self._beat_at = now
        _broadcast(self.connections, heartbeat=True)
        for name, counts in list(self._done.items()) if self.info.process_id == 0 else ():
            _broadcast(self.connections, done=name, counts=list(counts.items()))
        for process in list(self.connections):
            if now - self._heard_at[process] > self._patience:
                self._lose(process, f"has not answered for {self._patience} s;")

    def _lose(self, process: int, why: str) -> None:
        """Begins the end of this process, and, where it is process 0, of all the others before it.

        Not where all is done and saved, nor where the end has begun already.
        """
        if self.finished.is_set() or self._verdict:
            return
        again = "run the same command again to continue"
        self._lost, self._verdict = process, f"{self.info}: process {process} {why} {again}"
        self._deadline = time.monotonic()
        if self.info.process_id == 0:
            self._deadline += SHUTDOWN_GRACE_SECONDS
            _broadcast(self.connections, gone=process, why=why)


def _broadcast(connections: dict[int, Connection], **message: Any) -> None:
    for connection in list(connections.values()):
        connection.send(**message)


def _host_and_pid() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"
