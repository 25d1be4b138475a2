"""A Hub on this machine: the calls that `huggingface_hub` makes, of repositories that a test lays into it."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit


class Repository(NamedTuple):
    """A repository at one commit.

    Attributes:
        files: name -> content.
        branches: that lead to the commit.
        refuses: status and error code of every answer, such as (403, "GatedRepo").
        is_public: whether the list of its files is given all the same, as of a gated one.
        moved_to: the name that it has by now.
        cut: so many bytes of each file are not sent.
    """

    files: Mapping[str, bytes]
    branches: tuple[str, ...] = ("main",)
    refuses: tuple[int, str] | None = None
    is_public: bool = False
    moved_to: str = ""
    cut: int = 0

    @property
    def commit(self) -> str:
        """Forty digits, made from the files."""
        return hashlib.sha1(b"".join(name.encode() + self.files[name] for name in sorted(self.files))).hexdigest()


class Hub(NamedTuple):
    """A running server: what it has, which may be changed, and what it was asked."""

    endpoint: str
    repositories: dict[str, Repository]
    asked: list[str]


@contextmanager
def running() -> Iterator[Hub]:
    """A server without repositories on a free port of this machine."""
    repositories: dict[str, Repository] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/")
            asked.append(f"{self.command} {path}")
            is_list = path.startswith("api/models/")
            if is_list:
                repo, _, revision = path.removeprefix("api/models/").partition("/revision/")
                name = ""
            else:
                repo, _, rest = path.partition("/resolve/")
                revision, _, name = rest.partition("/")
            self._answer(repo, unquote(revision) or "main", unquote(name), is_list)

        do_HEAD = do_GET

        def _answer(self, repo: str, revision: str, name: str, is_list: bool) -> None:
            repository = repositories.get(repo)
            if repository is None:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif repository.moved_to:
                self._send(307, b"", {"Location": self.path.replace(repo, repository.moved_to)})
            elif repository.refuses and not (is_list and repository.is_public):
                self._send(repository.refuses[0], b"", {"X-Error-Code": repository.refuses[1]})
            elif revision not in (*repository.branches, repository.commit):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif is_list:
                siblings = [{"rfilename": file} for file in repository.files]
                self._send(200, json.dumps({"id": repo, "sha": repository.commit, "siblings": siblings}).encode(), {})
            elif name not in repository.files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
            else:
                content = repository.files[name]
                digest = hashlib.sha256(content).hexdigest()
                sent = content if self.command == "HEAD" else content[: len(content) - repository.cut]
                self._send(200, sent, {"ETag": f'"{digest}"', "X-Repo-Commit": repository.commit})

        def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_address[1]}", repositories, asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
