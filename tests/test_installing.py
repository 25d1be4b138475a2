"""What the package is installed as, and what pages, messages and scripts say about that: no other project's name."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import transfer
from transfer.bench import target
from transfer.cli import verbs
from transfer.runtime import distribution
from transfer.runtime.distribution import install_hint

REPOSITORY = Path(__file__).parent.parent
# Whatever lists packages to install, up to the end of the command; continued lines and Dockerfile's too.
INSTALLS = re.compile(
    r"""\b(?: pip[\d.]*\b (?:\s+-\S+)* \s+ (?:install|download|wheel)      # pip, pip3, python -m pip, uv pip, %pip
          | pipx \s+ (?:install|run) | uv \s+ (?:add|tool \s+ install) | uvx | poetry \s+ add )
        (?P<rest> (?: \\\r?\n | [^\n;&|`] )* )""",
    re.VERBOSE,
)
# The package by its import's name: alone, with extras, a version or a URL; no path, no option's value, no word in it.
OURS = re.compile(
    r"""(?<![\w./:=@-]) ['"\\]* transfer (?: \[[^\]]*\] )? (?: [=<>~!]=? [\w.*]+ )? (?= ["'\\\s,.)] | $ )""", re.VERBOSE
)


def advice(text: str) -> list[str]:
    """The commands in a text that would install `transfer` from PyPI."""
    return [found[0] for found in INSTALLS.finditer(text) if OURS.search(found["rest"])]


@pytest.mark.parametrize(
    "text",
    [
        "pip install transfer",
        "`pip install 'transfer[plots]'`",
        'pip install "transfer[onnx]"',
        "pip install transfer[onnx,plots]",
        "f\"pip install 'transfer[{extra}]' adds\"",
        "pip3 install -U transfer",
        "python -m pip install --upgrade --quiet transfer",
        "uv pip install transfer",
        "%pip install transfer",
        "uv add transfer",
        "pip install jax transfer",
        "pip install transfer==0.1.0",
        "pip install 'transfer>=0.1'",
        "pip install \\\n    --no-cache-dir transfer",
        'pip install \\"transfer[tpu]\\"',
        "run pip install transfer.",
        "pipx install transfer",
    ],
)
def test_advice_is_found(text: str) -> None:
    assert advice(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install -e .",
        "pip install -e '.[plots]'",
        "pip install -e . && transfer doctor",
        "pip install ./transfer",
        "pip install 'jax[tpu]'; python -m transfer bench",
        "`pip install -e .` and then `transfer doctor`",
        "pip install transferable",
        "pip install nice-transfer",
        "COPY transfer transfer",
    ],
)
def test_other_commands_are_not(text: str) -> None:
    assert not advice(text)


def setup() -> configparser.ConfigParser:
    """What setup.cfg says."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def test_name_and_version_are_the_same_everywhere() -> None:
    assert setup()["metadata"]["name"] == distribution.NAME != "transfer"
    assert setup()["metadata"]["version"] == f"attr: {distribution.__name__}.VERSION"
    assert transfer.__version__ == distribution.VERSION
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (distribution.VERSION, setup()["metadata"]["license"])


def test_the_version_is_read_where_nothing_is_installed() -> None:
    """As whoever builds the package does: in an environment that has no more than setuptools."""
    code = (
        f"import sys; sys.path.append({str(REPOSITORY)!r}); import {distribution.__name__} as one; print(one.VERSION)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{distribution.VERSION}\n", "")


def test_messages_name_extras_that_there_are() -> None:
    sources = "".join(path.read_text() for path in (REPOSITORY / "transfer").rglob("*.py"))
    named = {*re.findall(r"install_hint\([\"'](\w+)", sources), *(extra for _, extra in target.EXTRAS.values())}
    assert {"onnx", "plots"} <= named <= set(setup()["options.extras_require"])
    assert not any(map(advice, map(install_hint, named)))


def test_what_a_build_of_the_site_leaves_is_ignored() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert {"/docs/_build/", "/docs/jupyter_execute/"} <= set(ignored)  # myst-nb writes the second beside the site


def test_nothing_advises_another_project() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if path == Path(__file__).resolve() or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{name}: {each}" for each in advice(content.decode("utf-8", "replace"))]
    assert not found


def test_the_plain_install_is_tried_with_every_verb() -> None:
    """`.ci/run` tries each after its first command, before what tests need is installed."""
    tried = (REPOSITORY / ".ci/plain").read_text()
    verbs_tried = {match for match in re.findall(r"\btransfer (\w+)", tried) if match in verbs.ALL}
    assert verbs_tried == verbs.ALL.keys()
    assert all(f"python {script}.py" in tried for script in ("extract", "train", "examples/predict_exported"))
    steps = [line for line in (REPOSITORY / ".ci/run").read_text().splitlines() if line.startswith((".ci", "pip"))]
    first = [step.split(" && ")[0] for step in steps[:3]]
    assert first == ["pip install -e .", ".ci/plain", "pip install -e '.[test]'"]
