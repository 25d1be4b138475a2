"""Weights from a Hub, of a server on this machine, with repositories as timm and transformers write them."""

import csv
import dataclasses
import errno
import functools
import gzip
import hashlib
import json
import logging
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from golden import reading, seeded
from huggingface_hub import constants
from PIL import Image
from safetensors.numpy import save, save_file
from support import hub_server
from support.hub_server import Hub, Repository

from transfer import __main__ as command
from transfer.errors import TransferError, UsageError
from transfer.export.predictor import Predictor
from transfer.extract.extractor import Extractor
from transfer.preprocess import recipe
from transfer.weights import cache, catalogue, create_model, hub, readers
from transfer.weights.catalogue import WeightFile

WIDTH = 1 / 32
TIMM, SHARDED = "timm/resnet18.a1_in1k", "microsoft/resnet-50"
LABELS = ("cat", "dog", "newt")


@functools.cache
def written() -> dict[str, Any]:
    return json.loads(gzip.decompress((reading.HERE / "hub.json.gz").read_bytes()))["repositories"]


@functools.cache
def files(name: str) -> dict[str, bytes]:
    """The files of a repository, its tensors in as many as its index says."""
    texts = written()[name]["texts"]
    tensors = {key: np.asarray(each) for key, each in seeded.state_dict(written()[name]["shapes"]).items()}
    index = texts.get("model.safetensors.index.json", {"weight_map": dict.fromkeys(tensors, "model.safetensors")})
    shards: dict[str, dict] = {}
    for key, file in index["weight_map"].items():
        shards.setdefault(file, {})[key] = tensors[key]
    return {
        **{file: json.dumps(text).encode() for file, text in texts.items()},
        **{file: save(held) for file, held in shards.items()},
    }


def folder(name: str, path: Path) -> Path:
    for file, content in files(name).items():
        (path / file).write_bytes(content)
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the repositories of the golden file; the library's cache is empty."""
    hub._from_hub.cache_clear()
    with hub_server.running() as running:
        running.repositories.update({name: Repository(files(name)) for name in written()})
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running
    hub._from_hub.cache_clear()


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level and record.name == "absl"]


def outputs(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """A sample of the input that the model's preprocessing makes of the golden file's image, and the output."""
    with jax.default_matmul_precision("highest"):
        values = recipe.apply(model.preprocessing, seeded.pixels(97, 131)[None])
        output, _ = jax.jit(lambda x: model(x))(values)
    return np.asarray(values[0]), np.asarray(output[0])


NARROW = {name: {"width": WIDTH} if name.startswith("timm/") else {} for name in written()}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(written()) - {"timm/resnet18_silu"}))
def test_a_repository_gives_its_library_s_outputs(name: str, server: Hub) -> None:
    expected = written()[name]
    model = create_model(f"hf:{name}", **NARROW[name])
    image, output = outputs(model)
    assert image.shape == tuple(expected["shape"])
    assert np.abs(seeded.sample(image) - expected["input"]).max() <= 1e-6
    assert np.abs(output - expected["output"]).max() <= 1e-5 * np.abs(expected["output"]).max()
    assert model.revision == server.repositories[name].commit
    has_labels = name in (TIMM, SHARDED, "microsoft/resnet-18")
    assert model.label_names == (LABELS if has_labels else ())


def readme_only(name: str) -> Repository:
    return Repository({"README.md": b"", "config.json": files(name)["config.json"]})


def with_config(**content: Any) -> Repository:
    return Repository({**files(TIMM), "config.json": json.dumps(content).encode()})


KNOWN = Repository({})
# The address; its repository, None where there is none; what is said of it.
REFUSED: dict[str, tuple[str, Repository | None, str]] = {
    "gated": (
        "hf:a/b",
        KNOWN._replace(files=files(TIMM), refuses=(403, "GatedRepo"), is_public=True),
        "hf:a/b: config.json: gated: ask for access on {endpoint}/a/b, then `hf auth login` or HF_TOKEN",
    ),
    "gated, list too": (
        "hf:a/b",
        KNOWN._replace(refuses=(401, "GatedRepo")),
        "hf:a/b: gated: ask for access on {endpoint}/a/b, then `hf auth login` or HF_TOKEN",
    ),
    "missing": (
        "hf:a/b",
        None,
        "hf:a/b: there is no such repository, or it is private and wants `hf auth login` or HF_TOKEN",
    ),
    "private": (
        "hf:a/b",
        KNOWN._replace(refuses=(401, "")),
        "hf:a/b: {endpoint} answers HTTP 401; perhaps it wants `hf auth login` or HF_TOKEN",
    ),
    "revision": ("hf:a/b@v2", KNOWN, "hf:a/b@v2: it has no revision v2"),
    "broken server": ("hf:a/b", KNOWN._replace(refuses=(500, "")), "hf:a/b: {endpoint} answers HTTP 500"),
    "forbidden": (
        "hf:a/b",
        KNOWN._replace(refuses=(403, "")),
        "hf:a/b: {endpoint} answers HTTP 403; perhaps it wants `hf auth login` or HF_TOKEN",
    ),
    "no weights": (
        "hf:a/b",
        readme_only(TIMM),
        "hf:a/b: it has README.md, config.json, and none of model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin, pytorch_model.bin.index.json",
    ),
    "nothing": (
        "hf:a/b",
        KNOWN,
        "hf:a/b: it has no file, and none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
        "pytorch_model.bin.index.json",
    ),
    "architecture": (
        "hf:timm/convnext_tiny.fb_in1k",
        with_config(architecture="convnext_tiny"),
        "hf:timm/convnext_tiny.fb_in1k is a convnext_tiny, which is not here; the nearest is resnet50, whose tensors "
        "have other names or shapes",
    ),
    "variant": (
        "hf:a/b",
        with_config(architecture="resnetblur50"),
        "hf:a/b is a resnetblur50, which is not here; the nearest is resnet50, whose tensors have other names or "
        "shapes",
    ),
    "transformers' other": (
        "hf:a/b",
        with_config(model_type="resnet", depths=[3, 3, 3, 3]),
        "hf:a/b is a resnet of bottleneck layers with depths, embedding and hidden sizes [[3, 3, 3, 3], 64, [256, "
        "512, 1024, 2048]], which is not here; the nearest is resnet50, whose tensors have other names or shapes",
    ),
    "no name": (
        "hf:a/b",
        with_config(id2label={}),
        "hf:a/b: no config.json names its network; name an architecture, and this as its weights",
    ),
    "bad config": (
        "hf:a/b",
        Repository({**files(TIMM), "config.json": b"{"}),
        "hf:a/b: no config.json names its network; name an architecture, and this as its weights",
    ),
    "cut short": (
        "hf:a/b",
        Repository(files(TIMM), cut=10),
        "hf:a/b: config.json: no whole answer from {endpoint} (OSError: Consistency check failed: file should be of "
        "size ",
    ),
    "no address": ("hf:a b", KNOWN, "'hf:a b' is not hf:OWNER/REPO or hf:OWNER/REPO@REVISION"),
    "no repository's name": ("hf:a/b/c", KNOWN, "hf:a/b/c: HFValidationError: Repo id must "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_hub_does_not_give(case: str, server: Hub) -> None:
    address, repository, words = REFUSED[case]
    if repository is not None:
        server.repositories[address.removeprefix("hf:").partition("@")[0]] = repository
    with pytest.raises(TransferError) as error:
        create_model(address)
    message, expected = str(error.value), words.format(endpoint=server.endpoint)
    assert message.startswith(expected) if words.endswith(" ") else message == expected
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (TIMM, f"; the repository of a Hub is hf:{TIMM}"),
        (f"HF:{TIMM}", f"; the repository of a Hub is hf:{TIMM}"),
        (f"https://huggingface.co/{TIMM}", f"; the repository of a Hub is hf:{TIMM}"),
        (f"https://huggingface.co/{TIMM}/tree/main", f"; the repository of a Hub is hf:{TIMM}"),
        ("resnet18/model.pth/x", ""),
        ("resnet", ""),
    ],
)
def test_an_address_written_otherwise(name: str, said: str) -> None:
    with pytest.raises(UsageError, match="^unknown model ") as error:
        create_model(name)
    assert str(error.value).endswith(said) and (said or "hf:" not in str(error.value))


@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_is_full(named: bool, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/x" if named else None)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    where = "/cache/x" if named else constants.HF_HUB_CACHE
    with pytest.raises(TransferError, match=f"^hf:{TIMM}: config.json: No space left on device: {where}$"):
        create_model(f"hf:{TIMM}")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"^hf:a/b needs huggingface_hub: pip install 'transfer-flax\[hub\]'"):
        create_model("hf:a/b")


def test_a_repository_in_the_config_of_your_images() -> None:
    get_config = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "your_images.py"))["get_config"]
    config = get_config("hf:a/b")
    assert (config.model.name, config.tap, config.image_size) == ("hf:a/b", "pre_logits", None)
    with pytest.raises(UsageError, match="^'hg:a/b' is none of small, vgg16, resnet50"):
        get_config("hg:a/b")


def test_weights_beside_a_name_that_has_its_own(server: Hub) -> None:
    with pytest.raises(UsageError, match="^hf:timm/resnet18.a1_in1k has weights of its own; leave x.pth out, or name"):
        create_model(f"hf:{TIMM}", weights="x.pth")


def test_only_what_is_needed_is_fetched_once(server: Hub) -> None:
    own = {**files(TIMM), "pytorch_model.bin": b"0" * 99, "README.md": b"", "onnx/model.onnx": b"0"}
    server.repositories["a/b"] = Repository(own)
    first = create_model("hf:a/b", width=WIDTH)
    asked = ["GET api/models/a/b", "HEAD config.json", "GET config.json", "HEAD model.safetensors"]
    assert [re.sub("a/b/resolve/[^/]*/", "", line) for line in server.asked] == [*asked, "GET model.safetensors"]
    server.asked.clear()
    assert create_model("hf:a/b", width=WIDTH).weights_sha256 == first.weights_sha256 and server.asked == []
    hub._from_hub.cache_clear()  # another process
    create_model("hf:a/b", width=WIDTH)
    assert not [line for line in server.asked if line.startswith("GET a/b")]


@pytest.fixture
def offline(server: Hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches the library off the network, by its own switch or because nobody answers."""

    def switch(by: str) -> None:
        hub._from_hub.cache_clear()
        if by == "HF_HUB_OFFLINE":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")

    return switch


@pytest.mark.parametrize("by", ["HF_HUB_OFFLINE", "nobody"])
def test_without_a_network(by: str, server: Hub, offline: Any, tmp_path: Path, caplog: Any) -> None:
    online = create_model(f"hf:{TIMM}", width=WIDTH)
    offline(by)
    why, where = "HF_HUB_OFFLINE is set", f", and it is not in {tmp_path / 'cache'}"
    if by == "nobody":
        why, where = f"no whole answer from {constants.ENDPOINT} (ConnectError: [Errno 111] Connection refused)", ""
    with pytest.raises(TransferError, match=rf"^hf:{SHARDED}: {re.escape(why + where)}$"):
        create_model(f"hf:{SHARDED}")
    for address in (f"hf:{TIMM}", f"hf:{TIMM}@main", f"hf:{TIMM}@{online.revision}"):
        caplog.clear()
        cached = create_model(address, width=WIDTH)
        assert (cached.revision, cached.weights_sha256) == (online.revision, online.weights_sha256)
        said = [f"{address}: {why}; taken from the cache, at commit {online.revision}"]
        assert lines(caplog) == ([] if address.endswith(online.revision) else said)  # a commit is one commit


def test_a_revision_is_one_commit(server: Hub, tmp_path: Path) -> None:
    server.repositories["a/b"] = Repository({**files(TIMM), "note": b"1"}, branches=("main", "v1", "refs/pr/1"))
    commit = server.repositories["a/b"].commit
    for revision in ("", "@main", "@v1", "@refs/pr/1", f"@{commit}"):
        assert create_model(f"hf:a/b{revision}", width=WIDTH).revision == commit
    server.repositories["a/b"] = Repository({**files(TIMM), "note": b"2"})
    assert create_model("hf:a/b", width=WIDTH).revision == commit  # of this process
    hub._from_hub.cache_clear()
    assert create_model("hf:a/b", width=WIDTH).revision == server.repositories["a/b"].commit != commit
    assert hub.pinned("hf:a/b@main", commit) == hub.pinned("hf:a/b", commit) == f"hf:a/b@{commit}"
    assert hub.pinned("resnet50.tv1", commit) == "resnet50.tv1" and hub.pinned("hf:a/b", None) == "hf:a/b"
    assert hub.pinned(None, commit) is None


def test_a_repository_that_was_renamed(server: Hub, caplog: pytest.LogCaptureFixture) -> None:
    server.repositories["old/name"] = Repository({}, moved_to=TIMM)
    model = create_model("hf:old/name", width=WIDTH)
    assert model.revision == server.repositories[TIMM].commit
    assert lines(caplog) == [f"hf:old/name is called hf:{TIMM} now"]


def test_pytorch_s_file_where_there_is_no_other(server: Hub) -> None:
    weights = (reading.HERE / "resnet18_slim.pth").read_bytes()
    config = json.dumps({"architecture": "resnet18", "num_classes": 1000}).encode()
    server.repositories["a/b"] = Repository({"config.json": config, "pytorch_model.bin": weights})
    model = create_model("hf:a/b", width=1 / 16)
    assert model.weights_sha256 == hashlib.sha256(weights).hexdigest() and model.label_names == ()
    assert model.preprocessing is None


def test_an_architecture_with_weights_from_a_hub(server: Hub) -> None:
    server.repositories["a/b"] = Repository({"model.safetensors": files(TIMM)["model.safetensors"]})
    model = create_model("resnet18", weights="hf:a/b", width=WIDTH)
    assert model.revision == server.repositories["a/b"].commit and model.preprocessing is None
    assert create_model("resnet18", weights=f"hf:{TIMM}", width=WIDTH).preprocessing.interpolation == "bicubic"


def test_random_weights_of_the_same_network(server: Hub) -> None:
    model, trained = (create_model(f"hf:{TIMM}", weights, width=WIDTH) for weights in (False, None))
    assert model.weights_sha256 is None and model.num_classes == 3 and model.preprocessing == trained.preprocessing
    assert model.label_names == ()


def test_another_function_of_the_same_tensors(server: Hub) -> None:
    with pytest.raises(TransferError, match=r"config.json says model_args.act_layer=silu: hf:timm/resnet18_silu is an"):
        create_model("hf:timm/resnet18_silu", width=WIDTH)
    create_model("hf:timm/resnet18_silu", width=WIDTH, by_names=True)


def test_a_new_classifier_has_no_labels(server: Hub) -> None:
    assert create_model(f"hf:{TIMM}", width=WIDTH, new_classifier=True).label_names == ()
    assert create_model(f"hf:{TIMM}", width=WIDTH, num_classes=0).label_names == ()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The image of the golden file, as a file."""
    Image.fromarray(seeded.pixels(97, 131)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def softmax(logits: list[float]) -> np.ndarray:
    exponentials = np.exp(np.array(logits) - max(logits))
    return exponentials / exponentials.sum()


def test_predict_calls_the_classes_by_their_names(server: Hub, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo = "microsoft/resnet-18"
    assert command.main(["predict", f"--model=hf:{repo}", "--all", str(image)]) == 0
    header, row = csv.reader(capsys.readouterr().out.splitlines())
    assert header[3:] == [f"probability of {name}" for name in LABELS]
    expected = softmax(written()[repo]["output"])
    assert np.abs(np.array(row[3:], float) - expected).max() <= 1e-5 and row[1] == LABELS[expected.argmax()]


def labelled(folder: Path, **own: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 10, **own}))
    shutil.copy(reading.HERE / "resnet18_slim.pth", folder / "pytorch_model.bin")
    return folder


CFG = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, "0 1 2 3 4 5 6 7 8 9"),
        ([*"abcdefghij"], "a b c d e f g h i j"),
        ([*"abcdefghi"], "0 1 2 3 4 5 6 7 8 9"),  # as many as the classifier has, or none
        ([*"abcdefgahi"], "a(0) b c d e f g a(7) h i"),
    ],
)
def test_names_of_classes(names: list[str] | None, expected: str, tmp_path: Path, image: Path) -> None:
    named = labelled(tmp_path, label_names=names, pretrained_cfg=CFG)
    predictor = Predictor.of_model(str(named), width=1 / 16)
    assert predictor.class_names == tuple(name.replace("(", " (") for name in expected.split())
    if names is None:
        pixels = np.asarray(Image.open(image))[None]
        model = create_model(str(named), width=1 / 16)
        logits, _ = model(recipe.apply(model.preprocessing, pixels))
        assert np.abs(predictor(pixels)[0] - softmax(np.asarray(logits[0], np.float64).tolist())).max() <= 1e-6


def test_a_network_that_cannot_predict(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = labelled(tmp_path) / "pytorch_model.bin"
    with pytest.raises(UsageError, match=rf"^{file} does not say how its images are made; .* \(resnet18.a1_in1k, "):
        Predictor.of_model("resnet18", file, width=1 / 16)
    with pytest.raises(UsageError, match=f"^{file} has no classifier: `train` makes one, and of a whole Keras model"):
        Predictor.of_model("resnet18", file, width=1 / 16, num_classes=0)
    given = recipe.Preprocessing(32, scale=1 / 255)
    assert len(Predictor.of_model("resnet18", file, preprocessing=given, width=1 / 16).class_names) == 10
    assert command.main(["predict", f"--workdir={tmp_path}", f"--weights={file}", str(image)]) == 2
    assert capsys.readouterr().err == "error: --weights and --head are of a --model; a run has its own\n"
    assert command.main(["predict", "--model=resnet18", f"--weights={file}", "--head=file", str(image)]) == 1
    assert "does not say what follows the network (head='file')" in capsys.readouterr().err


def test_a_folder_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(TIMM, tmp_path)
    models = [create_model("resnet18", path, width=WIDTH) for path in (tmp_path, tmp_path / "model.safetensors")]
    models.append(create_model(str(tmp_path), width=WIDTH))
    monkeypatch.chdir(tmp_path)
    models.append(create_model(".", width=WIDTH))
    assert len({(m.weights_sha256, m.preprocessing, m.label_names, m.revision) for m in models}) == 1
    assert models[0].preprocessing.resize_to == 235 and models[0].label_names == LABELS
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TransferError, match="is a folder without model.safetensors or .*; name the weight file in it"):
        create_model("resnet18", tmp_path)


def test_the_file_of_another_record(server: Hub, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = catalogue.get("resnet18.a1_in1k")
    digest = hashlib.sha256(files(TIMM)["model.safetensors"]).hexdigest()
    other = dataclasses.replace(base, name="resnet18.other", file=WeightFile("x", "http://127.0.0.1:9/x", digest))
    monkeypatch.setattr(catalogue, "records", lambda: {base.name: base, other.name: other})
    monkeypatch.setattr(catalogue, "_aliases", dict)
    create_model(base.name, weights=f"hf:{TIMM}", width=WIDTH)
    (line,) = lines(caplog)
    assert line.startswith(f"{base.name}: by its hash, ") and "is the file of resnet18.other; " in line


def shards(path: Path, pieces: dict[str, dict[str, np.ndarray]], listed: dict[str, str]) -> Path:
    for file, tensors in pieces.items():
        save_file(tensors, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return path / "model.safetensors.index.json"


ONE, TWO = ({"a": np.ones(1, np.float32)}, {"b": np.ones(1, np.float32)})
LISTED = {"a": "1.safetensors", "b": "2.safetensors"}
BAD_INDEXES: list[tuple[dict, Any, str]] = [
    ({"1.safetensors": ONE}, LISTED, "2.safetensors, which it lists, is not there"),
    ({"1.safetensors": ONE, "2.safetensors": ONE}, LISTED, "2.safetensors does not hold b"),
    ({"1.safetensors": ONE, "2.safetensors": ONE | TWO}, LISTED, "2.safetensors holds a second a"),
    ({}, {"a": "../1.safetensors"}, "refused: a lies in ../1.safetensors, outside of its folder"),
    ({}, {"a": "/1.safetensors"}, "refused: a lies in /1.safetensors, outside of its folder"),
    ({}, {"a": "x/../../1.safetensors"}, "refused: a lies in x/../../1.safetensors, outside of its folder"),
    ({}, {"a": "x\\1"}, "refused: a lies in x"),
    ({}, {"a": ""}, "refused: a lies in , outside"),
    ({}, {"a": 7}, "refused: a lies in 7, outside"),
    ({}, {}, "a JSON text without 'weight_map' ({\"weight_map\": {}}): it holds no weights; name the file that does"),
    ({}, [], "a JSON text without 'weight_map'"),
    ({}, {"a": "x" * 9999}, "…, which it lists, is not there"),
    ({}, {"a": "\0"}, "\\x00, which it lists, is not there"),
]


@pytest.mark.parametrize(("pieces", "listed", "words"), BAD_INDEXES)
def test_an_index_that_is_not_kept(pieces: dict, listed: Any, words: str, tmp_path: Path) -> None:
    index = shards(tmp_path, pieces, listed)
    with pytest.raises(TransferError) as error:
        create_model("resnet18", index)
    assert str(error.value).startswith(f"{index}: ") and words in str(error.value)


def test_the_answer_of_a_server_in_place_of_a_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text('{"error": "Repository not found"}')
    words = r"\(\{\"error\": \"Repository not found\"\}\): it holds no weights; .* a server's answer, fetch it again$"
    with pytest.raises(TransferError, match=words):
        create_model("resnet18", tmp_path / "model.pth")


def test_an_index_that_leads_to_itself_ends(tmp_path: Path) -> None:
    with pytest.raises(
        TransferError, match="index.json: model.safetensors.index.json, which it lists, holds no tensors"
    ):
        create_model("resnet18", shards(tmp_path, {}, {"a": "model.safetensors.index.json"}))


def test_a_shard_is_one_however_it_is_written(tmp_path: Path) -> None:
    plain, other = ({"a": "1.safetensors", "b": f"{dots}1.safetensors"} for dots in ("", "././"))
    read = []
    for listed in (plain, other):
        index = shards(tmp_path, {"1.safetensors": ONE | TWO}, listed)
        read.append((sorted(readers.read(index)), cache.digests(index)["sha256"]))
    assert read[0] == read[1] and read[0][0] == ["a", "b"]


def test_the_hash_of_shards(tmp_path: Path) -> None:
    folder(SHARDED, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    printed = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(names) > 2
    assert cache.digests(tmp_path / "model.safetensors.index.json")["sha256"] == hashlib.sha256(printed).hexdigest()


def test_the_commit_is_part_of_the_store_s_fingerprint(server: Hub) -> None:
    model = create_model(f"hf:{TIMM}", width=WIDTH)
    fingerprint = Extractor(model).fingerprint()
    assert fingerprint["revision"] == server.repositories[TIMM].commit
    local = create_model("resnet18", weights=f"hf:{TIMM}", width=WIDTH)
    local.revision, local.label_names = None, ()
    assert Extractor(local).fingerprint() == {key: fingerprint[key] for key in fingerprint if key != "revision"}


@pytest.mark.slow
def test_a_run_on_a_backbone_from_a_hub(server: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work, image = tmp_path / "run", tmp_path / "image.ppm"
    arguments = [f"--config.model.name=hf:{TIMM}", f"--config.model.fields.width={WIDTH}", f"--workdir={work}"]
    arguments += ["--config=configs/quickstart.py", "--config.image_size=32", "--config.tap=stage1:avg"]
    environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("train.py", *arguments)
    result = json.loads((work / "result.json").read_text())
    assert result["revision"] == server.repositories[TIMM].commit
    assert result["weights_sha256"] == hashlib.sha256(files(TIMM)["model.safetensors"]).hexdigest()
    # the branch moves on; the run stays what it is
    server.repositories[TIMM] = Repository({**files(TIMM), "model.safetensors": b"other"})
    image.write_bytes(b"P6 8 8 255\n" + bytes(192))
    environment["HF_HUB_OFFLINE"] = "1"
    assert run("-m", "transfer", "predict", f"--workdir={work}", str(image)).startswith("image,class,probability")


def test_the_command_converts_and_verifies(server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.safetensors"
    assert command.main(["convert", "hf:a/b", "--model=resnet18", f"--output={output}"]) == 1
    assert capsys.readouterr().err.startswith("error: hf:a/b: there is no such repository, or it is private")
