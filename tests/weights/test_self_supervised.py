"""Self-supervised ResNet-50 as it is published: beside a second network and heads, under the publisher's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.weights import catalogue, create_model
from transfer.weights.names import name_map, shapes_of

WIDTH = 1 / 16
RECORDS = {name: each for name, each in catalogue.records().items() if each.arch == "resnet50" and not each.num_classes}
# What lies in the file beside the network: prefixes of other ones, and tensors of heads.
BESIDE: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # by the name's end: the network's own prefix
    "_mm": ("backbone.", (), ("neck.fc0.weight", "neck.bn0.running_mean", "head.predictor.fc1.weight")),
    "byol_mm": ("backbone.", ("target_net.module.0.",), ("neck.fc0.weight", "target_net.module.1.fc0.weight")),
    "moco_v2_mm": ("backbone.", ("encoder_k.module.0.",), ("queue", "queue_ptr", "neck.mlp.0.weight")),
    "moco_v3_mm": ("backbone.", ("momentum_encoder.module.0.",), ("neck.fc0.weight", "momentum_encoder.steps")),
    "_lightly": ("backbone.", (), ("projection_head.layers.0.weight", "online_classifier.linear.weight")),
    "byol_lightly": ("backbone.", ("teacher_backbone.",), ("teacher_projection_head.layers.0.weight",)),
    "dino_lightly": ("backbone.", ("student_backbone.",), ("student_projection_head.layers.0.weight",)),
    "_vissl": ("_feature_blocks.", (), ()),
    "": ("", (), ()),
}


def arrays() -> dict[str, np.ndarray]:
    """A narrow network by our paths, with seeded numbers."""
    random = np.random.default_rng(0)
    shapes = shapes_of(registry.build("resnet50", seed=None, width=WIDTH, num_classes=0))
    return {path: random.uniform(0.5, 1, shape).astype(np.float32) for path, shape in shapes.items()}


def published(name: str, folder: Path) -> Path:
    """A file as the record's publisher writes it."""
    prefix, others, heads = BESIDE[max((end for end in BESIDE if name.endswith(end)), key=len)]
    ours = arrays()
    sources = name_map("resnet50", "torchvision", {path: array.shape for path, array in ours.items()}).sources
    torch = {
        sources[path].name: np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        for path, array in ours.items()
    }
    tensors = {f"{prefix}{name}": tensor for name, tensor in torch.items()}
    tensors |= {f"{other}{name}": tensor + 1 for other in others for name, tensor in torch.items()}
    tensors |= {head: np.ones((3, 2), np.float32) for head in heads}
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def test_there_are_some_of_each_publisher() -> None:
    ends = [max((end for end in BESIDE if name.endswith(end)), key=len) for name in RECORDS]
    assert set(ends) == set(BESIDE) and len(RECORDS) == 24


@pytest.mark.parametrize("name", RECORDS)
def test_the_backbone_is_read_and_nothing_else(name: str, tmp_path: Path) -> None:
    model: Any = create_model(name, published(name, tmp_path), width=WIDTH)
    found, expected = registry.flat_state(model), arrays()
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert model.preprocessing == RECORDS[name].preprocessing


@pytest.mark.parametrize("name", [name for name in RECORDS if name.endswith(("byol_mm", "byol_lightly", "moco_v3_mm"))])
def test_an_architecture_by_itself_asks_which_network(name: str, tmp_path: Path) -> None:
    path = published(name, tmp_path)
    with pytest.raises(TransferError, match="holds several networks, under 'backbone', '.*'; choose one by prefix="):
        create_model("resnet50", path, width=WIDTH, num_classes=0)
    other = BESIDE[max((end for end in BESIDE if name.endswith(end)), key=len)][1][0]
    for prefix, shift in (("backbone", 0), (other.rstrip("."), 1)):
        model = create_model(name, path, width=WIDTH, prefix=prefix)
        np.testing.assert_allclose(
            registry.flat_state(model)["stem.bn.mean"], arrays()["stem.bn.mean"] + shift, rtol=1e-6
        )


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_where_its_figures_stand(name: str) -> None:
    record = RECORDS[name]
    assert record.licence and record.licence.split()[0] in ("MIT", "Apache-2.0")
    assert "linear classifier" in record.note and (".md" in record.source or "metafile.yml" in record.source)
    prefix = record.file.sha256_prefix
    assert prefix is None or record.file.filename.endswith(f"-{prefix}.pth")
    assert record.file.digest == (f"SHA-256 {prefix}…" if prefix else "none published")


def test_the_message_does_not_list_all_of_them() -> None:
    names = "resnet50.a1_in1k, resnet50.keras, resnet50.tv1, resnet50.tv2, resnet50.tv_in1k"
    with pytest.raises(UsageError, match=f"choose {names}, one of 24 without a classifier"):
        create_model("resnet50")
