"""Every row of the name maps against what the libraries themselves call their tensors, names and shapes.

Those of torchvision and timm are in `golden/torchvision.npz` (`golden/make_torchvision.py`), Keras' in
`golden/keras_names.txt` (`golden/make_keras_names.py`); Keras has no AlexNet, GoogLeNet or LeNet.
"""

import functools
from collections.abc import Mapping

import numpy as np
import pytest
from golden import reading

from transfer.models import registry
from transfer.weights import catalogue
from transfer.weights.load import fit
from transfer.weights.maps import family
from transfer.weights.names import Shape, libraries, name_map, shapes_of

# A network for each row and for each way that its layers are called; the others differ in depth and width.
FILES = [
    *("alexnet", "googlenet", "inception_v3", "inception_v3 timm", "lenet5 28x28x1", "resnet50", "resnet50 timm"),
    *("resnet18", "resnet18 timm", "vgg11", "vgg11_bn", "vgg11_slim", "vgg11 timm", "vgg11_bn timm"),
    *("vgg16.keras", "resnet50.keras", "resnet50v2.keras", "inception_v3.keras"),
]
# What `num_classes=0` leaves out; of the other architectures the last layer.
CLASSIFIERS = dict.fromkeys(("alexnet", "lenet5", "vgg11", "vgg11_bn", "vgg16"), ("fc1.", "fc2.", "logits."))


@functools.cache
def keras_shapes() -> Mapping[str, Mapping[str, Shape]]:
    """Record -> `LAYER/VARIABLE` -> shape."""
    networks: dict[str, dict[str, Shape]] = {}
    for line in (reading.HERE / "keras_names.txt").read_text().splitlines()[1:]:
        layer, *variables = line.split()
        if not variables:
            shapes = networks[line.strip("[]")] = {}
        for variable, shape in (each.split("=") for each in variables):
            shapes[f"{layer}/{variable}"] = tuple(map(int, shape.split("x")))
    return networks


@functools.cache
def our_shapes(arch: str, fields: tuple) -> Mapping[str, Shape]:
    return shapes_of(registry.build(arch, seed=None, **dict(fields)))


def stand_ins(shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def published(file: str) -> tuple[str, str, Mapping[str, Shape], Mapping[str, np.ndarray]]:
    """The architecture, the library, the shapes of our arrays and stand-ins of the library's tensors."""
    if file in keras_shapes():
        record = catalogue.get(file)
        arch, library, fields, theirs = record.arch, "keras", record.fields, keras_shapes()[file]
    else:
        case = reading.cases()[file]
        arch, library, fields, theirs = case.arch, case.library, tuple(case.fields.items()), case.shapes
    return arch, library, our_shapes(arch, fields), family(arch).libraries[library].rename(stand_ins(theirs))


@pytest.mark.parametrize("file", FILES)
def test_a_published_file_fills_the_model_and_leaves_nothing(file: str) -> None:
    arch, library, ours, theirs = published(file)
    names = name_map(arch, library, ours)
    arrays, report = fit(theirs, ours, names)
    assert report.fits, str(report)
    assert {path: array.shape for path, array in arrays.items()} == ours
    of_training = {n for n in theirs if n.endswith("num_batches_tracked") or n.startswith(("Aux", "aux"))}
    assert set(report.excused) == of_training and not any(map(names.is_excused, theirs.keys() - of_training))
    assert set(theirs) - of_training == {source.name for source in names.sources.values()}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("own", [False, True])
def test_a_backbone_leaves_the_classifier_and_nothing_else(file: str, own: bool) -> None:
    arch, library, ours, theirs = published(file)
    library, theirs = ("native", stand_ins(ours)) if own else (library, theirs)
    names = name_map(arch, library, ours)
    classifier = {path for path in ours if path.startswith(CLASSIFIERS.get(arch, "logits."))}
    assert classifier and {path for path in ours if names.fills_classifier(path)} == classifier
    assert {n for n in theirs if names.in_classifier(n)} == {names.sources[path].name for path in classifier}
    body = {path: shape for path, shape in ours.items() if path not in classifier}
    _, report = fit(theirs, body, name_map(arch, library, body))
    assert report.fits, str(report)


@pytest.mark.parametrize(
    ("file", "path", "name"),
    [
        # where several tensors have one shape, so that only an example tells which is which
        ("alexnet", "conv5.bias", "features.10.bias"),
        ("vgg11", "block3.conv2.bias", "features.8.bias"),
        ("vgg11_bn", "block3.bn2.scale", "features.12.weight"),
        ("vgg11_bn timm", "block5.bn1.bias", "features.23.bias"),
        ("vgg11_slim", "logits.kernel", "classifier.0.weight"),
        ("resnet50", "stem.bn.bias", "bn1.bias"),
        ("resnet50", "stem.bn.mean", "bn1.running_mean"),
        ("resnet50", "stem.bn.scale", "bn1.weight"),
        ("resnet50", "stem.bn.var", "bn1.running_var"),
        ("resnet50", "stage3.unit6.conv2.kernel", "layer3.5.conv2.weight"),
        ("resnet50 timm", "stage3.unit2.bn1.var", "layer3.1.bn1.running_var"),
        ("resnet50 timm", "stage1.unit1.proj_bn.mean", "layer1.0.downsample.1.running_mean"),
        ("inception_v3", "mixed5.branch1x1.conv.kernel", "Mixed_6c.branch1x1.conv.weight"),
        ("inception_v3 timm", "mixed6.branch7x7dbl_2.bn.var", "Mixed_6d.branch7x7dbl_2.bn.running_var"),
        ("inception_v3.keras", "mixed6.branch1x1.conv.kernel", "conv2d_50/kernel"),
        ("inception_v3.keras", "mixed5.branch1x1.bn.mean", "batch_normalization_40/moving_mean"),
        ("resnet50v2.keras", "stage3.unit4.preact_bn.scale", "conv4_block4_preact_bn/gamma"),
        ("resnet50v2.keras", "stage3.unit4.bn2.bias", "conv4_block4_2_bn/beta"),
        ("resnet50v2.keras", "post_bn.var", "post_bn/moving_variance"),
        ("resnet50.keras", "stage1.unit1.proj.bias", "conv2_block1_0_conv/bias"),
        ("resnet50.keras", "stage1.unit1.proj_bn.bias", "conv2_block1_0_bn/beta"),
        ("resnet50.keras", "stage3.unit6.conv2.bias", "conv4_block6_2_conv/bias"),
        ("vgg16.keras", "block5.conv2.kernel", "block5_conv2/kernel"),
    ],
)
def test_the_name_of_a_tensor(file: str, path: str, name: str) -> None:
    arch, library, ours, theirs = published(file)
    assert name in theirs and name_map(arch, library, ours).sources[path].name == name


@pytest.mark.parametrize(
    ("library", "last", "classifier"),
    [
        ("torchvision", "fc3.weight", ("fc1.", "fc2.", "fc3.")),
        ("keras", "predictions/kernel", ("fc1/", "fc2/", "pred")),
    ],
)
def test_lenet_as_tutorials_have_it(library: str, last: str, classifier: tuple[str, ...]) -> None:
    ours = published("lenet5 28x28x1")[2]
    names = name_map("lenet5", library, ours)
    assert names.sources["logits.kernel"].name == last and names.sources["conv1.bias"].name.startswith("conv1")
    theirs = {source.name for source in names.sources.values()}
    assert {n for n in theirs if names.in_classifier(n)} == {n for n in theirs if n.startswith(classifier)}
    assert len([n for n in theirs if names.in_classifier(n)]) == 6


def test_the_libraries_of_each_family() -> None:
    both, all_three = ("native", "torchvision"), ("native", "torchvision", "timm", "keras")
    resnet = ("native", "torchvision", "timm", "transformers", "keras")
    expected = dict(alexnet=both, googlenet=both, inception_v3=all_three, lenet5=("native", "torchvision", "keras"))
    expected |= dict(resnet50=resnet, resnext50_32x4d=resnet, resnet50v2=("native", "keras"), vgg16_bn=all_three)
    assert {arch: libraries(arch) for arch in expected} == expected


@pytest.mark.parametrize(
    ("arch", "flattened"), [("alexnet", (256, 6, 6)), ("vgg11", (512, 7, 7)), ("lenet5", (16, 5, 5))]
)
def test_the_first_dense_layer_takes_a_map_that_pytorch_flattens_channels_first(
    arch: str, flattened: tuple[int, int, int]
) -> None:
    size = int(np.prod(flattened))
    stored = np.arange(2 * size).reshape(2, *flattened)
    shapes = {"fc1.kernel": (size, 2), "logits.kernel": (2, 2)}
    source = name_map(arch, "torchvision", shapes).sources["fc1.kernel"]
    ours = source.convert(stored.reshape(2, size), (size, 2))
    np.testing.assert_array_equal(ours, np.einsum("ochw->hwco", stored).reshape(size, 2))
    keras = "keras" in libraries(arch) and name_map(arch, "keras", shapes).sources["fc1.kernel"]
    assert not keras or keras.convert(ours, (size, 2)) is ours
