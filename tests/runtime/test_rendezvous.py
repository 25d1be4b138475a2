"""How processes meet and watch each other, in one process: what is a message, who is let in, when one is lost."""

import itertools
import json
import math
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from several import free_port

from transfer.errors import TransferError, Unfinished, UsageError
from transfer.runtime import preemption, rendezvous
from transfer.runtime.cluster import ProcessInfo

FACTS = {"versions": {"jax": "1"}, "settings": {}}


def sockets():
    """Both ends of a TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()), server.accept()[0]


@pytest.fixture
def ends():
    """A connection, and the socket at the other end of it."""
    ours, theirs = sockets()
    with ours, theirs:
        theirs.settimeout(5)
        yield rendezvous.Connection(ours, 30), theirs


def test_messages_come_whole_whatever_pieces_they_are_sent_in(ends):
    connection, other = ends
    other.sendall(b'{"a": 1}\n{"b"')
    assert connection.receive() == [{"a": 1}]
    other.sendall(b": 2}")
    assert connection.receive() == []
    other.sendall(b'\n{"c": "\\u00e9"}\n')
    assert connection.receive() == [{"b": 2}, {"c": "é"}]
    connection.send(go=1, why="é")
    assert other.recv(100) == b'{"go": 1, "why": "\\u00e9"}\n'
    other.close()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="closed"):
            connection.receive()
    connection.send(go=1)  # nobody is there


STRANGERS = [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"a": 1}\n3\n', b"\n", b"[" * 60_000 + b"\n", b"\xff\n"]


@pytest.mark.parametrize("sent", STRANGERS, ids=lambda sent: repr(sent[:9]))
def test_what_a_stranger_sends_is_no_message(ends, sent):
    connection, other = ends
    other.sendall(sent)
    with pytest.raises(ValueError, match=r"not one of our messages|Expecting value|decode|Extra data"):
        connection.receive()


def test_a_line_has_an_end(ends):
    """A megabyte without one is no message; what is just as long still may be."""
    connection, other = ends
    assert rendezvous.MAX_LINE == 1 << 20
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(other.sendall, b"x" * (1 << 20))
        while len(connection._rest) < 1 << 20:
            assert connection.receive() == []
        sent.result()
    other.sendall(b"x")
    with pytest.raises(ValueError, match="not one of our messages"):
        connection.receive()


@pytest.mark.parametrize(("lost", "idle", "interval", "timeout"), [(30, 10, 5, 20_000), (3, 2, 1, 4000)])
def test_a_machine_that_is_gone_is_noticed_by_the_kernel(lost, idle, interval, timeout):
    """The first probe and two more, and what nobody acknowledges: within `lost` seconds, where a second allows it."""
    ours, theirs = sockets()
    with ours, theirs:
        rendezvous.Connection(ours, lost)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1 and ours.gettimeout() == lost
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        set_to = [ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert set_to == [idle, interval, 3, timeout]


class Meeting:
    """Process 0 that waits in a thread for `count` processes, and sockets that say hello to it."""

    def __init__(self, count: int, seconds: int = 5) -> None:
        self.port = free_port()
        self.coordinator = rendezvous.Coordinator(ProcessInfo(f"127.0.0.1:{self.port}", count, 0), seconds, 30, FACTS)
        self.pool = ThreadPoolExecutor(1)
        self.result = self.pool.submit(self.coordinator.meet)
        self.guests: list[socket.socket] = []

    def send(self, text: bytes | dict) -> socket.socket:
        """A new connection on which that is sent."""
        while True:
            try:
                guest = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        guest.sendall(text if isinstance(text, bytes) else json.dumps(text).encode() + b"\n")
        self.guests.append(guest)
        return guest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for guest in self.guests:
            guest.close()
        self.coordinator.seconds = 0  # where a test fails it waits for nobody
        self.pool.shutdown()


def hello(process, of=3, who="there, pid 9", facts=FACTS):
    return {"process": process, "of": of, "who": who, "facts": facts}


def heard(guest):
    """The next message that process 0 sends; None where it closes the connection."""
    line = guest.makefile().readline()
    return json.loads(line) if line else None


def test_strangers_are_sent_away_and_the_others_meet():
    with Meeting(3) as meeting:
        for text in (*STRANGERS, {"process": "first"}, {"process": 1}, {**hello(1), "facts": 3}):
            assert heard(meeting.send(text)) is None
        again = meeting.send(hello(1))
        again.close()  # and comes again
        guests = [meeting.send(hello(process)) for process in (2, 1)]
        connections, port = meeting.result.result()
        assert [heard(guest) for guest in guests] == [{"go": port}] * 2
        assert sorted(connections) == [1, 2] and 0 < port < 1 << 16 and port != meeting.port


MINE = f"{socket.gethostname()}, pid {os.getpid()}"
REFUSED = {
    "process 0 again": (
        [hello(0)],
        f"two processes say that they are process 0 of 3: {MINE} and there, pid 9; give each a --process_id of its own",
    ),
    "the same twice": (
        [hello(2, who="here, pid 4"), hello(2)],
        "two processes say that they are process 2 of 3: here, pid 4 and there, pid 9; "
        "give each a --process_id of its own",
    ),
    "another number": (
        [hello(1, of=4, who="w" * 201)],
        f"process 1 ({'w' * 200}) was started as one of 4, process 0 as one of 3; --num_processes must be the same",
    ),
    "no longer": (
        [hello(2), {"late": True}],
        "process 1 of 3 did not come within 60 s (--connect_seconds); were they started? see their logs",
    ),
    "other versions": (
        [hello(1), hello(2, facts={"versions": {"jax": 2}})],
        "process 2 has jax 2, processes 0 and 1 have 1: install the same versions for all processes",
    ),
    "an older version": (
        [{"process": 1, "of": 3, "who": ""}, hello(2)],
        "process 1 has jax none, processes 0 and 2 have 1: install the same versions for all processes",
    ),
}


@pytest.mark.parametrize(("said", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_meeting_that_cannot_be_is_one_line_for_all(said, reason):
    with Meeting(3, seconds=60) as meeting:
        guests = []
        for message in said:
            guests.append(meeting.send(message))
            time.sleep(0.02)  # one after the other
        code = 76 if "did not come" in reason else 1
        assert heard(guests[0]) == {"end": reason, "code": code}
        for guest in guests:
            guest.close()
        with pytest.raises(TransferError) as raised:
            meeting.result.result()
        assert str(raised.value) == f"process 0 of 3: {reason}" and raised.value.exit_code == code


def test_settings_that_differ_are_a_wrong_use():
    with Meeting(2) as meeting:
        guest = meeting.send(hello(1, of=2, facts={**FACTS, "settings": {"config.seed": "1"}}))
        reason = "process 1 has config.seed=1, process 0 has none: give all processes the same command"
        assert heard(guest) == {"end": reason, "code": 2}
        guest.close()
        with pytest.raises(UsageError):
            meeting.result.result()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"end": "why", "code": 2}, UsageError, "process 1 of 2: why"),
        ({"end": "why"}, TransferError, "process 1 of 2: why"),
        ({"end": "why", "code": 99}, TransferError, "process 1 of 2: why"),
        ({"end": "why", "code": 76}, Unfinished, "process 1 of 2: why"),
        ({"end": "why", "code": 75}, preemption.Preempted, "process 1 of 2: why"),
        ({"end": "w" * 4001, "code": 1}, TransferError, "process 1 of 2: " + "w" * 4000),
    ],
)
def test_a_worker_ends_as_it_is_told(answer, error, message):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        info = ProcessInfo(f"127.0.0.1:{server.getsockname()[1]}", 2, 1)
        ended = pool.submit(rendezvous.join, info, 5, 30, FACTS)
        other = server.accept()[0]
        assert heard(other) == {"process": 1, "of": 2, "who": MINE, "facts": FACTS}
        other.sendall(json.dumps(answer).encode() + b"\n")
        with pytest.raises(TransferError) as raised:
            ended.result()
        assert type(raised.value) is error and str(raised.value) == message
        other.close()


@pytest.mark.parametrize(
    ("sent", "reason"), [(b"", "what answered there has gone"), (b"hello\n", "something else answers")]
)
def test_a_worker_says_what_it_found_in_place_of_process_0(sent, reason):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ended = pool.submit(rendezvous.join, ProcessInfo(address, 2, 1), 0.15, 30, FACTS)
        other = server.accept()[0]
        heard(other)
        other.sendall(sent)
        other.close()
        with pytest.raises(Unfinished) as raised:
            ended.result()
    assert str(raised.value) == (
        f"process 1 of 2: process 0 was not found at {address} within 0.15 s (--connect_seconds): {reason}; "
        "is that its address (--coordinator), and was it started?"
    )


class Peer:
    """Keeps the messages that it is sent."""

    def __init__(self) -> None:
        self.sent: list[dict] = []

    def send(self, **message):
        self.sent.append(message)


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes as the test says."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_one_is_lost_that_is_silent_for_twice_as_long(clock):
    """A heartbeat three times in `lost_seconds`; who was held up itself listens anew before it judges."""
    peers = {1: Peer(), 2: Peer()}
    monitor = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 0), peers, 30)
    beats = []
    for seconds in itertools.takewhile(lambda seconds: seconds <= 60, itertools.count(0, 5)):
        clock[0] = 1000 + seconds
        monitor._heard_at[2] = clock[0]
        monitor._send_heartbeat()
        beats.append(len(peers[1].sent))
    assert beats == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7] and peers[1].sent[-1] == {"heartbeat": True}
    assert not monitor._verdict and monitor._deadline == math.inf
    clock[0] += 21  # held up for more than two heartbeats
    monitor._send_heartbeat()
    assert not monitor._verdict
    for _ in range(6):
        clock[0] += 10
        monitor._heard_at[2] = clock[0]
        monitor._send_heartbeat()
    assert not monitor._verdict
    clock[0] += 10
    monitor._heard_at[2] = clock[0]
    monitor._send_heartbeat()
    why = "has not answered for 60 s;"
    assert monitor._verdict == f"process 0 of 3: process 1 {why} run the same command again to continue"
    assert peers[2].sent[-1] == {"gone": 1, "why": why} and monitor._deadline == clock[0] + 2
    monitor._lose(2, "has gone;")
    assert "process 1" in monitor._verdict and monitor._lost == 1


def test_who_asks_learns_how_much_all_have_done(clock):
    first, second, third = (Peer() for _ in range(3))
    main = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 0), {1: second, 2: third}, 30)
    other = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 1), {0: first}, 30)
    assert other.share_count("train", 5) == 5 and other.share_count("train", 7) == 7
    assert first.sent == [{"done": "train", "counts": [(1, 5)]}, {"done": "train", "counts": [(1, 7)]}]
    main._note_counts("train", {1: 7})
    assert main.share_count("train", 10) == 17 and main.share_count("validation", 1) == 1
    main._send_heartbeat()
    assert third.sent[1:] == [
        {"done": "train", "counts": [(1, 7), (0, 10)]},
        {"done": "validation", "counts": [(0, 1)]},
    ]
    other.share_count("train", 9)
    other._note_counts("train", {0: 10, 1: 7, 2: 3})  # its own is newer here
    assert other.share_count("train", 9) == 22


def test_where_all_is_saved_the_others_may_go(clock):
    peers = {0: Peer()}
    monitor = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 1), peers, 30)
    monitor.finished.set()
    monitor._lose(0, "has gone;")
    assert not monitor._verdict
    monitor.finished.clear()
    monitor._lose(0, "has gone;")
    assert monitor._verdict and monitor._deadline == clock[0] and not peers[0].sent


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b'{"gone": 2, "why": "%s"}\n' % (b"w" * 201), f"process 1 of 3: process 2 {'w' * 200} run the same command"),
        (b"no message\n", "process 1 of 3: process 0 has gone; run the same command again to continue\n"),
        (None, "process 1 of 3: process 0 has gone; run the same command again to continue\n"),
    ],
)
def test_who_is_lost_is_named_as_this_process_ends(ends, monkeypatch, sent, line):
    connection, other = ends
    written, codes = [], []
    monkeypatch.setattr(os, "write", lambda stream, text: written.append((stream, text.decode())))
    monkeypatch.setattr(os, "_exit", codes.append)
    monitor = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 1), {0: connection}, 30)
    if sent is None:
        other.close()
    else:
        other.sendall(sent)
    monitor._run()
    ((stream, text),) = written
    assert stream == 2 and text.startswith(f"error: {line}") and text.count("\n") == 1 and codes == [76]


def test_who_fails_says_so(ends):
    connection, other = ends
    monitor = rendezvous.PeerMonitor(ProcessInfo("a:1", 3, 2), {0: connection}, 30)
    ended = threading.Thread(target=monitor.abort)
    ended.start()
    assert heard(other) == {"gone": 2, "why": "has failed; its own error says why, and then"}
    ended.join(5)
    assert monitor.finished.is_set()


@pytest.mark.parametrize(("variable", "host"), [(None, "[::]"), ("1.2.3.4:5", "1.2.3.4")])
def test_all_are_told_where_the_service_of_jax_is(monkeypatch, variable, host):
    if variable is None:
        monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", variable)
    address = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(3) as pool:
        infos = [ProcessInfo(address, 3, process) for process in range(3)]
        met = list(pool.map(lambda info: rendezvous.assemble(info, 5, 30, FACTS), infos))
    assert [sorted(monitor.connections) for monitor, *_ in met] == [[1, 2], [0], [0]]
    assert len({place for _, place, _ in met}) == 1
    for _, place, bind in met:
        assert place.rpartition(":")[0] == "127.0.0.1" and bind == f"{host}:{place.rpartition(':')[2]}"
    for monitor, *_ in met:
        for connection in monitor.connections.values():
            connection.socket.close()
