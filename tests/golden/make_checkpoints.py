"""Writes `checkpoints.tar.xz` beside this file: the forms in which people save networks, by PyTorch itself.

    pip install torch torchvision && python tests/golden/make_checkpoints.py

A narrow ResNet-18 with the weights of `seeded.py`, in checkpoints as torchvision's reference scripts, timm's saver,
Lightning, DINO, MoCo and VISSL lay them out, with a moving average of half the weights where there is one; and files
that hold no state dict. `outputs.json` in it has the logits that PyTorch computes for one image.
"""

import argparse
import collections
import datetime
import enum
import io
import json
import pathlib
import tarfile
import tempfile
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seeded
import torch
import torchvision
from torch import nn

HERE = Path(__file__).parent
WIDTH, CLASSES, SIZE = 1 / 32, 10, (1, 48, 40, 3)
State = dict[str, torch.Tensor]


class Narrow(torchvision.models.ResNet):
    """torchvision's ResNet-18 at a fraction of its width."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        widths = [round(64 * WIDTH * 2**stage) for stage in range(4)]
        self._norm_layer, self.groups, self.base_width, self.dilation = nn.BatchNorm2d, 1, 64, 1
        self.inplanes = widths[0]
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        for stage, width in enumerate(widths):
            layer = self._make_layer(torchvision.models.resnet.BasicBlock, width, 2, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], CLASSES)


class Colour(enum.Enum):
    """An enumeration of the one who saves."""

    RED = 1


class Marked(torch.Tensor):
    """A tensor of a class of the one who saves."""


class Settings(dict):
    """A dict of the one who saves, as configuration libraries have them."""


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    """A state dict with a prefix."""
    return {prefix + name: value for name, value in state.items()}


def without_head(state: State) -> State:
    """A state dict of the backbone alone."""
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def contents() -> dict[str, Any]:
    """File name -> what `torch.save` gets."""
    model = Narrow()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    model.eval()
    state: State = dict(model.state_dict())
    half = {name: value / 2 if value.is_floating_point() else value for name, value in state.items()}
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    averaged = torch.optim.swa_utils.AveragedModel(Narrow())
    averaged.module.load_state_dict(half)
    args = argparse.Namespace(model="resnet18", arch="resnet18", lr=0.1, output=pathlib.PurePosixPath("runs/1"))
    head = {"mlp.0.weight": torch.ones(3, 2), "last_layer.weight_g": torch.ones(4, 1)}
    common = {"optimizer": optimizer.state_dict(), "epoch": 3, "args": args}
    with torch.inference_mode():
        image = torch.from_numpy(seeded.images(SIZE).transpose(0, 3, 1, 2).copy())
        logits = model.double()(image.double())[0].tolist()
    model.float()
    quantised = torch.ao.nn.quantized.Linear(2, 2)
    marked = state["fc.weight"].clone()
    marked.mark = "pickled with the tensor"  # type: ignore[attr-defined]
    odd = {
        "a set": {1, 2},
        "bytes": bytearray(b"abc"),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("abca"),
        "path": pathlib.PurePosixPath("a/b"),
        "colour": Colour.RED,
        "by colour": {Colour.RED: 1},
        "when": datetime.datetime(2020, 1, 1),
        "best": np.float64(0.5),
        "names": np.array(["a", None], object),
        "days": np.array(["2020-01-01"], "datetime64[D]"),
        "range": range(3),
        "complex": 1j,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "layout": torch.strided,
        "generator": torch.Generator().get_state(),
        "class": nn.BatchNorm2d,
        "function": nn.functional.relu,
        "module": layer,
        "settings": Settings(lr=0.1),
        "config": types.SimpleNamespace(lr=0.1),
        "loss": torch.tensor(0.5),
    }
    return {
        "plain.pth": state,
        "torchvision.pth": {"model": state, "lr_scheduler": schedule.state_dict(), **common, "scaler": {"scale": 1.0}},
        "torchvision_ema.pth": {"model": state, "model_ema": averaged.state_dict(), **common},
        "timm.pth.tar": {
            **common,
            **{"arch": "resnet18", "state_dict": state, "version": 2, "amp_scaler": {}, "metric": 70.1},
            "state_dict_ema": half,
        },
        "ema_alone.pth": {"ema_state_dict": state, "step": 1},
        "lightning.ckpt": {
            **{"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.4.0"},
            "state_dict": under("model.", state),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
            "callbacks": {
                "ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}
            },
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [schedule.state_dict()],
            "hparams_name": "kwargs",
            "hyper_parameters": Settings(arch="resnet18", lr=0.1),
        },
        "dino.pth": {
            "student": under("module.backbone.", without_head(half)) | under("module.head.", head),
            "teacher": under("backbone.", without_head(state)) | under("head.", head),
            "dino_loss": {"center": torch.zeros(1, 4)},
            **common,
        },
        "moco.pth.tar": {
            **{"epoch": 200, "arch": "resnet18", "optimizer": optimizer.state_dict()},
            "state_dict": under("module.encoder_q.", without_head(state))
            | under("module.encoder_k.", without_head(half))
            | {"module.encoder_q.fc.0.weight": torch.ones(16, 16), "module.encoder_k.fc.0.weight": torch.ones(16, 16)}
            | {"module.queue": torch.ones(4, 8), "module.queue_ptr": torch.zeros(1)},
        },
        "vissl.torch": {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", without_head(state)), "heads": {}}},
                "losses": {},
                "optimizer": optimizer.state_dict(),
            },
            "config": Settings(a=1),
        },
        "tuple.pth": (state, 3),
        "list.pth": [optimizer.state_dict(), {"state": state}],
        "gan.pth": {"first": state, "second": half, "epoch": 1},
        "nested.pth": {"epoch": 1, "params": nested(state)},
        "mmengine.pth": {
            **{"meta": {"cfg": "model = dict()"}, "message_hub": Settings(a=1)},
            "state_dict": under("backbone.", without_head(state)),
            "ema_state_dict": under("module.backbone.", without_head(half)) | {"steps": torch.tensor(3)},
        },
        "settings.pth": Settings(model=Settings(state), epoch=3),
        "marked.pth": {**state, "fc.weight": marked, "bn1.bias": nn.Buffer(state["bn1.bias"])},
        "odd.pth": {**odd, "net": state},
        "odd_stream.pth": {**odd, "net": state},
        "whole_module_stream.pth": layer,
        "whole_checkpoint.pth": {"epoch": 3, "model": layer, "ema": None, "optimizer": optimizer.state_dict()},
        "optimizer.pth": {"optimizer": optimizer.state_dict(), "epoch": 3, "loss": torch.tensor(0.5)},
        "quantised.pth": {f"fc.{name}": value for name, value in quantised.state_dict().items()},
        "qtensor.pth": {**state, "fc.weight": torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)},
        "meta.pth": {name: value.to("meta") for name, value in state.items()},
        "of_a_class.pth": {**state, "fc.weight": state["fc.weight"].as_subclass(Marked)},
        "negated.pth": {**state, "fc.weight": torch.complex(state["fc.weight"], state["fc.weight"]).conj().imag},
        "sparse.pth": {**state, "fc.weight": state["fc.weight"].to_sparse()},
        "outputs.json": {"logits": logits},
    }


def nested(state: State) -> dict[str, Any]:
    """The state dict as dicts of dicts."""
    tree: dict[str, Any] = {}
    for name, value in state.items():
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


def main() -> None:
    """Writes the archive."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        tarfile.open(HERE / "checkpoints.tar.xz", "w:xz", preset=9) as archive,
    ):
        for name, content in contents().items():
            path = Path(folder) / name
            if name.endswith(".json"):
                path.write_text(json.dumps(content))
            else:
                torch.save(content, path, _use_new_zipfile_serialization="_stream" not in name)
            _add(archive, path)
        torch.jit.script(nn.Linear(2, 2)).save(Path(folder) / "scripted.pt")
        _add(archive, Path(folder) / "scripted.pt")


def _add(archive: tarfile.TarFile, path: Path) -> None:
    member = tarfile.TarInfo(path.name)
    content = path.read_bytes()
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
