"""Who of several processes is there: process 0 calls the roll, then keeps a connection to each until the end.

`jax.distributed` ends a process by a C++ abort where another does not come or is gone, and before it is connected
it can tell nobody who. So the processes meet here first, at the coordinator's port; what JAX's own service listens at
is told to them then. The connections stay open because nothing notices sooner, or with less doubt, that a process has
gone: the kernel closes them, whatever it died of, and asks after a machine that is silent.

Over them go lines of JSON: `process` K `of` N with its `facts` (`transfer.runtime.consistency`); `go` with JAX's port;
`end` with the reason and an exit `code`; `late`, from one that does not want to wait any longer; `gone` K and `why`;
`failed`; `beat`; `preempt`; `calls` N; `stop` at call N (`preemption.Agreement`).
"""

import contextlib
import json
import math
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.runtime import consistency, preemption
from transfer.runtime.cluster import ProcessInfo

# All settings of a config are a few KiB.
LONGEST_LINE, LONGEST_REASON = 1 << 20, 4000
# How long a process that ends the run waits for the others to read why: JAX's service ends with process 0.
FAREWELL_SECONDS = 2.0
BEAT = 0.2
SECONDS_UNTIL_NOTICE = 10
FAILED = "has failed; its own error says why, and then"
AGAIN = "run the same command again and it goes on where it stopped"


class Line:
    """One connection; messages are dicts, a line of JSON each."""

    def __init__(self, connection: socket.socket, lost_seconds: int) -> None:
        self.socket, self._rest = connection, b""
        connection.setblocking(True)
        connection.settimeout(lost_seconds)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # the kernel gives up what nobody acknowledges; a line is sent three times in `lost_seconds`
        sixth = max(lost_seconds // 6, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 2 * sixth),
            ("TCP_KEEPINTVL", sixth),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 4000 * sixth),
        ):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, **message: Any) -> None:
        """Nothing where the other end is gone: who reads this line gets to know."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; ConnectionError where the other end is gone, ValueError where it is not ours."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            raise ConnectionError(error) from error
        if not data:
            raise ConnectionError("closed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > LONGEST_LINE or not all(isinstance(message, dict) for message in messages):
            raise ValueError("not one of our lines")
        return messages

    def close(self) -> None:
        self.socket.close()


def assemble(
    place: ProcessInfo, connect_seconds: int, lost_seconds: int, facts: consistency.Facts
) -> tuple["Watch", str, str]:
    """Waits until every process is there, and sees to it that their `facts` are the same.

    Returns:
        The watch over them, to be started; the address at which JAX's service is to be reached, and to listen.

    Raises:
        TransferError: not all came in `connect_seconds`, and who; or the address or port is wrong; or versions differ.
        UsageError: settings differ.
        Preempted: SIGTERM came first.
    """
    role = _Caller if place.process_id == 0 else _Answerer
    lines, port = role(place, connect_seconds, lost_seconds, facts).meet()
    host = place.coordinator.rpartition(":")[0]
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "[::]:0").rpartition(":")[0]
    return Watch(place, lines, lost_seconds), f"{host}:{port}", f"{bind}:{port}"


def names(processes: Iterable[int], place: ProcessInfo) -> str:
    """ "process 2 of 4", "processes 2 and 3 of 4"."""
    return f"{consistency.describe_processes(processes)} of {place.num_processes}"


class _Caller:
    """Process 0 until all are there."""

    def __init__(self, place: ProcessInfo, seconds: int, lost_seconds: int, facts: consistency.Facts) -> None:
        self.place, self.seconds, self.lost_seconds = place, seconds, lost_seconds
        self.lines: dict[int, Line] = {}
        self.facts: dict[int, consistency.Facts] = {0: facts}
        self.who: dict[int, str] = {0: _self()}
        self.selector = selectors.DefaultSelector()

    def meet(self) -> tuple[dict[int, Line], int]:
        with self._listen() as listener:
            self.selector.register(listener, selectors.EVENT_READ)
            start, told = time.monotonic(), False
            while self.missing():
                waited = time.monotonic() - start
                if waited > self.seconds:
                    self.end(self.did_not_come())
                if waited > SECONDS_UNTIL_NOTICE and not told:
                    told = True
                    logging.info("waiting for %s at %s", names(self.missing(), self.place), self.place.coordinator)
                if preemption.requested():
                    _to_all(self.lines, preempt=True)
                    raise preemption.Preempted("stopped on request before it began; the same command begins again")
                for key, _ in self.selector.select(BEAT):
                    if key.fileobj is listener:
                        self._accept(listener)
                    else:
                        self._read(key.data)
        try:
            consistency.check_same(self.facts)
        except TransferError as error:
            self.end(str(error), code=error.exit_code)
        port = _free_port()
        _to_all(self.lines, go=port)
        self.selector.close()
        return self.lines, port

    def _listen(self) -> socket.socket:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        address = ("", self.place.port)
        try:
            return socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=dual)
        except OSError as error:
            raise TransferError(
                f"process 0 of {self.place.num_processes}: port {self.place.port} of {self.place.coordinator} cannot "
                f"be used on this machine: {error.strerror}; end what uses it, or choose another --coordinator"
            ) from error

    def missing(self) -> list[int]:
        return [process for process in range(1, self.place.num_processes) if process not in self.lines]

    def did_not_come(self) -> str:
        them = names(self.missing(), self.place)
        return f"{them} did not come within {self.seconds} s (--connect_seconds); were they started? see their logs"

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            line = Line(listener.accept()[0], self.lost_seconds)
            self.selector.register(line.socket, selectors.EVENT_READ, line)

    def _read(self, line: Line) -> None:
        try:
            for message in line.receive():
                if "process" in message:
                    self._answered(line, message)
                elif "late" in message:
                    self.end(self.did_not_come())
        except (ConnectionError, ValueError, KeyError, TypeError):  # it went again, or is a stranger
            self.selector.unregister(line.socket)
            line.close()
            self.lines = {process: other for process, other in self.lines.items() if other is not line}

    def _answered(self, line: Line, message: dict[str, Any]) -> None:
        process, count, who = int(message["process"]), int(message["of"]), str(message["who"])[:200]
        told = dict(message.get("facts", {}))  # an older version tells none
        facts = {kind: {name: str(value) for name, value in dict(own).items()} for kind, own in told.items()}
        if count != self.place.num_processes:
            text = f"process {process} ({who}) was started as one of {count}, process 0 as one of "
            self.end(f"{text}{self.place.num_processes}; --num_processes must be the same", line)
        if process == 0 or process in self.lines:
            text = f"two processes say that they are process {process} of {count}: {self.who[process]} and {who}"
            self.end(f"{text}; give each a --process_id of its own", line)
        self.lines[process], self.who[process], self.facts[process] = line, who, facts

    def end(self, reason: str, *others: Line, code: int = TransferError.exit_code) -> NoReturn:
        """Tells all that are there, and gives up."""
        lines = [*self.lines.values(), *others]
        for line in lines:
            line.send(end=reason, code=code)
        _wait_until_read(lines)
        raise _error(f"process 0 of {self.place.num_processes}: {reason}", code)


class _Answerer:
    """Any other process until all are there."""

    def __init__(self, place: ProcessInfo, seconds: int, lost_seconds: int, facts: consistency.Facts) -> None:
        self.place, self.seconds, self.lost_seconds, self.facts = place, seconds, lost_seconds, facts
        self.deadline = time.monotonic() + seconds
        self.reason = "no answer"

    def meet(self) -> tuple[dict[int, Line], int]:
        while time.monotonic() < self.deadline:
            if preemption.requested():
                raise preemption.Preempted("stopped on request before it began; the same command begins again")
            if line := self._connected():
                try:
                    if port := self._wait(line):
                        return {0: line}, port
                except ValueError:
                    self.reason = "something else answers"
                except ConnectionError:  # process 0 may be started again
                    self.reason = "what answered there has gone"
                line.close()
            time.sleep(BEAT)
        raise TransferError(
            f"{self._me}process 0 was not found at {self.place.coordinator} within {self.seconds} s "
            f"(--connect_seconds): {self.reason}; is that its address (--coordinator), and was it started?"
        )

    @property
    def _me(self) -> str:
        return f"process {self.place.process_id} of {self.place.num_processes}: "

    def _connected(self) -> Line | None:
        left = max(self.deadline - time.monotonic(), BEAT)
        try:
            connection = socket.create_connection((self.place.host, self.place.port), timeout=min(left, 5))
        except socket.gaierror:  # a pod's name is there once the pod is
            self.reason = f"the name {self.place.host} is not known"
        except OSError as error:
            self.reason = (error.strerror or str(error)).lower()
        else:
            return Line(connection, self.lost_seconds)
        return None

    def _wait(self, line: Line) -> int:
        """JAX's port once all are there; 0 where process 0 does not say so in time."""
        line.send(process=self.place.process_id, of=self.place.num_processes, who=_self(), facts=self.facts)
        late = False
        with selectors.DefaultSelector() as selector:
            selector.register(line.socket, selectors.EVENT_READ)
            while time.monotonic() < self.deadline + FAREWELL_SECONDS:
                if time.monotonic() > self.deadline and not late:
                    late = True
                    line.send(late=True)  # the answer says for whom we have waited
                if preemption.requested():
                    raise preemption.Preempted("stopped on request before it began; the same command begins again")
                for message in line.receive() if selector.select(BEAT) else ():
                    if "go" in message:
                        return int(message["go"])
                    if "preempt" in message:
                        preemption.note_remote_request()
                    if "end" in message:
                        raise _error(f"{self._me}{str(message['end'])[:LONGEST_REASON]}", message.get("code"))
        self.reason = "something else answers"
        return 0


def _error(text: str, code: Any) -> TransferError:
    return UsageError(text) if code == UsageError.exit_code else TransferError(text)


class Watch:
    """The connections from the roll call to the end of the run, and the thread that reads them.

    Where a process goes, or says that it failed, or says nothing for twice `lost_seconds`, each of the others ends with
    one line, at whatever it is. Where one is preempted, all get to know, and agree where to stop.
    """

    def __init__(self, place: ProcessInfo, lines: dict[int, Line], lost_seconds: int) -> None:
        self.place, self.lines = place, dict(lines)
        self._beat, self._patience = lost_seconds / 3, 2 * lost_seconds
        self._heard_at: dict[int, float] = {}
        self._beaten = -math.inf
        self._wakes, self._waker = os.pipe()
        self._calls: dict[int, int] = {}
        self._stopping = self._abandoning = False
        self.left = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="roll-call")

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> None:
        """From now on the others may go; all have come to the end of the run."""
        self.left.set()

    def preempt(self) -> None:
        """Lets all know that this process is preempted; may be called by a signal handler."""
        os.write(self._waker, b"p")

    def abandon(self) -> None:
        """Lets all know that this process ends by an error, whose line it prints itself."""
        self._abandoning = True
        self.left.set()
        os.write(self._waker, b"a")
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2 * FAREWELL_SECONDS)

    @property
    def _main(self) -> bool:
        return self.place.process_id == 0

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakes, selectors.EVENT_READ)
            for process, line in self.lines.items():
                selector.register(line.socket, selectors.EVENT_READ, process)
            while not self._abandoning:
                for key, _ in selector.select(self._beat):
                    if key.data is None:
                        self._woken(os.read(self._wakes, 64))
                        continue
                    try:
                        for message in self.lines[key.data].receive():
                            self._heard(key.data, message)
                    except (ConnectionError, ValueError):
                        selector.unregister(key.fileobj)
                        line = self.lines.pop(key.data)
                        self._lost(key.data, "has gone;")
                        line.close()
                self._break_silence()

    def _break_silence(self) -> None:
        """Lets the others hear from this process, and ends it where one of them was not heard for too long."""
        now = time.monotonic()
        if now - self._beaten < self._beat:
            return
        if now - self._beaten > 2 * self._beat:  # just begun, or this process itself was held up: it cannot tell
            self._heard_at = dict.fromkeys(self.lines, now)
        self._beaten = now
        _to_all(self.lines, beat=True)
        for process in self.lines:
            if now - self._heard_at[process] > self._patience:
                self._lost(process, f"has not answered for {self._patience} s;")

    def _woken(self, by: bytes) -> None:
        if b"a" in by:
            self._say_failed()
        elif self._main:
            self._begin_stop()
        else:
            self.lines[0].send(preempt=True)

    def _say_failed(self) -> None:
        if self._main:
            _to_all(self.lines, gone=0, why=FAILED)
            _wait_until_read(self.lines.values())
        elif 0 in self.lines:
            self.lines[0].send(failed=True)

    def _heard(self, process: int, message: dict[str, Any]) -> None:
        self._heard_at[process] = time.monotonic()
        if "failed" in message and self._main:
            self._lost(process, FAILED)
        elif "gone" in message:
            self._lost(int(message["gone"]), str(message["why"])[:200])
        elif "preempt" in message and self._main:
            self._begin_stop()
        elif "preempt" in message:
            preemption.note_remote_request()
            self.lines[0].send(calls=preemption.agreement.hold())
        elif "calls" in message:
            self._count(process, int(message["calls"]))
        elif "stop" in message:
            preemption.agreement.settle(int(message["stop"]))

    def _begin_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            preemption.note_remote_request()
            _to_all(self.lines, preempt=True)
            self._count(0, preemption.agreement.hold())

    def _count(self, process: int, calls: int) -> None:
        self._calls[process] = calls
        if len(self._calls) == self.place.num_processes:
            stop = max(self._calls.values()) + 1
            _to_all(self.lines, stop=stop)
            preemption.agreement.settle(stop)

    def _lost(self, process: int, why: str) -> None:
        """Ends this process, and, where it is process 0, all the others before it; not where all is done and saved."""
        if self.left.is_set():
            return
        if self._main:
            _to_all(self.lines, gone=process, why=why)
            _wait_until_read(line for other, line in self.lines.items() if other != process)
        end_now(f"process {self.place.process_id} of {self.place.num_processes}: process {process} {why} {AGAIN}")


def end_now(message: str) -> NoReturn:
    """The end of this process from any thread, while the main one may be deep in a computation; one line on stderr."""
    os.write(2, f"error: {message}\n".encode())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(1)


def _to_all(lines: dict[int, Line], **message: Any) -> None:
    for line in lines.values():
        line.send(**message)


def _wait_until_read(lines: Iterable[Line]) -> None:
    """Until all these have closed their ends, or for a moment."""
    deadline, open_lines = time.monotonic() + FAREWELL_SECONDS, list(lines)
    with selectors.DefaultSelector() as selector:
        for line in open_lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key in _ready(selector, left):
                with contextlib.suppress(ValueError):
                    try:
                        key.data.receive()
                    except ConnectionError:
                        selector.unregister(key.fileobj)


def _ready(selector: selectors.BaseSelector, seconds: float) -> Iterator[selectors.SelectorKey]:
    return (key for key, _ in selector.select(seconds))


def _self() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _free_port() -> int:
    """A port for JAX's service; that another takes it in between is one line of its own."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
