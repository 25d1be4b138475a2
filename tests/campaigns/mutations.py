"""Changes one token of the package at a time, and counts how many of the changes the tests about that file notice.

    python -m tests.campaigns.mutations --mutations=300 --processes=2 --output=benchmarks/reliability/mutations.json

A *mutation* is an operator, a comparison, a `not`, a number, a truth value or a short string (an option, a key, a byte
order) of `transfer/` that becomes another. Each is made in a copy of the tracked files, and held if a test about it
failed: first the fast tests that run its line, the quickest first (which tests run which line is measured once, in
`.pytest_cache/`, by pytest-cov of the extra `dev`), then all those that import the file's module or bear its name. What
survives is in `failures`, with its line; of those, the ones that change nothing that can be observed are listed in
`equivalents.py`, with the reason, and are counted apart.

`--files=transfer/store/*` takes fewer files, `--only=PATH:LINE:COLUMN` a single mutation, to see what notices it.
"""

import argparse
import ast
import fnmatch
import hashlib
import io
import itertools
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.campaigns.equivalents import EQUIVALENT
from tests.campaigns.figures import REPOSITORY, Figures

# How long the tests of one mutation may take, in the end and as measured without one.
SECONDS, SECONDS_OF_TESTS, MOST_TESTS = 600, 60.0, 200
CACHE = REPOSITORY / ".pytest_cache" / "mutations"
PYTEST = (sys.executable, "-m", "pytest")
# Tests run in processes forked from one that has the libraries: to import those takes longer than most tests.
FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = (
    "numpy scipy.stats sklearn.linear_model jax flax.nnx optax orbax.checkpoint PIL.Image h5py hypothesis pytest"
)
# Where a mutation is made, and what it may become. Comparisons move by one or turn round.
OPERATORS = {
    **{"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "*", "**": "*", "@": "*", "<<": ">>", ">>": "<<"},
    **{"&": "|", "|": "&", "^": "&", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    **{"and": "or", "or": "and", "in": "not in", "is": "is not"},
}
SHORT_STRING = re.compile(r"[\w<>=|.:/-]{1,12}")


@dataclass(frozen=True)
class Mutation:
    """One token of a file that becomes another: bytes `start` to `stop` of the line."""

    path: str
    line: int
    start: int
    stop: int
    before: str
    after: str

    def applied(self, source: str) -> str:
        """The source of the file with the mutation in it."""
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1].encode()
        lines[self.line - 1] = (line[: self.start] + self.after.encode() + line[self.stop :]).decode()
        return "".join(lines)

    def described(self, source: str) -> str:
        """Where it is and what it does."""
        return f"{self.path}:{self.line}:{self.start}: {source.splitlines()[self.line - 1].strip()} [{self.name}]"

    @property
    def name(self) -> str:
        """The token before and after."""
        return f"{self.before} -> {self.after}"

    def equivalent(self, source: str) -> str | None:
        """The reason for which nothing can notice it; None for most."""
        line = source.splitlines()[self.line - 1].strip()
        return next(
            (why for text, name, why in EQUIVALENT.get(self.path, ()) if (text, name) == (line, self.name)), None
        )


def mutations(path: str, source: str) -> list[Mutation]:
    """Every mutation of a file, in the order of its lines."""
    tree = ast.parse(source)
    ignored = {id(inner) for node in ast.walk(tree) for part in _ignored(node) for inner in ast.walk(part)}
    operators = {
        (token.start[0], len(token.line[: token.start[1]].encode())): token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.string in OPERATORS or token.string == "not"
    }
    found = []
    for node in ast.walk(tree):
        if id(node) not in ignored:
            found += [Mutation(path, *place) for place in _places(node, operators)]
    lines = source.splitlines()
    kept = {
        mutation
        for mutation in found
        if lines[mutation.line - 1].encode()[mutation.start : mutation.stop].decode() == mutation.before
    }
    return sorted(kept, key=lambda mutation: (mutation.line, mutation.start))


def _ignored(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that nothing observes: annotations, decorators, docstrings, the text of messages.

    Nor zip's `strict`, an assertion, and reshape's -1, for which NumPy takes any negative number.
    """
    for name in ("annotation", "returns"):
        if getattr(node, name, None) is not None:
            yield getattr(node, name)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node
    if isinstance(node, ast.JoinedStr):
        yield from node.values
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield from node.decorator_list
    if isinstance(node, ast.Call):
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "strict")
        if getattr(node.func, "attr", None) == "reshape":
            yield from (argument for argument in node.args if isinstance(argument, ast.UnaryOp))
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        yield node
    if isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets):
        yield node


def _places(node: ast.AST, operators: dict[tuple[int, int], str]) -> Iterator[tuple[int, int, int, str, str]]:
    """(line, start, stop, before, after) of a node's own token."""

    def between(left: ast.expr, right: ast.expr) -> Iterator[tuple[int, int, int, str, str]]:
        first, last = (left.end_lineno, left.end_col_offset), (right.lineno, right.col_offset)
        for (line, start), text in operators.items():
            if first <= (line, start) < last and text in OPERATORS:
                yield line, start, start + len(text), text, OPERATORS[text]

    if isinstance(node, ast.BinOp):
        yield from between(node.left, node.right)
    elif isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from between(left, right)
    elif isinstance(node, ast.Compare):
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            if not any(text == "not" for at, text in operators.items() if _within(at, left, right)):
                yield from between(left, right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.lineno, node.col_offset, node.col_offset + 4, "not ", ""
    elif isinstance(node, ast.Constant) and node.lineno == node.end_lineno:
        text = repr(node.value)
        yield from (
            (node.lineno, node.col_offset, node.end_col_offset or 0, before, after)
            for before, after in _constants(node.value, text)
        )


def _within(at: tuple[int, int], left: ast.expr, right: ast.expr) -> bool:
    return (left.end_lineno or 0, left.end_col_offset or 0) <= at < (right.lineno, right.col_offset)


def _constants(value: object, text: str) -> Iterator[tuple[str, str]]:
    """(before, after) of a constant, as its source may write it."""
    if isinstance(value, bool):
        yield text, str(not value)
    elif isinstance(value, int):
        yield text, str(value + 1)
    elif isinstance(value, float):
        yield text, repr(value * 2 + 1)
    elif isinstance(value, str) and SHORT_STRING.fullmatch(value):
        yield f'"{value}"', f'"{"<" if value == ">" else ">" if value == "<" else value + "x"}"'


@dataclass(frozen=True)
class Tests:
    """Which fast tests run which line of the package, and how long each takes.

    Attributes:
      lines: path of the package -> line -> tests, as pytest names them.
      seconds: of each test.
    """

    lines: Mapping[str, Mapping[int, Sequence[str]]]
    seconds: Mapping[str, float]

    @classmethod
    def measured(cls, folder: Path) -> "Tests":
        """Runs the fast tests once in the copy of the files in `folder`; the next time nothing has to be run."""
        import coverage

        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        data = CACHE / f"{commit.stdout.strip()}.coverage"
        log, settings = data.with_suffix(".log"), data.with_suffix(".ini")
        if not data.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            part = data.with_suffix(".part")
            settings.write_text(f"[run]\nsource = transfer\ndata_file = {part}\n")
            options = ["--cov=transfer", "--cov-context=test", f"--cov-config={settings}", "--cov-report="]
            with log.open("wb") as output:
                command = [*PYTEST, "-m", "not slow", "-vv", "--durations=0", "--durations-min=0", *options]
                subprocess.run(command, cwd=folder, env=environment(folder), stdout=output, check=False)
            part.rename(data)
        measured = coverage.CoverageData(str(data))
        measured.read()
        lines = {}
        for file in measured.measured_files():
            by_line = measured.contexts_by_lineno(file).items()
            path = file[file.index("/transfer/") + 1 :] if "/transfer/" in file else file
            lines[path] = {line: sorted({c.rpartition("|")[0] for c in names if c}) for line, names in by_line}
        timed = re.findall(r"^(\d+\.\d+)s (?:call|setup) +(\S.*)$", log.read_text("utf-8", "replace"), re.MULTILINE)
        seconds = {test: 0.0 for _, test in timed}
        for duration, test in timed:
            seconds[test] += float(duration)
        return cls(lines, seconds)

    def running(self, mutation: Mutation) -> list[str]:
        """The tests that run a mutation's line, or, of a line that runs when its file is imported, that run the file.

        The quickest first, those about the file before others; as many as fit into `SECONDS_OF_TESTS`.
        """
        by_line = self.lines.get(mutation.path, {})
        tests = by_line.get(mutation.line) or sorted({test for names in by_line.values() for test in names})
        about = tests_about(mutation.path)
        tests = sorted(tests, key=lambda test: (test.partition("::")[0] not in about, self.seconds.get(test, 1.0)))
        sums = itertools.accumulate(self.seconds.get(test, 1.0) for test in tests)
        return [test for test, total in zip(tests, sums, strict=True) if total < SECONDS_OF_TESTS][:MOST_TESTS]


@cache
def sources_of_tests() -> dict[str, str]:
    """Path -> source of every test file."""
    paths = tracked("tests")
    return {path: (REPOSITORY / path).read_text("utf-8") for path in paths if Path(path).name.startswith("test_")}


def tracked(*folders: str) -> list[str]:
    """The files that git tracks."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if path.endswith(".py")]


def tests_about(path: str) -> list[str]:
    """The test files that import a file's module or bear its name; a private module is its package's."""
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    if name.startswith("_"):
        module, (package, _, name) = package, package.rpartition(".")
    imports = re.compile(
        rf"(import|from) {re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{re.escape(name)}\b"
    )
    sources = sources_of_tests().items()
    return [test for test, source in sources if imports.search(source) or Path(test).stem == f"test_{Path(path).stem}"]


def noticed(folder: Path, mutation: Mutation, tests: Tests) -> str | None:
    """What notices a mutation, made in the copy of the files in `folder`; None where no test does."""
    running, about = tests.running(mutation), tests_about(mutation.path)
    groups = {f"of {len(running)} tests that run the line": running, f"of {len(about)} files about it": about}
    return failing(folder, mutation, groups)


def failing(folder: Path, mutation: Mutation, groups: Mapping[str, Sequence[str]]) -> str | None:
    """The first failure in the copy with the mutation, by the name of its group of tests; None where none fails."""
    file = folder / mutation.path
    source = file.read_text("utf-8")
    file.write_text(mutation.applied(source), "utf-8")
    try:
        failures = ((name, _failure(folder, tests)) for name, tests in groups.items() if tests)
        return next((f"{failure} {name}" for name, failure in failures if failure), None)
    finally:
        file.write_text(source, "utf-8")


def _failure(folder: Path, tests: Sequence[str]) -> str | None:
    """The first of the fast tests that fails in the copy of the files; None where none does."""
    with tempfile.NamedTemporaryFile() as log:
        process = FORKS.Process(target=_run, args=(str(folder), list(tests), log.name))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            assert process.pid  # 0 would be this process' own group
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return "a test that does not end"
        if process.exitcode in (0, 5):  # 5: no test
            return None
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", Path(log.name).read_text("utf-8", "replace"), re.MULTILINE)
    return next(iter(failed), f"exit code {process.exitcode}")


def _run(folder: str, tests: list[str], log: str) -> None:
    """Runs pytest on the copy of the files, in a process that has just been forked from one with the libraries."""
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    os.environ.update(environment(Path(folder)))
    sys.dont_write_bytecode = True
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", folder, str(REPOSITORY)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "transfer")]:
        del sys.modules[name]  # of the files that are not changed
    import pytest

    code = pytest.main(["-x", "-n", "0", "-m", "not slow", "--disable-warnings", "-rfE", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def environment(folder: Path) -> dict[str, str]:
    """Of a process that tests the copy of the files in `folder`."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def copied(folder: Path) -> Path:
    """A copy of the tracked files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def drawn(files: str, seed: int) -> list[Mutation]:
    """Mutations of the files, in an order that the seed and the text of their lines decide.

    So most of a sample stays the same as the package changes, and tests that were written for it can be counted.
    """
    keyed: dict[str, Mutation] = {}
    for path in tracked("transfer"):
        if fnmatch.fnmatch(path, files):
            source = (REPOSITORY / path).read_text("utf-8")
            lines = source.splitlines()
            for each in mutations(path, source):
                text = f"{seed} {path} {lines[each.line - 1].strip()} {each.name}"
                keyed.setdefault(hashlib.sha256(text.encode()).hexdigest(), each)
    return [keyed[key] for key in sorted(keyed)]


def main() -> None:
    """Runs the campaign, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--files", default="transfer/*", help="pattern of paths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", help="PATH:LINE:COLUMN of one mutation, as `failures` has it")
    parser.add_argument("--output", default="mutations.json", type=Path)
    options = parser.parse_args()
    # all copies share their compiled programs
    os.environ.update(JAX_COMPILATION_CACHE_DIR=str(CACHE / "compiled"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    FORKS.set_forkserver_preload(LIBRARIES.split())
    if options.only:
        path, line, column = options.only.split(":")
        source = (REPOSITORY / path).read_text("utf-8")
        (one,) = (m for m in mutations(path, source) if (m.line, m.start) == (int(line), int(column)))
        with tempfile.TemporaryDirectory() as folder:
            copy = copied(Path(folder))
            print(one.described(source), "->", noticed(copy, one, Tests.measured(copy)) or "nothing notices it")
        return
    figures = Figures(options.output, "mutations", options.mutations, options.seed)
    todo = drawn(options.files, options.seed)[figures.steps : options.mutations]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.processes) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.processes):
            copies.put(copied(Path(folder) / str(number)))
        tests = Tests.measured(Path(folder) / "0")

        def tried(mutation: Mutation) -> str | None:
            copy = copies.get()
            try:
                return noticed(copy, mutation, tests)
            finally:
                copies.put(copy)

        # in their order, by one thread: a campaign that is cut off goes on after the last that is counted
        for mutation, found in zip(todo, pool.map(tried, todo), strict=True):
            source = (REPOSITORY / mutation.path).read_text("utf-8")
            reason = None if found else mutation.equivalent(source)
            room = "/".join(mutation.path.split("/")[1:2])
            failure = None if found else mutation.described(source) + (f" equivalent: {reason}" if reason else "")
            figures.add(room, 1, int(found is not None), failure, equivalent=int(reason is not None))
            print(f"{figures.held} of {figures.done}", found or failure, flush=True)


if __name__ == "__main__":
    main()
