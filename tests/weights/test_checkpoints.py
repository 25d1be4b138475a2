"""State dicts wherever they lie: the checkpoints of training scripts as PyTorch writes them, and files that have none.

`golden/make_checkpoints.py` wrote them: a narrow ResNet-18, a moving average of half its weights, and oddities beside.
"""

import json
import logging
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden import reading, seeded
from safetensors.numpy import save_file

from transfer.__main__ import main
from transfer.errors import TransferError, UsageError
from transfer.extract.extractor import Extractor
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import create_model, readers, state_dicts
from transfer.weights.readers._others import OTHERS
from transfer.weights.readers.torch_file import state_dict

WIDTH = 1 / 32
SIZE = (1, 48, 40, 3)
ONE = np.ones((2, 2), np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with tarfile.open(reading.HERE / "checkpoints.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def load(path: Path, **options: Any) -> Any:
    return create_model("resnet18", weights=path, width=WIDTH, **options)


def arrays(path: Path, **options: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in registry.flat_state(load(path, **options)).items()}


def said(caplog: pytest.LogCaptureFixture) -> str:
    """What the one line at the end of a load says of the choice among state dicts."""
    lines = [record.getMessage() for record in caplog.records if "does not say it" in record.getMessage()]
    caplog.clear()
    return lines[-1].partition("it is assumed: ")[2].rpartition("no preprocessing")[0].rstrip("; ")


def test_the_weights_are_the_sources(files: Path) -> None:
    with jax.default_matmul_precision("highest"):
        logits, _ = load(files / "plain.pth")(seeded.images(SIZE))
    expected = np.array(json.loads((files / "outputs.json").read_text())["logits"])
    assert np.abs(np.asarray(logits)[0] - expected).max() < 1e-5 * np.abs(expected).max()


PREFERRED = "the weights are those under '{}', not their moving average {} (ema=True)"
EXCHANGED = "the weights are the moving average under 'state_dict', not the weights themselves, ema_state_dict (key=)"
# file -> (how it is asked for, what is assumed); the weights are those of plain.pth
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "torchvision.pth": ({}, ""),
    "torchvision_ema.pth": ({}, PREFERRED.format("model", "model_ema")),
    "timm.pth.tar": ({}, PREFERRED.format("state_dict", "state_dict_ema")),
    "ema_alone.pth": ({}, "the weights are the moving average under 'ema_state_dict', as there are no others"),
    "lightning.ckpt": ({}, ""),
    "dino.pth": ({"key": "teacher"}, ""),
    "moco.pth.tar": ({"prefix": "module.encoder_q", "num_classes": 0}, ""),
    "vissl.torch": ({}, ""),
    "tuple.pth": ({}, ""),
    "list.pth": ({}, ""),
    "gan.pth": ({"key": "first"}, ""),
    "nested.pth": ({}, ""),
    "mmengine.pth": ({}, EXCHANGED),
    "settings.pth": ({}, ""),
    "marked.pth": ({}, ""),
    "odd.pth": ({}, ""),
    "odd_stream.pth": ({}, ""),
}


@pytest.mark.parametrize("file", FORMS)
def test_a_state_dict_is_found(file: str, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    options, assumed = FORMS[file]
    with caplog.at_level(logging.INFO):
        loaded = arrays(files / file, **options)
        assert said(caplog) == assumed
    plain = arrays(files / "plain.pth")
    assert set(plain) - set(loaded) <= {"logits.kernel", "logits.bias"}
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, plain[name], err_msg=name)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("torchvision_ema.pth", {"ema": True}),
        ("torchvision_ema.pth", {"key": "model_ema"}),
        ("timm.pth.tar", {"ema": True}),
        ("gan.pth", {"key": "second"}),
        ("dino.pth", {"key": "student"}),
        ("mmengine.pth", {"key": "ema_state_dict"}),
    ],
)
def test_another_one_is_chosen(file: str, options: dict[str, Any], files: Path) -> None:
    loaded, plain = arrays(files / file, **options), arrays(files / "plain.pth")
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, plain[name] / 2, err_msg=name)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("dino.pth", {}, "it has several state dicts, student, teacher; choose one by key="),
    ("gan.pth", {}, "it has several state dicts, first, second; choose one by key="),
    ("gan.pth", {"key": "third"}, "it has no state dict under key='third'; there is first, second"),
    ("gan.pth", {"ema": True}, "it has no moving average of the weights, which ema=True takes; there is first, second"),
    (
        "whole_module_stream.pth",
        {},
        "it holds no state dict but objects whose code is not here (torch.nn.modules.linear.Linear), such as a whole "
        "module; save model.state_dict() where that code is",
    ),
    (
        "whole_checkpoint.pth",
        {},
        "it holds no state dict but objects whose code is not here (model: torch.nn.modules.linear.Linear), such as a "
        "whole module; save model.state_dict() where that code is",
    ),
    ("optimizer.pth", {}, "it holds the state of an optimiser and no weights; the model's file is another one"),
    ("scripted.pt", {}, "a TorchScript archive; save torch.jit.load(FILE).state_dict() by torch.save"),
    (
        "quantised.pth",
        {},
        "fc._packed_params.dtype is a torch.qint8, not a plain tensor; it is quantised: save what it was made from",
    ),
    (
        "qtensor.pth",
        {},
        "fc.weight is a torch._utils._rebuild_qtensor, not a plain tensor; it is quantised: save what it was made from",
    ),
    (
        "meta.pth",
        {},
        "conv1.weight is a torch._utils._rebuild_meta_tensor_no_storage, not a plain tensor; it was on the device meta "
        "and has no values",
    ),
    (
        "of_a_class.pth",
        {},
        "fc.weight is a __main__.Marked, not a plain tensor; save a state dict of plain tensors",
    ),
    (
        "negated.pth",
        {},
        "fc.weight is a torch._utils._rebuild_tensor of a lazy view, not a plain tensor; save it by "
        "resolve_conj().resolve_neg()",
    ),
    (
        "sparse.pth",
        {},
        "fc.weight is a torch._utils._rebuild_sparse_tensor, not a plain tensor; save it dense, by to_dense()",
    ),
]


@pytest.mark.parametrize(("file", "options", "text"), REFUSED)
def test_a_file_is_refused_for_what_it_is(file: str, options: dict[str, Any], text: str, files: Path) -> None:
    with pytest.raises(TransferError) as error:
        load(files / file, **options)
    assert str(error.value) == f"{files / file}: {text}"


def test_what_stands_in_a_namespace_is_compared(files: Path) -> None:
    says = readers.read(files / "torchvision.pth").says  # type: ignore[attr-defined]
    assert says == {"args.arch": "resnet18", "args.model": "resnet18"}


TENSORS = {"a.weight": ONE}
OTHER = {"b.weight": ONE}
OPTIMISER = {"state": {0: {"exp_avg": ONE}}, "param_groups": [{"lr": 0.1}]}
# A checkpoint -> the name of the tensor that is found in it.
TREES: list[tuple[Any, dict[str, Any], str]] = [
    *(({key: TENSORS}, {}, "a.weight") for key in state_dicts.WRAPPERS if key),
    *(({key: TENSORS, "other": OTHER}, {}, "a.weight") for key in state_dicts.WRAPPERS if key),
    *(({"model": OTHER, key: TENSORS}, {"ema": True}, "a.weight") for key in ("ema", "model_ema", "module_ema")),
    *(({"model": OTHER, key: TENSORS}, {"ema": True}, "a.weight") for key in ("params_ema", "swa_model", "EMA")),
    ({"model": TENSORS, "ema": {"shadow": OTHER, "decay": 0.9}}, {}, "a.weight"),
    ({"schema": TENSORS, "model": OTHER}, {}, "b.weight"),
    ({"model": {"model": TENSORS}, "optim": OPTIMISER}, {}, "a.weight"),
    ({"model": {"backbone": TENSORS, "head": OTHER}}, {}, "a.weight"),
    ({"model": {"first": TENSORS, "last": OTHER}}, {"key": "model.first"}, "a.weight"),
    ({"model": {"first": TENSORS, "last": OTHER}}, {"key": "first"}, "a.weight"),
    ([OPTIMISER, (3, TENSORS)], {}, "a.weight"),
    ({"epoch": 3, "a": {"weight": ONE}}, {}, "weight"),
    ({"epoch": 3, "net": {"a": {"weight": ONE}, "b": {"c": {"bias": ONE}}}}, {}, "a.weight"),
    ({"a": {"weight": ONE}}, {}, "a.weight"),
    ({"model": TENSORS, "same": TENSORS}, {}, "a.weight"),
    ({"x": TENSORS, "loss": ONE, "scaler": {"scale": ONE}, "rng": [ONE, ONE], "optim": OPTIMISER}, {}, "a.weight"),
    ({**TENSORS, "epoch": 3, "extra": OPTIMISER}, {}, "a.weight"),
    # a key of the checkpoint has the name of a part of an optimiser's state
    ({"state_dict": TENSORS, "param_groups": [{"lr": 0.1}]}, {}, "a.weight"),
    ({0: TENSORS, "opt": OPTIMISER}, {}, "a.weight"),
    ({b"state_dict": TENSORS}, {}, "a.weight"),
    ([{"fold": 1, "models": {3: {"net": TENSORS}}}], {}, "a.weight"),
    # a head beside a network, under the more usual name
    ({"model": OTHER, "encoder": {f"a.{i}": ONE for i in range(100)}}, {}, "a.0"),
    ({"model": OTHER, "encoder": {f"a.{i}": ONE for i in range(100)}}, {"key": "model"}, "b.weight"),
    # MMEngine and Lightning save the average under the usual name
    ({"state_dict": TENSORS, "ema_state_dict": OTHER, "message_hub": {}}, {}, "a.weight"),
    ({"state_dict": TENSORS, "ema_state_dict": OTHER, "message_hub": {}}, {"ema": True}, "a.weight"),
    ({"state_dict": TENSORS, "ema_state_dict": OTHER, "message_hub": {}}, {"key": "ema_state_dict"}, "b.weight"),
    ({"state_dict": TENSORS, "current_model_state": OTHER, "averaging_state": {}}, {"ema": True}, "a.weight"),
    ({"state_dict": TENSORS, "current_model_state": OTHER}, {}, "a.weight"),
]


@pytest.mark.parametrize(("tree", "options", "name"), TREES)
def test_trees(tree: Any, options: dict[str, Any], name: str) -> None:
    assert name in state_dict(tree, **options)


def test_a_tree_as_deep_as_can_be_and_one_that_is_wide() -> None:
    deep: Any = TENSORS
    for _ in range(state_dicts.DEEPEST + 1):
        deep = {"a": deep}
    with pytest.raises(TransferError, match="holds a list and no tensors under their names"):
        state_dict([deep] * 2)
    assert state_dict(deep["a"]) == TENSORS
    many = {f"{number}": {"a.b": ONE} for number in range(3000)}
    with pytest.raises(TransferError, match="several state dicts, 0, 1, 2, 3, 4 and 995 more; choose one by key="):
        state_dict(many)


@pytest.mark.parametrize("options", [{"key": "model"}, {"prefix": "a."}, {"ema": True}])
def test_random_weights_leave_nothing_to_choose(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="random weights have none"):
        create_model("resnet18", False, **options)


@pytest.mark.parametrize("options", [{"key": "model"}, {"ema": True}])
def test_other_formats_leave_nothing_to_choose(options: dict[str, Any], tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(TransferError, match="x.safetensors file, which holds one set of tensors|holds one set"):
        readers.read(tmp_path / "x.safetensors", **options)


def test_another_choice_is_another_network(files: Path) -> None:
    recipe = Preprocessing(image_size=32)
    prints = [
        Extractor(load(files / "timm.pth.tar", **options), preprocessing=recipe).fingerprint()
        for options in ({}, {"ema": True}, {"key": "state_dict"})
    ]
    assert prints[0] == prints[2] and prints[0]["parameters"] != prints[1]["parameters"]
    assert {**prints[0], "parameters": ""} == {**prints[1], "parameters": ""}


def test_commands_choose(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["convert", str(files / "dino.pth"), "--model=resnet18", f"--output={tmp_path / 'x.safetensors'}"]
    assert main(common) == 1
    assert "choose one by key=" in capsys.readouterr().err
    assert main(["weights", "verify", "resnet18.tv", "--weights", str(files / "gan.pth"), "--key=third"]) == 1
    assert "no state dict under key='third'" in capsys.readouterr().err


def others(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of each kind that is none of weights, and what is said of it."""
    heads = {
        "x.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        "y.pth": (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
        "z.pth": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        "x.npy": (b"\x93NUMPY\x01\x00", "a single array"),
        "x.tflite": (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model"),
        "x.gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        "x.pth.gz": (b"\x1f\x8b\x08\x00", "a packed file"),
        "x.tar": (b"model.pth".ljust(257, b"\x00") + b"ustar\x0000", "a tar archive"),
        "model.ckpt-1.index": (b"\x00\x00\x04", "a part of a TensorFlow checkpoint"),
        "variables.data-00000-of-00001": (b"\x00\x00\x04", "a part of a TensorFlow checkpoint"),
        "saved_model.pb": (b"\x0a\x00\x12", "a TensorFlow graph"),
        "x.pkl": (b"\x80\x04\x95\x00", "a pickle (of pickle.dump or joblib)"),
        "text.pkl": (b"(dp0\nVa\np1\n", "a pickle (of pickle.dump or joblib)"),
        "s3.pth": (b"\xef\xbb\xbf<Error><Code>NoSuchKey</Code></Error>", "a web page"),
        "denied.pth": (b"Access denied\n", "a text ('Access denied'), such as the answer of a server"),
        "zeros.pth": (bytes(1000), "an empty file, or one of zeros"),
    }
    for name, (content, text) in heads.items():
        (folder / name).write_bytes(content)
        yield folder / name, text
    np.savez(folder / "x.npz", a=ONE)
    yield folder / "x.npz", "arrays as .npz"
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("model.pth", b"")
    yield folder / "x.zip", "a zip archive with other files"
    with zipfile.ZipFile(folder / "x.pt2", "w") as archive:
        for member in ("x/archive_format", "x/data/weights/weight_0", "x/models/model.json"):
            archive.writestr(member, b"")
    yield folder / "x.pt2", "a program of torch.export"
    (folder / "empty.pth").touch()
    yield folder / "empty.pth", "an empty file"


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    texts = set()
    for path, text in others(tmp_path):
        with pytest.raises(TransferError) as error:
            readers.read(path)
        message = str(error.value)
        assert message.startswith(f"{path}: not a weight file: {text}"), message
        texts |= {other.text for other in OTHERS if message.endswith(other.text.rpartition("}")[2])}
    assert texts == {other.text for other in OTHERS}


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="a folder; name the weight file in it"):
        readers.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("base_model.model.layer1.0.conv1.lora_A.weight", "an adapter .LoRA., .* merge it into that"),
        ("lora_unet_down.lora_up.weight", "an adapter .LoRA."),
        ("layer1.0.conv1.qweight", "quantised: save the weights that it was made from"),
        ("fc.weight.absmax", "quantised"),
        ("conv1.weight_fake_quant.scale", "of a network that is trained to be quantised"),
    ],
)
def test_tensors_that_are_no_weights_by_their_names(name: str, text: str, tmp_path: Path) -> None:
    save_file({name: ONE, "fc.weight": ONE}, tmp_path / "x.safetensors")
    with pytest.raises(TransferError, match=f"x.safetensors: {name} shows that the file is {text}"):
        readers.read(tmp_path / "x.safetensors")
