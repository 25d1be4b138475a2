"""What `pip install -e .` alone brings is enough for all that needs no extra, and what needs one names it."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import plain_install
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted(
    {*(REPOSITORY / "transfer").rglob("*.py"), *(REPOSITORY / "configs").glob("*.py")}
    | {REPOSITORY / "train.py", REPOSITORY / "extract.py"}
)
# What is imported -> the distribution, where that has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
}
# What only an extra brings -> the extras; Keras is also offered by its own name.
OPTIONAL = {
    "aiohttp": ("gs",),
    "datasets": ("hf",),
    "google": ("onnx",),
    "huggingface_hub": ("hub",),
    "keras": ("peers", "test"),
    "onnx": ("onnx",),
    "onnxruntime": ("peers",),
    "pillow_heif": ("heic",),
    "pynvml": ("energy",),
    "openvino": ("peers",),
    "torch": ("peers",),
    "torchvision": ("peers",),
    "vl_convert": ("plots",),
}
# `google.protobuf` comes with onnx and with TensorFlow Datasets, `aiohttp` with gcsfs, and they are used beside them.
BROUGHT = {
    "aiohttp": "gcsfs",
    "google": "onnx",
    "huggingface_hub": "huggingface-hub",
    "pillow_heif": "pillow-heif",
    "pynvml": "nvidia-ml-py",
    "vl_convert": "vl-convert-python",
}
# Modules whose imports at the top are what an extra brings: they are imported by the functions that say so.
ONLY_WITH_AN_EXTRA = ("transfer.bench.peer_torch",)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, first name) of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module.partition(".")[0]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_every_import_is_a_requirement_or_of_an_extra():
    needed, used = names(plain_install.declared()), set()
    for path in SOURCES:
        for line, name in imports(path):
            if name in sys.stdlib_module_names or name == "transfer":
                continue
            used.add(name)
            found = canonicalize_name(DISTRIBUTIONS.get(name, name))
            assert found in needed or name in OPTIONAL, f"{path}:{line}: {name} is in no requirement of setup.cfg"
    assert used >= OPTIONAL.keys()
    for name, extras in OPTIONAL.items():
        for extra in extras:
            assert BROUGHT.get(name, name) in names(plain_install.declared(extra))


def plain(code: str, folder: Path, requirements: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `code` where only the requirements (default: the package's own) can be imported, and `transfer`."""
    begin = f"import plain_install; plain_install.only({requirements or plain_install.declared()!r}, 'transfer')\n"
    path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests" / "support")))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", begin + code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


IMPORTING = """
import importlib, json, pkgutil, transfer
failed = {}
for module in pkgutil.walk_packages(transfer.__path__, "transfer."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = error.name
print(json.dumps(failed))
"""


@pytest.mark.slow
def test_every_module_is_imported_by_the_requirements_alone(tmp_path):
    done = plain(IMPORTING, tmp_path)
    assert done.returncode == 0, done.stderr
    for module, name in json.loads(done.stdout.splitlines()[-1]).items():
        assert module.startswith(ONLY_WITH_AN_EXTRA) and name.partition(".")[0] in OPTIONAL, f"{module} needs {name}"


RUN = """
from etils import epath
from transfer import config, experiment
from transfer.__main__ import main

settings = config.default()
settings.image_size, settings.tap, settings.head.epochs = 32, "block2:avg", 2
settings.data.update({"source": "digits", "train_per_class": 4, "validation_per_class": 2})
experiment.train(settings, epath.Path("run"))
for arguments in COMMANDS:
    try:
        code = main(arguments.split())
    except SystemExit as stopped:
        code = stopped.code
    print("CODE", code)
"""
# A command -> the exit code, and what is said where it is not 0.
COMMANDS = {
    "export --workdir=run --output=whole.stablehlo": (0, ""),
    "export --workdir=run --output=head.safetensors": (0, ""),
    "export --workdir=run --output=other.onnx": (2, ".[onnx]"),
    "export --workdir=run --output=model.keras": (2, "pip install keras"),
    "predict --workdir=run photo.png --output=answers.csv": (0, ""),
    "report run --map=tsne --output=page.html": (0, ""),
    "report run --plots=figures": (1, ".[plots]"),
    "report run --plots=figures --plot_format=svg": (0, ""),
    "similarity run/features/train": (0, ""),
    "transferability run/features/train": (0, ""),
    "features verify run/features/train --workdir=run": (0, ""),
    "weights verify vgg11_slim.cifar10": (0, ""),
    "convert graph.onnx --model=vgg11 --output=weights.safetensors": (1, ".[onnx]"),
    "draw vgg11_slim.cifar10 --output=diagram.svg": (0, ""),
    "completion bash": (0, ""),
}


@pytest.mark.slow
def test_a_plain_install_does_what_needs_no_extra_and_names_the_extra_otherwise(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 8)).save(tmp_path / "photo.png")
    (tmp_path / "graph.onnx").write_bytes(bytes([8, 7, 0x12, 0]))
    done = plain(f"COMMANDS = {list(COMMANDS)}\n{RUN}", tmp_path)
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("CODE ")]
    assert dict(zip(COMMANDS, codes, strict=True)) == {name: code for name, (code, _) in COMMANDS.items()}, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    expected = [words for code, words in COMMANDS.values() if code]
    assert len(said) == len(expected)
    for line, words in zip(said, expected, strict=True):
        assert words in line
