"""A source of weight files on this machine, over https with a certificate of its own, that fails in every known way.

Its files are the same bytes under each name of `PAGES`; the name says how they are sent. It is a process of its own,
so that campaigns can fork.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORD = "campaign.local"
CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIECE = 1 << 15
# Longer than any limit that a client under test is given.
FOR_EVER = 600.0


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; `do_GET` dispatches on the path."""

    def do_GET(self) -> None:
        page = getattr(self, f"page_{self.path.strip('/').replace('-', '_')}", None)
        if page is None:
            self.send_error(404)
            return
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            page()

    def page_good(self) -> None:
        self._send_rest(0.0)

    def page_slow(self) -> None:
        """In pieces, so that there is time to kill the reader."""
        self._send_rest(0.004)

    def page_whole(self) -> None:
        """Everything, whatever part was asked for."""
        self.wfile.write(self._headers() + CONTENT)

    def page_wrong_range(self) -> None:
        """Another part than was asked for."""
        answer = f"HTTP/1.0 206 OK\r\nContent-Range: bytes 0-{len(CONTENT) - 1}/*\r\n\r\n"
        self.wfile.write(answer.encode() + CONTENT)

    def page_slow_headers(self) -> None:
        """An answer that never begins, byte by byte."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Waiting: ")
        while True:
            self.wfile.write(b".")
            self.wfile.flush()
            time.sleep(0.2)

    def page_closed_at_once(self) -> None:
        """No answer."""

    def page_stall_at_once(self) -> None:
        time.sleep(FOR_EVER)

    def page_stall(self) -> None:
        self._send_pieces(CONTENT[: len(CONTENT) // 2], 0.0)
        time.sleep(FOR_EVER)

    def page_drip(self) -> None:
        """A byte at a time: no read ever takes long, and there is no end."""
        self.wfile.write(self._headers())
        for byte in CONTENT:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.2)

    def page_reset(self) -> None:
        self._send_pieces(CONTENT[: len(CONTENT) // 2], 0.0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def page_short(self) -> None:
        self._send_pieces(CONTENT[: len(CONTENT) // 2], 0.0)

    def page_short_without_length(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[: len(CONTENT) // 2])

    def page_long(self) -> None:
        """More than it said; what was said is not the whole file."""
        self.wfile.write(self._headers(len(CONTENT) // 2) + CONTENT)

    def page_more(self) -> None:
        """A file to which something was added."""
        self.wfile.write(self._headers(2 * len(CONTENT)) + CONTENT + CONTENT)

    def page_terabyte(self) -> None:
        self.wfile.write(self._headers(1 << 40) + CONTENT)
        time.sleep(FOR_EVER)

    def page_endless(self) -> None:
        """No length, and no end."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            self.wfile.write(CONTENT)

    def page_bad_length(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n" + CONTENT)

    def page_other(self) -> None:
        """As long as it should be, and another file."""
        self.wfile.write(self._headers() + CONTENT[::-1])

    def page_closed(self) -> None:
        """Headers, nothing else."""
        self.wfile.write(self._headers())

    def page_not_http(self) -> None:
        self.wfile.write(os.urandom(1000))

    def page_error(self) -> None:
        self.send_error(500)

    def page_to_http(self) -> None:
        self._redirect(f"http://127.0.0.1:{self.server.server_address[1]}/good")

    def page_circle(self) -> None:
        self._redirect("/circle")

    def page_to_file(self) -> None:
        self._redirect("file:///etc/hostname")

    def _send_rest(self, seconds: float) -> None:
        """From the byte on that a `Range` asks for."""
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        range_ = f"HTTP/1.0 206 OK\r\nContent-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n"
        length = f"Content-Length: {len(CONTENT) - start}\r\n\r\n"
        self._send_pieces(CONTENT[start:], seconds, ((range_ if start else "HTTP/1.0 200 OK\r\n") + length).encode())

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _headers(self, length: int = len(CONTENT)) -> bytes:
        return f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()

    def _send_pieces(self, content: bytes, seconds: float, headers: bytes | None = None) -> None:
        self.wfile.write(headers or self._headers())
        for start in range(0, len(content), PIECE):
            self.wfile.write(content[start : start + PIECE])
            self.wfile.flush()
            time.sleep(seconds)

    def log_message(self, *arguments: Any) -> None:
        pass


PAGES = tuple(name.removeprefix("page_").replace("_", "-") for name in vars(Handler) if name.startswith("page_"))


@dataclasses.dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int
    certificate: Path

    def url(self, page: str) -> str:
        """The address of a page."""
        return f"https://127.0.0.1:{self.port}/{page}"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Starts the source with a certificate in `folder`; OSError where there is no `openssl` to make it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "3650",
        ]
        + ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        check=True,
        capture_output=True,
    )
    command = [sys.executable, __file__, str(key), str(certificate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(json.loads(process.stdout.readline()), certificate)
        finally:
            process.send_signal(signal.SIGKILL)


def add_record(url: str, name: str = RECORD, **more: Any) -> None:
    """Puts a record whose file is at `url` into the catalogue of this process."""
    from transfer.weights import catalogue

    file = catalogue.WeightFile(f"{name}.bin", url, sha256=SHA256, **more)
    records: Any = catalogue.records()
    records[name] = dataclasses.replace(catalogue.get("resnet18.tv"), name=name, file=file)


def _serve(key: str, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
