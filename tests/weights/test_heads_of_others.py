"""Classifiers that are not the model's, and what other programs put beside a backbone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import reading
from spelt import WIDTH, arrays, assert_read, body, layers, numbered, other, plain, resnet, under

from transfer.errors import TransferError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import native
from transfer.weights.create import create_model

Tensors = Mapping[str, np.ndarray]
BOTH = "num_classes=0 leaves it out, num_classes=N makes a new one"


def head(prefix: str) -> dict[str, np.ndarray]:
    """The last layer under another name."""
    return {f"{prefix}weight": resnet()["fc.weight"], f"{prefix}bias": resnet()["fc.bias"]}


@pytest.mark.parametrize("name", ["fc.1.", "fc.0.", "fc.head.", "fc.drop.linear."])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_dropout_and_linear_is_the_linear(name: str, prefix: str) -> None:
    assert_read(under(prefix, body(resnet()) | head(name)))


def test_what_stands_before_a_moved_last_layer_is_assumed() -> None:
    sentence = "fc.1.bias is of a linear layer with only dropout before it"
    for tensors, options, said in (
        (body(resnet()) | head("fc.1."), {}, [sentence]),
        (body(resnet()) | head("fc.1."), {"num_classes": 0}, []),
        (body(resnet()) | head("fc.1."), {"num_classes": 3}, []),
        (resnet(), {}, []),
    ):
        assumptions: list[str] = []
        arrays(tensors, assumptions=assumptions, **options)
        assert assumptions == said


@pytest.mark.parametrize("number", [9, 10, 12])
def test_a_linear_behind_the_children_of_a_network(number: int) -> None:
    """`nn.Sequential(*list(resnet.children())[:-1], nn.Flatten(), nn.Dropout(), nn.Linear(…))`."""
    assert_read(numbered(body(resnet())) | head(f"{number}."))


MLP = layers("fc.", 32, 16, 10)
FOREIGN = {
    "an MLP": (MLP, "2 missing (logits.bias as fc.bias, logits.kernel as fc.weight); 4 unexpected (fc.0.weight, "),
    "an MLP with batch norm": (MLP | {"fc.1.running_mean": np.ones(16, np.float32)}, "2 missing "),
    "a layer more": (head("fc.") | layers("fc.more.", 10, 3), "2 unexpected (fc.more.0.weight, fc.more.0.bias)"),
    "of other features": (layers("fc.", 64, 10), r"1 misshapen (fc.0.weight (64, 10) for logits.kernel (32, 10))"),
    "without a bias": ({"fc.weight": np.ones((10, 32), np.float32)}, "1 missing (logits.bias as fc.bias)"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_another_head_is_refused_left_out_or_renewed(case: str) -> None:
    theirs, problem = FOREIGN[case]
    tensors = body(resnet()) | theirs
    is_open = not any(tensor.shape == (10,) for tensor in theirs.values())  # how many classes there are
    for options in ({}, {"new_classifier": True}) if is_open else ({},):
        with pytest.raises(TransferError) as error:
            arrays(tensors, **options)
        message = str(error.value)
        assert message.startswith(f"x does not fit resnet18 by torchvision names: {problem}")
        assert message.endswith(f"; all but the classifier fits: {BOTH}")
    assert_read(tensors, classifier=False, num_classes=0)
    for classes in (3, 10, 1000):
        found = arrays(tensors, num_classes=classes)
        assert found.pop("logits.bias").shape == (classes,) and found.pop("logits.kernel").shape == (32, classes)
        for path, array in found.items():
            np.testing.assert_array_equal(array, plain()[path], err_msg=path)


def vgg() -> dict[str, np.ndarray]:
    """torchvision's VGG11 with hidden layers of 48 and 40, and 20 classes."""
    return reading.cases()["vgg11"].state_dict()


def features(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}


HIDDEN = {"hidden": (48, 40), "width": 1}
RENAMED = {f"classifier.6.{what}": f"classifier.6.1.{what}" for what in ("weight", "bias")}


def test_the_last_of_three_layers_in_a_place_of_its_own() -> None:
    expected = arrays(vgg(), "vgg11", **HIDDEN)
    found = arrays({RENAMED.get(name, name): tensor for name, tensor in vgg().items()}, "vgg11", **HIDDEN)
    assert found.keys() == expected.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def test_hidden_layers_are_kept_where_only_the_last_is_another() -> None:
    tensors = {name: tensor for name, tensor in vgg().items() if not name.startswith("classifier.6")}
    tensors |= layers("classifier.6.", 40, 8, 3)
    model = arrays(tensors, "vgg11", num_classes=3, **HIDDEN)
    np.testing.assert_array_equal(model["fc2.bias"], vgg()["classifier.3.bias"])
    assert model["logits.kernel"].shape == (40, 3)


ONE_LINEAR = {
    "flattened": {"classifier.weight": (3, 512 * 49), "classifier.bias": (3,)},
    "flattened, after dropout": {"classifier.1.weight": (3, 512 * 49), "classifier.1.bias": (3,)},
    "pooled": {"classifier.0.weight": (3, 512), "classifier.0.bias": (3,)},
}


@pytest.mark.parametrize("case", ONE_LINEAR)
def test_one_layer_in_place_of_three_is_no_classifier_of_the_model(case: str) -> None:
    shapes = ONE_LINEAR[case].items()
    tensors = features(vgg()) | {name: np.ones(shape, np.float32) for name, shape in shapes}
    with pytest.raises(TransferError, match=f"^x does not fit vgg11 by .*missing .*; all but the classifier.*{BOTH}$"):
        arrays(tensors, "vgg11", **HIDDEN)
    expected = arrays(vgg(), "vgg11", num_classes=0, **HIDDEN)
    for classes in (0, 3):
        found = arrays(tensors, "vgg11", num_classes=classes, **HIDDEN)
        assert found.keys() - expected.keys() == {p for p in found if p.startswith(("fc", "logits"))}
        for path, array in expected.items():
            np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_one_layer_on_pooled_features_is_the_model_without_hidden_layers() -> None:
    kernel = np.arange(3 * 512, dtype=np.float32).reshape(3, 512)
    for name in ("classifier.", "classifier.0.", "classifier.1."):
        tensors = features(vgg()) | {f"{name}weight": kernel, f"{name}bias": np.ones(3, np.float32)}
        found = arrays(tensors, "vgg11", hidden=(), width=1)
        np.testing.assert_array_equal(found["logits.kernel"], kernel.T)
    flattened = features(vgg()) | {"classifier.weight": np.ones((3, 512 * 49), np.float32)}
    with pytest.raises(TransferError, match=BOTH):
        arrays(flattened | {"classifier.bias": np.ones(3, np.float32)}, "vgg11", hidden=(), width=1)


@pytest.mark.parametrize("library", ["native", "keras"])
def test_heads_of_our_own_files_and_of_keras_stay_strict(library: str, tmp_path: Path) -> None:
    from transfer.weights.names import name_map

    ours = plain()
    names = name_map("resnet18", library, {path: array.shape for path, array in ours.items()})
    tensors = {names.sources[path].name: array for path, array in ours.items()}
    assert_read(tensors)
    kernel = names.sources["logits.kernel"].name
    with pytest.raises(TransferError, match=f"^x does not fit resnet18 by {library} names: 1 missing .*{BOTH}"):
        arrays({name: tensor for name, tensor in tensors.items() if name != kernel})


def no_counters(tensors: Tensors) -> dict[str, np.ndarray]:
    """As frozen batch norm has them."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def module(*parts: Tensors) -> dict[str, np.ndarray]:
    """Parts of a module under `DistributedDataParallel`."""
    return under("module.", {name: tensor for part in parts for name, tensor in part.items()})


BODY, MOVED = body(resnet()), body(other(resnet()))
MLP3 = layers("fc.", 32, 64, 64, 64)
QUEUE = {"queue": np.ones((8, 64), np.float32), "queue_ptr": np.zeros(1, np.int64)}
NORMALISER = {"new_mean": np.full((3, 1, 1), 0.5, np.float32), "new_std": np.full((3, 1, 1), 0.25, np.float32)}
# Published programs -> the tensors of the checkpoints that they write, and what is to be asked for.
PROGRAMS: dict[str, tuple[Callable[[], Tensors], dict]] = {
    "MoCo v1": (
        lambda: module(under("encoder_q.", resnet()), under("encoder_k.", other(resnet())), QUEUE),
        {"prefix": "module.encoder_q", "num_classes": 0},
    ),
    "MoCo v2": (
        lambda: module(under("encoder_q.", BODY | MLP), under("encoder_k.", MOVED | MLP), QUEUE),
        {"prefix": "module.encoder_q", "num_classes": 0},
    ),
    "MoCo v3": (
        lambda: module(
            under("base_encoder.", BODY | MLP3), under("momentum_encoder.", MOVED | MLP3), layers("predictor.", 8, 8)
        ),
        {"prefix": "module.base_encoder", "num_classes": 0},
    ),
    "SimSiam": (
        lambda: module(under("encoder.", BODY | MLP3), layers("predictor.", 8, 8)),
        {"num_classes": 0},
    ),
    "SwAV": (
        lambda: module(BODY, layers("projection_head.", 32, 32, 8), {"prototypes.weight": np.ones((9, 8), np.float32)}),
        {},
    ),
    "BYOL (PyTorch)": (
        lambda: module(under("encoder.", BODY), layers("projetion.net.", 32, 8, 8), layers("predictor.net.", 8, 8)),
        {},
    ),
    "DINO, the student": (lambda: module(under("backbone.", BODY), layers("head.mlp.", 32, 8)), {}),
    "DINO, the teacher": (lambda: under("backbone.", BODY) | layers("head.mlp.", 32, 8), {}),
    "Barlow Twins": (
        lambda: module(under("backbone.", BODY), layers("projector.", 32, 8), {"bn.running_mean": np.ones(8)}),
        {},
    ),
    "VICReg": (lambda: module(under("backbone.", BODY), layers("projector.", 32, 8, 8)), {}),
    "VISSL": (lambda: under("_feature_blocks.", BODY), {}),
    "lightly": (
        lambda: under("backbone.", numbered(BODY)) | layers("projection_head.layers.", 32, 8) | layers("fc.", 32, 10),
        {},
    ),
    "lightly with momentum": (
        lambda: under("backbone.", numbered(BODY)) | under("backbone_momentum.", numbered(MOVED)),
        {"prefix": "backbone"},
    ),
    "solo-learn": (
        lambda: (
            under("backbone.", BODY)
            | layers("projector.", 32, 8)
            | {"classifier.weight": resnet()["fc.weight"]}
            | QUEUE
        ),
        {},
    ),
    "solo-learn with momentum": (
        lambda: under("encoder.", BODY) | under("momentum_encoder.", MOVED) | layers("momentum_projector.", 32, 8),
        {"prefix": "encoder"},
    ),
    "DETR": (
        lambda: (
            under("backbone.0.body.", no_counters(BODY))
            | layers("transformer.encoder.layers.0.", 8, 8)
            | layers("b.", 4, 4)
        ),
        {},
    ),
    "transformers' DETR": (lambda: under("model.backbone.conv_encoder.model.", no_counters(BODY)), {}),
    "torchvision's detectors": (
        lambda: under("backbone.body.", no_counters(BODY)) | layers("backbone.fpn.inner_blocks.", 8, 8),
        {},
    ),
    "robustness": (
        lambda: module(
            *(under("normalizer.", NORMALISER), under("attacker.normalize.", NORMALISER)),
            *(under("model.", resnet()), under("attacker.model.", {n: t.copy() for n, t in resnet().items()})),
        ),
        {},
    ),
    "timm in transformers": (lambda: under("timm_model.", resnet()), {}),
    "fastai": (lambda: under("0.", numbered(BODY)) | layers("1.", 32, 16, 10), {}),
    "AveragedModel": (lambda: under("module.", resnet()) | {"n_averaged": np.array(3)}, {}),
    "segmentation models": (lambda: under("encoder.", BODY) | layers("decoder.blocks.0.", 8, 8), {}),
    "MMPretrain": (lambda: under("backbone.", BODY) | {"head.fc.weight": resnet()["fc.weight"]}, {}),
    "Cadène's": (lambda: BODY | {f"last_linear.{n}": resnet()[f"fc.{n}"] for n in ("weight", "bias")}, {}),
}
WITH_CLASSIFIER = {"robustness", "timm in transformers", "AveragedModel"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_checkpoints_of_published_programs(program: str, caplog: pytest.LogCaptureFixture) -> None:
    make, options = PROGRAMS[program]
    tensors = make()
    with caplog.at_level("INFO", logger="absl"):
        assert_read(tensors, classifier=program in WITH_CLASSIFIER, **options)
    assert "the network in x" in caplog.messages[0]
    if "prefix" in options:
        with pytest.raises(TransferError, match=rf"^x holds several networks, under .*'{options['prefix']}'"):
            arrays(tensors, num_classes=0)


def test_a_network_that_normalises_its_images_is_said_and_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "robust.safetensors"
    native.write(path, PROGRAMS["robustness"][0]())
    numbers = "module.attacker.normalize.new_mean 0.5, 0.5, 0.5, new_std 0.25, 0.25, 0.25"
    does = f"{path} normalises its images itself ({numbers})"
    with caplog.at_level("INFO", logger="absl"):
        model: Any = create_model("resnet18", weights=path, width=WIDTH)
    assert model.preprocessing == Preprocessing((224, 224), scale=1 / 255, mean=(0.5,), std=(0.25,))
    itself = f"its network, which normalises the images itself ({numbers}), takes them from 0 to 1, of 224x224 pixels"
    assert f"resnet18: {path} does not say it, so it is assumed: {itself}" in caplog.messages
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with pytest.raises(TransferError) as error:
        create_model("resnet18.tv", weights=path, width=WIDTH)
    assert str(error.value).startswith(
        f"{does} and makes -2 to 2 of pixels from 0 to 255, where resnet18.tv has -2.118"
    )
    create_model("resnet18.tv", weights=path, width=WIDTH, by_names=True)


RGB = {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}
NOT_KNOWN = {
    "colours of 0..255, in either order": [RGB],
    "no range": [{"mean": (0, 0, 0), "std": (1, 1, 1)}],
    "no deviation": [{"mean": (0.5, 0.5, 0.5), "std": (0, 1, 1)}],
    "not a number": [{"mean": (np.nan, 0.5, 0.5), "std": (1, 1, 1)}],
    "two": [{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, {"mean": (0.4, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}],
}


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_numbers_for_images_that_are_no_preprocessing(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = enumerate(NOT_KNOWN[case])
    own = {f"n{i}.{what}": np.array(values, np.float32) for i, pair in pairs for what, values in pair.items()}
    native.write(tmp_path / "x.safetensors", under("net.", resnet()) | own)
    model: Any = create_model("resnet18", weights=tmp_path / "x.safetensors", width=WIDTH)
    as_is = "and no preprocessing is known: the model takes images that are preprocessed so"
    assert model.preprocessing is None and sum(as_is in line for line in caplog.messages) == len(NOT_KNOWN[case])


@pytest.mark.parametrize("scale", [1, 255])
def test_a_network_that_normalises_as_the_record_does(
    scale: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mean, std = (np.float32(values) * scale for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    path = tmp_path / "x.safetensors"
    native.write(path, under("net.", resnet()) | {"mean": mean.reshape(1, 3, 1, 1), "std": std.reshape(1, 3, 1, 1)})
    model = create_model("resnet18.tv", weights=path, width=WIDTH)
    assert "as the preprocessing does: the model takes images that are preprocessed so" in caplog.text
    np.testing.assert_array_equal(registry.flat_state(model)["logits.bias"], resnet()["fc.bias"])
