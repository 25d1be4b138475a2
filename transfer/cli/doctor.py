"""`python -m transfer doctor`: the state of this machine for the package, and what is wrong, in plain words.

A function for each check; none of them changes anything on the machine.
"""

import argparse
import configparser
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transfer.cli import doctor_jax
from transfer.cli.doctor_jax import Examined, Problem, size
from transfer.cli.main import Action
from transfer.errors import TransferError
from transfer.runtime import distribution, tables
from transfer.runtime.cache import cache_dir
from transfer.runtime.distribution import install_hint
from transfer.runtime.memory import available_memory, host_memory

SETUP = Path(__file__).parents[2] / "setup.cfg"
NETWORK = "network"
OLDEST_PYTHON = (3, 11)
# Below this, a machine runs out of memory, or its disk fills up, in what the guides do.
LITTLE_MEMORY, LITTLE_DISK = 2e9, 2e9
# A store of features has a file open for each chunk that is written.
FEW_FILES = 512
NETWORK_SECONDS = 4.0
# Environment variables that change what a run does.
VARIABLES = (
    "TRANSFER_CACHE",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PLATFORMS",
    "JAX_NUM_CPU_DEVICES",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "OMP_NUM_THREADS",
)
# May hold passwords: that they are set is said, not to what.
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy")


def python() -> Examined:
    """The interpreter, and where the package lies."""
    problems = []
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        problems.append(Problem(f"Python {platform.python_version()} is too old; use {wanted} or newer", fatal=True))
    if sys.getfilesystemencoding().lower() != "utf-8":
        problems.append(Problem("names of files are not read as UTF-8; set LC_ALL=C.UTF-8"))
    facts = {
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "transfer": f"{distribution.VERSION} ({Path(__file__).parents[1]})",
    }
    return Examined(facts, problems)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages() -> Examined:
    """The version of every package that is needed, and whether it will do."""
    from packaging.requirements import Requirement

    facts, problems = {}, []
    listed = _listed()
    if not listed:
        text = "transfer is not installed, so what it needs is not known; run: pip install -e . in its repository"
        return Examined({}, [Problem(text)])
    for text in listed:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        facts[wanted.name] = version or "missing"
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            wrong = "is not installed" if version is None else f"{version} is not {wanted.specifier}"
            fix = f"run: pip install '{wanted.name}{wanted.specifier}'"
            problems.append(Problem(f"{wanted.name} {wrong}; {fix}", fatal=True))
    return Examined(facts, problems)


def extras() -> Examined:
    """The optional packages, by extra."""
    facts: dict[str, str] = {}
    listed = _listed()
    for extra in dict.fromkeys(re.findall(r"""\bextra == ["']([\w-]+)""", "\n".join(listed))):
        missing = sorted({name for name in _of_extra(listed, extra) if _version(name) is None})
        facts[extra] = f"{install_hint(extra)} adds {', '.join(missing)}" if missing else "installed"
    return Examined(facts, [])


def _listed() -> list[str]:
    """The requirements of this package and of its extras, as metadata write them: of the clone, else as installed.

    A clone may be used without being installed, and its list may be newer than its installation.
    """
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    if setup.get("metadata", "name", fallback=None) != distribution.NAME:
        return (importlib.metadata.requires(distribution.NAME) or []) if _version(distribution.NAME) else []
    listed = setup["options"]["install_requires"].strip().splitlines()
    for extra, lines in setup["options.extras_require"].items():
        for line in lines.strip().splitlines():
            name, _, marker = line.partition(";")
            listed.append(f"{name}; {f'({marker}) and ' if marker else ''}extra == '{extra}'")
    return listed


def _of_extra(listed: Sequence[str], extra: str) -> Iterator[str]:
    """The packages that an extra adds to a list, those of extras that it names (`jax[tpu]`) too."""
    from packaging.requirements import Requirement

    for text in listed:
        wanted = Requirement(text)
        if wanted.marker and wanted.marker.evaluate({"extra": extra}) and not wanted.marker.evaluate({"extra": ""}):
            yield wanted.name
            for inner in wanted.extras if _version(wanted.name) else ():
                yield from _of_extra(importlib.metadata.requires(wanted.name) or [], inner)


def machine() -> Examined:
    """The cores, the memory and the number of files that may be open."""
    cores, memory, free = len(os.sched_getaffinity(0)), host_memory(), available_memory()
    free = memory if free is None else free
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    facts = {
        "cores": f"{cores} of {os.cpu_count()}",
        "memory": f"{size(memory)}, {size(free)} of it free",
        "open files": "any number" if files == resource.RLIM_INFINITY else f"{files} at most",
    }
    problems = []
    if free < LITTLE_MEMORY:
        text = f"only {size(free)} of memory are free; end other programs, or lower --config.batch_size"
        problems.append(Problem(text))
    if 0 <= files < FEW_FILES:
        problems.append(Problem(f"only {files} files may be open at a time; run: ulimit -n 4096"))
    return Examined(facts, problems)


def folders() -> Examined:
    """The folders of weights, compiled programs and runs: how much is in them, and how much more has room."""
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_dir() / "compiled")
    places = (
        ("weights", cache_dir(), "set TRANSFER_CACHE to a folder that can be written"),
        ("compiled programs", compiled, "set JAX_COMPILATION_CACHE_DIR to a folder that can be written"),
        ("runs (here)", Path("runs").absolute(), "name another with --workdir"),
        ("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written"),
    )
    facts: dict[str, str] = {}
    problems = []
    for title, place, fix in places:
        if "://" in str(place):
            facts[title] = f"{place}, not on this machine"
            continue
        path = Path(place)
        parent = next(folder for folder in (path, *path.parents) if folder.exists())
        free, wrong = shutil.disk_usage(parent).free, []
        if not parent.is_dir():
            wrong.append(f"{parent} is not a folder; {fix}")
        elif not os.access(parent, os.W_OK | os.X_OK):
            wrong.append(f"{parent} cannot be written; {fix}")
        if free < LITTLE_DISK:
            wrong.append(f"only {size(free)} free on the disk of {parent}; free some space, or {fix}")
        problems += [Problem(f"{title}: {text}") for text in wrong]
        if path == Path(tempfile.gettempdir()):  # others' files, which are many
            held = "there"
        else:
            held = f"{size(_held(path))} in it" if path.exists() else "not there yet"
        facts[title] = f"{path}: {held}, {size(free)} free{', see below' if wrong else ''}"
    return Examined(facts, problems)


def _held(folder: Path, seconds: float = 2.0) -> int:
    """The bytes of the files in a folder; of those counted within so many seconds, if there are very many."""
    total, end = 0, time.monotonic() + seconds
    for base, _, names in os.walk(folder):
        paths = [os.path.join(base, name) for name in names]
        total += sum(os.lstat(path).st_size for path in paths if os.path.lexists(path))
        if time.monotonic() > end:
            break
    return total


def weights() -> Examined:
    """The weight files that are on this machine."""
    from transfer.weights import cache, catalogue

    records = [catalogue.get(name) for name in catalogue.names("*")]
    there = [record.name for record in records if cache.local_path(record.file).is_file()]
    shipped = {record.name for record in records if record.file.url is None}
    missing = sorted(shipped - set(there))
    text = f"the weights that come with the package are missing ({', '.join(missing)}); install transfer again"
    return Examined(
        {"models in the catalogue": len(records), "on this machine": there}, [Problem(text)] if missing else []
    )


def network() -> Examined:
    """The sources of weights and whether they answer, all asked at once."""
    from transfer.weights import catalogue

    urls = [catalogue.get(name).file.url for name in catalogue.names("*")]
    hosts = sorted({urlsplit(url).netloc for url in urls if url})
    with ThreadPoolExecutor(max(len(hosts), 1)) as pool:
        answers = dict(zip(hosts, pool.map(_answer, hosts), strict=True))
    silent = [host for host, answer in answers.items() if not answer.startswith("answers")]
    if not silent:
        return Examined(dict(answers), [])
    where = "download their weights elsewhere and put them into the weights folder"
    proxy = "; behind a proxy, set HTTPS_PROXY" if not any(map(os.environ.get, PROXIES[:3])) else "; HTTPS_PROXY is set"
    return Examined(dict(answers), [Problem(f"{', '.join(silent)} cannot be reached; {where}{proxy}")])


def _answer(host: str) -> str:
    import requests

    start = time.monotonic()
    try:
        with requests.head(f"https://{host}/", timeout=NETWORK_SECONDS, allow_redirects=False) as response:
            del response  # any answer will do, an error too
    except requests.RequestException as error:
        return f"no answer ({type(error).__name__})"
    return f"answers ({(time.monotonic() - start) * 1000:.0f} ms)"


def environment() -> Examined:
    """Variables that change what a run does, where they are set."""
    facts = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    facts |= {name: "set" for name in PROXIES if name in os.environ}
    return Examined(facts or {"nothing that matters": "is set"}, [])


CHECKS: dict[str, Callable[[], Examined]] = {
    "Python": python,
    "packages": packages,
    "extras": extras,
    "devices": doctor_jax.devices,
    "machine": machine,
    "folders": folders,
    "weights": weights,
    NETWORK: network,
    "environment": environment,
}


def doctor(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `doctor [--json] [--no_network]`; exit code 1 only where the package is unusable."""
    parser.add_argument("--json", action="store_true", help="print one JSON object: facts by title, and the problems")
    parser.add_argument("--no_network", action="store_true", help="do not try to reach the sources of weights")

    def run(options: argparse.Namespace) -> None:
        results = examine(network=not options.no_network)
        wrong = problems(results)
        if options.json:
            facts = {title: result.facts for title, result in results.items()}
            print(json.dumps({**facts, "problems": [problem._asdict() for problem in wrong]}, indent=2))
        else:
            print(_text(results))
        fatal = [problem.text for problem in wrong if problem.fatal]
        if fatal:
            raise TransferError(f"transfer cannot be used here: {fatal[0]}")

    return run


def examine(network: bool = True) -> dict[str, Examined]:
    """Title -> result of every check. Takes seconds: JAX is started in a process of its own, in case it hangs."""
    checks = {title: check for title, check in CHECKS.items() if network or title != NETWORK}
    with ThreadPoolExecutor(len(checks)) as pool:
        futures = {title: pool.submit(_guarded, check) for title, check in checks.items()}
        return {title: future.result() for title, future in futures.items()}


def _guarded(check: Callable[[], Examined]) -> Examined:
    """The result of a check; one that fails says so, and the others go on."""
    try:
        return check()
    except Exception as error:
        return Examined({}, [Problem(f"could not be looked at ({type(error).__name__}: {error})")])


def problems(results: dict[str, Examined]) -> list[Problem]:
    """The problems of all checks, first those that make the package unusable."""
    return sorted((problem for result in results.values() for problem in result.problems), key=lambda p: not p.fatal)


def _text(results: dict[str, Examined]) -> str:
    """The facts by title and the problems, for people."""
    blocks = []
    for title, result in results.items():
        rows = [[f"  {name}", _value(value)] for name, value in result.facts.items()]
        blocks.append("\n".join([title, *([tables.text(rows)] if rows else [])]))
    lines = [f"  {'!!' if problem.fatal else ' !'} {problem.text}" for problem in problems(results)]
    return "\n\n".join([*blocks, "\n".join(["what is wrong", *(lines or ["  nothing"])])])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
