"""Several real processes over loopback for the tests: `with Several() as several: several.run("extract", [...], 3)`.

Run as a program it imports everything once and computes nothing, then makes the processes of each case by fork, which
saves seconds for each. A case is one of `ACTIONS`, which the processes run as `extract.py` runs its own, flags and all.
"""

import errno
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60  # after which a process that does not end is killed


@dataclass
class Ended:
    """A process that has ended: its exit code (-9 where it was killed), what it printed, seconds since the signal."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """Its own lines."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Several:
    """Starts the program, which then starts the processes of each case; a context manager."""

    def __enter__(self) -> "Several":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(SECONDS)

    def run(
        self,
        action: str,
        settings: dict[str, Any],
        count: int,
        *,
        start: Sequence[int] | None = None,
        flags: Sequence[str] = (),
        of: Sequence[int] | None = None,
        port: int | None = None,
        send: int = 0,
        to: Sequence[int] = (),
        when: tuple[str, int] | None = None,
        each: Sequence[dict[str, Any]] | None = None,
    ) -> list[Ended]:
        """One case: process `start` (default: all) of `count` runs `ACTIONS[action](settings)`, with `each`'s own.

        Or, as the action "script", the `script` that the settings name, with their `flags`. `version`: of the package.
        `environment`: variables of it.

        The processes `to` get the signal `send` when the folder when[0] holds when[1] files more than at first.
        `of` is what each is told instead of `count`.
        """
        started = list(range(count)) if start is None else list(start)
        counts = list(of) if of else [count] * len(started)
        flags_of = [
            [f"--coordinator=127.0.0.1:{port or free_port()}", f"--num_processes={n}", f"--process_id={process}"]
            for process, n in zip(started, counts, strict=True)
        ]
        if port is None:
            flags_of = [[flags_of[0][0], *rest] for _, *rest in flags_of]
        if count == 1:
            flags_of = [["--num_processes=1"]]
        case = {
            "action": action,
            "settings": [{**settings, **own} for own in each or [{}] * len(started)],
            "flags": [[*own, *flags] for own in flags_of],
            "send": send,
            "to": [started.index(process) for process in to],
            "when": when,
        }
        assert self._server.stdin and self._server.stdout
        print(json.dumps(case), file=self._server.stdin, flush=True)
        return [Ended(**ended) for ended in json.loads(self._server.stdout.readline())]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def files_of(store: Path) -> dict[str, bytes]:
    """Of a feature store: name -> bytes, but for locks and what a killed writer leaves half-written."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(".__lock") and name != ".lock"}


def _serve() -> None:
    import numpy  # noqa: F401
    import tiny_model  # noqa: F401

    from transfer.store import writer  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_case(json.loads(line))), flush=True)


def _case(case: dict[str, Any]) -> list[dict[str, Any]]:
    folder, more = case["when"] or ("", 0)
    wanted = _count(folder) + more
    given = zip(case["settings"], case["flags"], strict=True)
    children = [_start(case["action"], settings, flags) for settings, flags in given]
    running = dict(enumerate(children))
    ended: dict[int, dict[str, Any]] = {}
    begun = since = time.monotonic()
    waiting = bool(case["send"])
    while running:
        if waiting and _count(folder) >= wanted:
            waiting, since = False, time.monotonic()
            for index in case["to"]:
                if index in running:
                    os.kill(running[index][0], case["send"])
        for index, (pid, out, err) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[index]
                texts = [_read(file) for file in (out, err)]
                seconds = time.monotonic() - since
                ended[index] = dict(code=os.waitstatus_to_exitcode(status), out=texts[0], err=texts[1], seconds=seconds)
        if all(_is_stopped(pid) for pid, _, _ in running.values()) or time.monotonic() - begun > SECONDS:
            for pid, _, _ in running.values():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return [ended[index] for index in range(len(children))]


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _read(file: int) -> str:
    size = os.lseek(file, 0, os.SEEK_END)
    text = os.pread(file, size, 0).decode(errors="replace")
    os.close(file)
    return text


def _count(folder: str) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _start(action: str, settings: dict[str, Any], flags: Sequence[str]) -> tuple[int, int, int]:
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    pid = os.fork()
    if pid:
        return pid, out, err
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 1
    try:
        _main(action, settings, flags)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main(action: str, settings: dict[str, Any], flags: Sequence[str]) -> None:
    from transfer.cli import scripts
    from transfer.runtime import distribution

    distribution.VERSION = settings.get("version", distribution.VERSION)
    os.environ.update(settings.get("environment", {}))
    if action == "script":
        sys.argv = [settings["script"], *flags, *settings["flags"]]
        importlib.import_module(f"transfer.cli.{Path(settings['script']).stem}").main()
    sys.argv = [action, *flags]
    if "devices" in settings:
        import jax

        jax.config.update("jax_num_cpu_devices", settings["devices"])

    def run() -> None:
        scripts.prepare_jax()
        ACTIONS[action](settings)

    scripts.run(run, scripts.Config("train", ""))


def extract(settings: dict[str, Any]) -> None:
    """Features of `rows` generated images, or of `spec`, by a tiny model into `store`; `devices` of this process.

    Where `shards` says how large they are, the store has some, each written when it is whole.
    """
    from tiny_model import RECIPE, TinyModel, TinySource

    from transfer.data import open_source
    from transfer.extract import Extractor, extract_to_store
    from transfer.store import sizes

    if "shards" in settings:
        sizes.of_shards = lambda *_: settings["shards"]
    given = {"rows": 21, "broken": (), "seconds": 0.0, "on_error": "raise", "batch_size": 4, **settings}
    source: Any = TinySource(rows=given["rows"], broken=given["broken"], seconds=given["seconds"])
    if "spec" in given:
        source = open_source(given["spec"])
        source.read = lambda *where, read=source.read: time.sleep(given["seconds"]) or read(*where)
    taps, batch_size = ["pre_logits", "block1"], given["batch_size"]
    extractor = Extractor(TinyModel(), tap=taps, batch_size=batch_size, preprocessing=RECIPE)
    store = extract_to_store(extractor, source, given["store"], on_error=given["on_error"])
    print(f"{len(store)} rows")
    if "devices" in settings:
        print(extractor.program.mesh.size, "devices")


def list_images(settings: dict[str, Any]) -> None:
    """Opens `images` in the folder that is this process', prints how often it asked for a folder, and reads them."""
    from transfer.data import open_source
    from transfer.runtime import distributed

    os.chdir(settings["folders"][distributed.process_index()])
    asked: list[Any] = []
    sys.addaudithook(lambda event, given: asked.append(given) if event == "os.scandir" else None)
    source: Any = open_source("folder:images")
    print(f"asked {len(asked)} times: {len(source)} {source.fingerprint}", file=sys.stderr)
    for row in range(len(source)):
        source.read(row)


def extract_many(settings: dict[str, Any]) -> None:
    """`rows` images of a source that holds nothing for each; prints the most memory that the process had, KiB."""
    import resource

    from tiny_model import RECIPE, MadeSource, TinyModel

    from transfer.extract import Extractor, extract_to_store

    extractor = Extractor(TinyModel(), batch_size=256, preprocessing=RECIPE)
    assert len(extract_to_store(extractor, MadeSource(settings["rows"]), settings["store"]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def steps(settings: dict[str, Any]) -> None:
    """Goes through a loop in step, some processes slower than others, and prints where it stopped.

    And where JAX's own signal, which Orbax follows, says so.
    """
    import random

    from jax.experimental import multihost_utils

    from transfer.runtime import distributed, preemption

    random.seed(distributed.process_index())
    told: dict[str, int] = {}
    for step in range(10_000):
        distributed.barrier("step")
        if step == 5:
            Path(settings["folder"], str(distributed.process_index())).touch()
        time.sleep(random.random() * 0.02)
        if preemption.stop_at(step):
            told.setdefault("stop", step)
        if multihost_utils.reached_preemption_sync_point(step):
            told.setdefault("jax", step)
        if len(told) == 2:
            break
    everywhere = distributed.any_of(distributed.process_index() == 1, "anywhere"), distributed.any_of(False, "anywhere")
    print(told, everywhere, distributed.broadcast(told, "told"), preemption.requested(), file=sys.stderr)
    raise preemption.Preempted()


def told_by_jax(settings: dict[str, Any]) -> None:
    """One process tells JAX of a preemption, as another notifier than ours would; all get to know."""
    from jax._src.distributed import global_state

    from transfer.runtime import distributed, preemption

    if distributed.process_index() == 1:
        global_state.client.key_value_set("RECEIVED_PREEMPTION_NOTICE", "2030-01-01T00:00:00+00:00")
    while not preemption.requested():
        time.sleep(0.01)
    raise preemption.Preempted()


def save(settings: dict[str, Any]) -> None:
    """Waits until it is asked to stop, then saves, or does not: `fates` has what each process does, and its delay."""
    from transfer.runtime import distributed, preemption

    Path(settings["folder"], str(distributed.process_index())).touch()
    while not preemption.requested():
        time.sleep(0.01)
    fate, seconds = settings["fates"][distributed.process_index()]
    time.sleep(seconds)
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "no room":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if fate == "saved":
        raise preemption.Preempted


def head(settings: dict[str, Any]) -> None:
    """Trains a head on two feature files."""
    import head_runs

    head_runs.train(settings)


def wait(settings: dict[str, Any]) -> None:
    """Does nothing for longer than any test waits."""
    from transfer.runtime import distributed

    Path(settings["folder"], str(distributed.process_index())).touch()
    time.sleep(10 * SECONDS)


def silent(settings: dict[str, Any]) -> None:
    """Goes through a loop until all agree to stop; process 1 stops answering as soon as all are in the loop."""
    from transfer.runtime import distributed, preemption

    distributed.barrier("in the loop")
    if distributed.process_index() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.3)
    Path(settings["folder"], str(distributed.process_index())).touch()
    while not preemption.stop_at(0):
        time.sleep(0.01)
    raise preemption.Preempted


def endless(settings: dict[str, Any]) -> None:
    """Begins a computation that does not end, as one of an hour, and waits for it in C++, or `asked` ends as asked.

    Python handles no signal while it waits.
    """
    import jax

    from transfer.runtime import distributed, preemption

    begun = jax.jit(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: jax.numpy.sin(y @ y), x))
    result = begun(jax.numpy.ones((300, 300)))
    preemption.begin()
    Path(settings["folder"], str(distributed.process_index())).touch()
    if not settings["asked"]:
        result.block_until_ready()
    while not preemption.requested():
        time.sleep(0.01)
    raise preemption.Preempted


def nothing(settings: dict[str, Any]) -> None:
    """Meets the others and leaves."""


ACTIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    action.__name__: action
    for action in (endless, extract, extract_many, head, list_images, nothing, save, steps, silent, told_by_jax, wait)
}

if __name__ == "__main__":
    _serve()
