"""What an export writes: the head in every format against NumPy, each key of MODEL.json, and which writer is asked."""

import argparse
import hashlib
import io
import json
import types
from pathlib import Path

import jax
import numpy as np
import onnx
import onnx.reference
import PIL
import pytest
from etils import epath
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.special import expit, softmax

from transfer.__main__ import main
from transfer.cli import export as verb
from transfer.cli import predict
from transfer.export import artefacts, finished_run, head_files, program
from transfer.export.finished_run import FinishedRun
from transfer.export.head_files import Layers
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime import distribution

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(5, 4)).astype(np.float32)
ROWS[2] = 0
ACTIVATIONS = {"softmax": lambda scores: softmax(scores, axis=1), "sigmoid": expit, "linear": lambda scores: scores}


def layers(*sides: int, unit: bool = False, activation: str = "softmax") -> Layers:
    shapes = list(zip(sides, sides[1:], strict=False))
    kernels, biases = (
        [RANDOM.normal(size=s).astype(np.float32) for s in of] for of in (shapes, [(s[1],) for s in shapes])
    )
    return Layers(kernels, biases, unit, activation, ("a", "ß", "c"))


MODELS = [layers(4, 3), layers(4, 6, 3, activation="sigmoid"), layers(4, 5, 7, 3, unit=True, activation="linear")]


def expected(model: Layers) -> np.ndarray:
    x = ROWS / np.maximum(np.linalg.norm(ROWS, axis=1, keepdims=True), 1e-30) if model.unit else ROWS
    *hidden, (kernel, bias) = zip(model.kernels, model.biases, strict=True)
    for inner, offset in hidden:
        x = np.maximum(x @ inner + offset, 0)
    return ACTIVATIONS[model.activation](x @ kernel + bias)


@pytest.mark.parametrize("model", MODELS, ids=["one layer", "two", "three of unit norm"])
def test_an_onnx_graph_computes_the_layers(model):
    graph = onnx.load_from_string(head_files.onnx(model))
    (found,) = onnx.reference.ReferenceEvaluator(graph).run(["probabilities"], {"features": ROWS})
    np.testing.assert_allclose(found, expected(model), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32 and graph.producer_name == "transfer" and graph.ir_version == 8
    assert [opset.version for opset in graph.opset_import] == [13]
    assert {prop.key: prop.value for prop in graph.metadata_props} == {"class_names": '["a", "ß", "c"]'}
    sides = [
        [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert sides == [["N", 4], ["N", 3]]


@pytest.mark.parametrize("model", MODELS, ids=["one layer", "two", "three of unit norm"])
def test_a_safetensors_file_holds_the_layers(model, tmp_path):
    (tmp_path / "head").write_bytes(head_files.safetensors(model))
    with safe_open(tmp_path / "head", "np") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "head")
    numbers = range(1, len(model.kernels) + 1)
    assert tensors.keys() == {f"{letter}{number}" for letter in "Wb" for number in numbers}
    for number, kernel, bias in zip(numbers, model.kernels, model.biases, strict=True):
        np.testing.assert_array_equal(tensors[f"W{number}"], kernel)
        np.testing.assert_array_equal(tensors[f"b{number}"], bias)
    names = {"class_names": '["a", "ß", "c"]', "between": "relu", "activation": model.activation}
    assert len(metadata.pop("transfer_sha256")) == 64
    assert metadata == names | {"unit_norm_first": "true" if model.unit else "false"}


def run_of(folder: Path, **changes) -> FinishedRun:
    """A run of three classes, with a head that is its file's bytes alone."""
    (folder / "head.safetensors").write_bytes(b"the head")
    (folder / "model.safetensors").write_bytes(b"the network")
    config = ConfigDict({"model": {"name": "vgg11"}, "precision": "high"})
    result = {"head": {"name": "linear"}, "weights_sha256": "0123"}
    recipe = Preprocessing((6, 8), channels="bgr", mean=(1, 2, 3))
    names = ("a", "ß", "c")
    fields = {"model": None, "preprocessing": recipe, "tap": "block1:avg", "head": object(), "class_names": names}
    return FinishedRun(epath.Path(folder), config, result, **(fields | {"kind": "classes"} | changes))


FACTS = {
    "version": 1,
    "kind": "classes",
    "class_names": ["a", "ß", "c"],
    "output": {
        "dtype": "float32",
        "shape": ["any", 3],
        "meaning": "probabilities of the classes, a column each; a row's sum is 1",
    },
    "model": "vgg11",
    "tap": "block1:avg",
    "head": {"name": "linear"},
    "precision": "high",
    "weights_sha256": "0123",
    "head_sha256": hashlib.sha256(b"the head").hexdigest(),
    "jax_version": jax.__version__,
    "transfer_version": distribution.VERSION,
}


def test_what_stands_beside_a_head(tmp_path, monkeypatch):
    model = layers(4, 5, 3)
    monkeypatch.setattr(artefacts, "layers_of", lambda run: model)
    path = epath.Path(tmp_path / "m.safetensors")
    assert artefacts.write_head(run_of(tmp_path), path, "safetensors") == (path, epath.Path(tmp_path / "m.json"))
    shapes = {"unit_norm_first": False, "kernels": [[4, 5], [5, 3]], "between": "relu", "activation": "softmax"}
    assert json.loads((tmp_path / "m.json").read_text()) == FACTS | {
        "format": "safetensors",
        "input": {"dtype": "float32", "shape": ["any", 4], "features": "tap block1:avg, flattened"},
        "layers": shapes,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("size", [None, (20, 30)])
def test_what_stands_beside_a_program(tmp_path, monkeypatch, size):
    exported = types.SimpleNamespace(serialize=lambda: bytearray(b"program"), calling_convention_version=9)
    monkeypatch.setattr(program, "exported", lambda run, platforms, asked: exported if asked == size else None)
    path = epath.Path(tmp_path / "m.stablehlo")
    network = run_of(tmp_path, head=None, tap=None, kind="values", class_names=())
    artefacts.write_program(network, path, ("cpu", "tpu"), size)
    facts = FACTS | {"kind": "values", "class_names": [], "tap": None}
    del facts["head_sha256"]
    assert json.loads((tmp_path / "m.json").read_text()) == facts | {
        "network_sha256": hashlib.sha256(b"the network").hexdigest(),
        "output": {"dtype": "float32", "shape": ["any", "any"], "meaning": "the values themselves"},
        "format": "stablehlo",
        "input": {
            "dtype": "uint8",
            "shape": ["any", *(size or ("any", "any")), 3],
            "channels": "RGB, 0 to 255, upright",
        },
        "preprocessing_inside": {
            **{
                "image_size": [6, 8],
                "resize_to": None,
                "interpolation": "bilinear",
                "antialias": True,
                "resize": "pil",
            },
            **{"channels": "bgr", "scale": 1.0, "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]},
        },
        "platforms": ["cpu", "tpu"],
        "calling_convention_version": 9,
        "pillow_version": PIL.__version__,
        "sha256": hashlib.sha256(b"program").hexdigest(),
    }
    # an earlier export is written over, another file is not
    artefacts.write_program(network, path, ("cpu", "tpu"), size)
    path.write_bytes(b"mine")
    with pytest.raises(artefacts.UsageError, match="is there already and is not what an export has left"):
        artefacts.write_program(network, path, ("cpu", "tpu"), size)
    assert path.read_bytes() == b"mine"


def test_a_class_that_the_head_has_never_seen_has_no_probability(tmp_path):
    inner = layers(4, 2)
    dense = types.SimpleNamespace(kernels=inner.kernels, biases=inner.biases, unit=True)
    dense.folded = lambda scaler: dense
    head = types.SimpleNamespace(dense=lambda: dense, scaler_=None, classes_=np.array([0, 2]))
    found = head_files.layers_of(run_of(tmp_path, head=head))
    assert found.unit and found.activation == "softmax" and found.class_names == ("a", "ß", "c")
    probabilities = softmax(ROWS @ found.kernels[0] + found.biases[0], axis=1)
    assert probabilities.shape == (5, 3) and not probabilities[:, 1].any()
    np.testing.assert_allclose(
        probabilities[:, [0, 2]], softmax(ROWS @ inner.kernels[0] + inner.biases[0], axis=1), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["m.stablehlo"], ("write_program", ("cpu", "cuda", "tpu"), None)),
        (["m.stablehlo", "--input_size=7", "--platforms=tpu,cpu, tpu"], ("write_program", ("tpu", "cpu"), (7, 7))),
        (["m.stablehlo", "--format=stablehlo", "--input_size=1x9"], ("write_program", ("cpu", "cuda", "tpu"), (1, 9))),
        *(([f"m.{form}"], ("write_head", form)) for form in ("safetensors", "onnx", "keras")),
    ],
)
def test_which_writer_is_asked(tmp_path, monkeypatch, capsys, arguments, called):
    (tmp_path / "written").write_bytes(bytes(1_234_567))
    calls = []

    def write(name, run, path, *rest):
        calls.append((name, *rest))
        assert (run, path.name) == ("the run of W", arguments[0])
        return [epath.Path(tmp_path / "written")]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finished_run, "load", lambda workdir: f"the run of {workdir}")
    for name in ("write_program", "write_head"):
        monkeypatch.setattr(artefacts, name, lambda *arguments, name=name: write(name, *arguments))
    assert main(["export", "--workdir=W", f"--output={arguments[0]}", *arguments[1:]]) == 0
    assert calls == [called] and capsys.readouterr().out == f"{tmp_path / 'written'} (1.235 MB)\n"
    assert ("stablehlo", *head_files.WRITERS) == verb.FORMATS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m.bin"], "--output=m.bin must end in one of .stablehlo, .safetensors, .onnx, .keras"),
        (["m.onnx", "--format=keras"], "--output=m.onnx should end in .keras, as --format=keras has it"),
        (["m.stablehlo", "--platforms=cpu,abacus"], "'abacus' is not one of cpu, cuda, rocm, tpu"),
        *(
            (["m.stablehlo", f"--input_size={size}"], f"--input_size='{size}' should be any")
            for size in ("0", "2x0", "1x2x3", "²", "x")
        ),
        (["m.onnx", "--input_size=32"], "are for --format=stablehlo, not for onnx: leave them out"),
        (["m.onnx", "--platforms=cpu"], "are for --format=stablehlo, not for onnx: leave them out"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--workdir=W", f"--output={arguments[0]}", *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("dtype", "precision", "trained", "platforms", "expected"),
    [
        ("float32", "high", False, "cpu", "highest"),
        ("float32", "high", False, "cpu,cuda,rocm", "highest"),
        ("float32", "high", False, "tpu", "high"),
        ("float32", "high", False, "cpu,tpu", "highest"),
        ("float32", "default", False, "cpu,tpu", "default"),
        ("float32", "default", True, "cpu,tpu", "highest"),
        ("bfloat16", "highest", False, "cpu", "default"),
    ],
)
def test_a_program_multiplies_at_least_as_precisely_as_the_run(dtype, precision, trained, platforms, expected):
    config = ConfigDict({"dtype": dtype, "precision": precision})
    run = types.SimpleNamespace(config=config, head=None if trained else object())
    assert program._precision(run, tuple(platforms.split(","))) == expected


def test_the_leaves_that_a_function_needs():
    def function(leaves, images):
        used, unused = leaves[1] * 2, leaves[2] + 1
        del unused
        return images @ used + leaves[3]

    leaves = [np.ones((2, 2), np.float32)] * 4
    assert program._used(function, leaves, jax.ShapeDtypeStruct((1, 2), np.float32)) == {1, 3}


OUTCOMES = {
    ("csv", 1, False): "image,class,probability\na.png,ß,0.7\nb.png,,\n",
    ("csv", 2, True): (
        "image,class,probability,class_2,probability_2,probability of a,probability of ß,probability of c\n"
        "a.png,ß,0.7,c,0.2,0.1,0.7,0.2\nb.png,,,,,,,\n"
    ),
    ("jsonl", 1, False): (
        '{"image": "a.png", "class": "ß", "probability": 0.7}\n{"image": "b.png", "error": "it is empty"}\n'
    ),
    ("jsonl", 2, True): (
        '{"image": "a.png", "class": "ß", "probability": 0.7, "top": [{"class": "ß", "probability": 0.7}, '
        '{"class": "c", "probability": 0.2}], "probabilities": {"a": 0.1, "ß": 0.7, "c": 0.2}}\n'
        '{"image": "b.png", "error": "it is empty"}\n'
    ),
}


@pytest.mark.parametrize(("form", "top", "everything"), OUTCOMES)
def test_what_predict_writes(form, top, everything):
    stream, options = io.StringIO(), argparse.Namespace(top=top, all=everything)
    write = predict.WRITERS[form](stream, ("a", "ß", "c"), options)
    write(predict.Row("a.png", [("ß", 0.7), ("c", 0.2)][:top], [0.1, 0.7, 0.2] if everything else [], None))
    write(predict.Row("b.png", [], [], "it is empty"))
    assert stream.getvalue() == OUTCOMES[form, top, everything]
