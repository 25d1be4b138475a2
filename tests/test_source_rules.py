"""What the sources may not do: run text as code, load pickles or YAML, fetch over anything but the downloader."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted([*(REPOSITORY / "transfer").rglob("*.py"), REPOSITORY / "train.py", REPOSITORY / "extract.py"])

# Calls that run what they are given, by the name that they are called by. `re.compile` and the like are attributes.
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "pickle.Unpickler"),
    *("marshal.loads", "shelve.open", "joblib.load", "dill.load", "torch.load", "os.system", "os.popen"),
    *("archive.extractall", "archive.extract", "tarfile.extractall", "shutil.unpack_archive", "tempfile.mktemp"),
    *("urllib.request.urlopen", "urllib.request.urlretrieve", "requests.get", "requests.post", "np.fromfile"),
}
# file -> the calls that it may make all the same, and why
ALLOWED = {
    "transfer/weights/download.py": {"requests.get"},  # https alone, within limits
    # the published script, timed on files that the benchmark has just written
    "transfer/bench/logistic_script.py": {"pickle.load"},
}


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call, and the dotted name that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    allowed = ALLOWED.get(path.relative_to(REPOSITORY).as_posix(), set())
    for call, name in calls(tree):
        assert name not in BUILTINS and (name in allowed or name not in CALLS), f"line {call.lineno}: {name}"
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if "shell" in keywords:
            assert ast.unparse(keywords["shell"]) == "False", f"line {call.lineno}: a shell"
        if name.endswith("np.load") or name.endswith("read_array"):
            refuses = ast.unparse(keywords.get("allow_pickle", ast.Constant(None))) == "False"
            assert refuses or "bench" in path.parts, f"line {call.lineno}: {name} without allow_pickle=False"


def test_pickles_are_loaded_in_one_place() -> None:
    """Names of `pickle` that load are used by the restricted machine alone, and tar and zip files by their readers."""
    users: dict[str, set[str]] = {"_Unpickler": set(), "tarfile": set(), "ZipFile": set()}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            for name in users.keys() & set(names):
                users[name].add(path.relative_to(REPOSITORY / "transfer").as_posix())
    assert users == {
        "_Unpickler": {"runtime/files/unpickler.py"},
        "tarfile": {"runtime/files/tars.py"},
        "ZipFile": {"runtime/files/archives.py"},
    }


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone, and takes the second for the first."""
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
