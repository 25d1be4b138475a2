"""Files that say of themselves that they are another network than the one their tensors fit: a line, never silence."""

import argparse
import dataclasses
import io
import json
import logging
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import reading
from safetensors.numpy import save_file

from transfer import __main__ as command
from transfer.errors import TransferError
from transfer.models import registry
from transfer.runtime.files.unpickler import RestrictedUnpickler, resolve_pending
from transfer.weights import cache, catalogue, claims, create_model, native
from transfer.weights.asked import Asked, Told
from transfer.weights.catalogue import WeightFile
from transfer.weights.readers import Described, claims_in
from transfer.weights.readers._described import LONGEST
from transfer.weights.readers.torch_file import state_dict

WIDTH = 1 / 16
RECORDS = catalogue.records()


def resnet(folder: Path, **metadata: str) -> Path:
    tensors = {name: np.ascontiguousarray(each) for name, each in reading.cases()["resnet18_slim"].state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata or None)
    return folder / "model.safetensors"


def problems(file: Path, read: Described, name: str) -> list[str]:
    return list(claims.problems(Asked(name, "resnet18"), Told(file, tensors=read)))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def loaded(path: Path, **options: Any) -> Any:
    return create_model("resnet18", weights=path, width=WIDTH, **options)


def by_other_names(name: str) -> set[str]:
    """How torchvision, timm, Keras, Hugging Face and people write the architecture of a record."""
    record = RECORDS[name]
    arch, (first, *rest) = record.arch, name.split(".")
    plain = first if record.name_map != "native" else arch
    return {
        name,
        arch,
        arch.upper(),
        arch.title(),
        arch.replace("_", "-"),
        arch.replace("_", ""),
        f"tv_{arch}",
        f"tf_{arch}",
        f"timm/{name}",
        f"hf-hub:timm/{plain}.{'.'.join(rest)}",
        f"torchvision.models.{arch}",
        f"keras.applications.{arch.title().replace('_', '')}",
        f"{arch.replace('_', ' ')} ",
        f"{arch.title().replace('_', '')}_Weights.IMAGENET1K_V1",
    }


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_known_by_its_names(name: str) -> None:
    arch, names = RECORDS[name].arch, by_other_names(name)
    assert {text: claims.named(text, arch) for text in names} == dict.fromkeys(names, arch)


@pytest.mark.parametrize(
    ("text", "arch", "found"),
    [
        ("microsoft/resnet-50", "resnet50", "resnet50"),
        ("torchvision.models.resnet.resnet50", "resnet50", "resnet50"),
        ("ResNetForImageClassification", "resnet50", "resnet50"),
        ("resnet", "wide_resnet50_2", "wide_resnet50_2"),
        ("ResNet", "resnext101_32x8d", "resnext101_32x8d"),
        ("VGG", "vgg19_bn", "vgg19_bn"),
        ("inception", "inception_v3", "inception_v3"),
        ("resnext50", "resnext50_32x4d", "resnext50_32x4d"),
        ("ig_resnext101_32x8d", "resnext101_32x8d", "resnext101_32x8d"),
        ("gluon_resnet50_v1b", "resnet50", "resnet50"),
        ("adv_inception_v3", "inception_v3", "inception_v3"),
        # surely other functions of tensors with the same names and shapes
        ("resnetblur50", "resnet50", claims.OTHER),
        ("timm/resnetblur50.bt_in1k", "resnet50", claims.OTHER),
        ("resnetaa101d", "resnet101", claims.OTHER),
        ("ResNetBlur18", "resnet18", claims.OTHER),
        ("resnet50_silu", "resnet50", claims.OTHER),
        ("resnet50-dilated8", "resnet50", claims.OTHER),
        ("vgg16_leaky", "vgg16", claims.OTHER),
        # others of ours; the tensors say that it is none of them
        ("resnet18", "resnet50", "resnet18"),
        ("vgg16", "vgg16_bn", "vgg16"),
        ("wide_resnet50_2", "resnet50", "wide_resnet50_2"),
        # who knows
        ("my_model", "resnet50", None),
        ("resnet10", "resnet101", None),
        ("resnet50_vggface2", "resnet50", None),
        ("caffe", "resnet50", None),
        ("resnetblur50", "vgg16", None),
        ("vit_base_patch16_224.augreg_in21k", "resnet50", None),
        ("", "resnet50", None),
        ("./:..", "resnet50", None),
        ("\u212bber\u0130", "resnet50", None),
    ],
)
def test_what_a_name_means(text: str, arch: str, found: str | None) -> None:
    assert claims.named(text, arch) == found


@pytest.mark.parametrize(
    "text",
    [
        *("tv_resnet50", "tf_resnet50", "torchvision_resnet50", "timm_resnet50", "keras_resnet50", "gluon_resnet50"),
        *("ssl_resnet50", "swsl_resnet50", "ig_resnet50", "fb_resnet50", "adv_resnet50", "microsoft-resnet-50"),
        *("google-resnet-50", "resnet50_in1k", "resnet50-imagenet", "resnet50_imagenet1k", "resnet50_weights"),
        *("pretrained_resnet50", "resnet50_pretrained_model", "resnet50_a1", "resnet50_a2", "resnet50_a3_in1k"),
        *("resnet50v1b", "ResNet50Backbone", "ResNet50Model"),
    ],
)
def test_who_trained_it_on_what_leaves_a_name_what_it_is(text: str) -> None:
    assert claims.named(text, "resnet50") == "resnet50" and claims.named(text, "vgg16") == "resnet50"


@pytest.mark.parametrize(
    ("text", "arch"),
    [
        *(("resnext50", "resnext50_32x4d"), ("resnext101", "resnext101_32x8d"), ("InceptionV1", "googlenet")),
        *(("wide-resnet-50", "wide_resnet50_2"), ("wideresnet101", "wide_resnet101_2"), ("LeNet", "lenet5")),
        *(("gluon_resnet50_v1b", "resnet50"), ("gluon_resnet101_v1b", "resnet101"), ("resnet152_v1b", "resnet152")),
    ],
)
def test_names_of_other_letters(text: str, arch: str) -> None:
    assert claims.named(text, "vgg16") == arch


@pytest.mark.parametrize(
    "word",
    [
        *("blur", "blur50", "aa", "antialias", "antialiased", "dilated", "dilated8", "os8", "os16", "caffe"),
        *("silu", "swish", "hardswish", "mish", "gelu", "elu", "celu", "selu", "leaky", "leakyrelu", "prelu"),
    ],
)
def test_words_that_make_another_function(word: str) -> None:
    assert claims.named(f"vgg16_{word}", "vgg16") == claims.named(f"{word}-vgg16", "vgg16") == claims.OTHER
    assert claims.named(f"vgg16_{word}x", "vgg16") is None


CHECKPOINTS = {
    "arch": {"arch": "{}", "epoch": 90},
    "args.model": {"args": {"model": "{}", "lr": 0.1}},
    "args.arch": {"args": {"arch": "{}"}},
    "model_name": {"model_name": "{}"},
    "hyper_parameters.backbone": {"hyper_parameters": {"backbone": "{}"}},
    "config.model_args.architecture": {"config": {"model_args": {"architecture": "{}"}}},
    "architectures": {"architectures": ["{}"]},
    "pretrained_cfg.architecture": {"pretrained_cfg": {"architecture": "{}"}, "num_classes": 1000},
}


def named(content: Any, name: str) -> Any:
    """The content with `{}` replaced by a name."""
    return json.loads(json.dumps(content).replace("{}", name))


@pytest.mark.parametrize("key", CHECKPOINTS)
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_what_a_checkpoint_says_beside_its_tensors(key: str, wrapper: str, tmp_path: Path) -> None:
    tensors = {"a.weight": np.ones(3, np.float32)}
    read = state_dict({**named(CHECKPOINTS[key], "resnetblur18"), wrapper: tensors})
    assert list(read) == ["a.weight"] and read.says == {key: "resnetblur18"}
    (tmp_path / "x.pth").touch()
    (problem,) = problems(tmp_path / "x.pth", read, "resnet18.a1")
    assert f"x.pth says {key}=resnetblur18: not resnet18.a1, but another function" in problem


@pytest.mark.parametrize("arch", ["resnetblur18", "resnet18", "my net"])
def test_a_checkpoint_of_pytorch(arch: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.pth"
    text = arch.encode()
    with zipfile.ZipFile(reading.HERE / "resnet18_slim.pth") as good, zipfile.ZipFile(path, "w") as checkpoint:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("data.pkl"):
                start = b"\x80\x02}(X\x04\x00\x00\x00archX" + struct.pack("<I", len(text)) + text
                content = start + b"X\x0a\x00\x00\x00state_dict" + content[2:-1] + b"u."
            checkpoint.writestr(name, content)
    if arch == "resnetblur18":
        with pytest.raises(TransferError, match="x.pth says arch=resnetblur18: not resnet18, but another function"):
            loaded(path)
    loaded(path, by_names=True)
    assert len(lines(caplog)) == (arch != "resnet18")


@pytest.mark.slow
@pytest.mark.parametrize("key", CHECKPOINTS)
def test_a_config_beside_the_file(key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, beside = resnet(tmp_path), tmp_path / "config.json"
    beside.write_text(json.dumps(named(CHECKPOINTS[key], "resnetblur18")))
    with pytest.raises(TransferError) as error:
        loaded(path)
    assert str(error.value).startswith(f"{beside} says {key}=resnetblur18: not resnet18, but")
    assert str(error.value).endswith("; by_names=True (convert: --by_names) takes the weights by their names")
    model = loaded(path, by_names=True)
    assert model.weights_sha256 and f"says {key}=resnetblur18" in caplog.text
    caplog.clear()
    beside.write_text(json.dumps(named(CHECKPOINTS[key], "timm/resnet18.a1_in1k")))
    loaded(path)
    assert lines(caplog) == []
    beside.write_text(json.dumps(named(CHECKPOINTS[key], "mobilenetv3_large_100")))
    loaded(path)
    (line,) = lines(caplog)
    assert line == (
        f"{beside} says {key}=mobilenetv3_large_100, an unknown name; the tensors fit resnet18, so they "
        "are taken as resnet18"
    )


def test_the_header_of_safetensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TransferError, match="model.safetensors says arch=resnetaa18: not resnet18"):
        loaded(resnet(tmp_path, arch="resnetaa18", format="pt"))
    loaded(resnet(tmp_path, architecture="resnet34", format="pt"))
    assert "says architecture=resnet34, the name of resnet34; the tensors fit resnet18" in lines(caplog)[0]


SETTINGS = [
    ({"model_args": {"act_layer": "silu"}}, "model_args.act_layer=silu"),
    ({"architecture": "resnet18", "model_args": {"output_stride": 8}}, "model_args.output_stride=8"),
    ({"model_type": "resnet", "hidden_act": "gelu"}, "hidden_act=gelu"),
    ({"architecture": "resnet18", "global_pool": "max"}, "global_pool=max"),
    ({"args": {"model": "resnet18", "model_kwargs": {"aa_layer": "blurpool"}}}, "args.model_kwargs.aa_layer=blurpool"),
]


@pytest.mark.parametrize(("config", "says"), SETTINGS)
def test_settings_that_make_another_function(config: dict, says: str, tmp_path: Path) -> None:
    path = resnet(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TransferError, match=f"says {says}: resnet18 is another function of the same tensors; by_names"):
        loaded(path)
    loaded(path, by_names=True)


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [
        ("act_layer", ("relu", "ReLU", "torch.nn.ReLU", None, ""), ("relu6", "silu")),
        ("hidden_act", ("relu", None), ("gelu",)),
        ("aa_layer", ("none", "None", False, None), ("blurpool", "avg")),
        ("output_stride", (32, "32", None), (8, 16)),
        ("global_pool", ("avg", "avgpool", "fast", "none", "", None), ("max", "catavgmax")),
        ("gp", ("avg", "fast", None), ("max", "avgmax")),
        ("bn_eps", (1e-5, None), (1e-3, 0.01)),
        ("downsample_in_first_stage", (False, None), (True,)),
    ],
)
def test_settings_and_what_is_usual(key: str, usual: tuple, other: tuple, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for values, count in ((usual, 0), (other, 1)):
        for value in values:
            described = Described({}, claims_in({key: value}))
            assert len(problems(tmp_path / "x", described, "resnet18")) == count, value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model_kwargs": {"act_layer": "silu"}}, {"args.model_kwargs.act_layer": "silu"}),
        (
            {"model_kwargs": {"output_stride": 8, "x": [1]}, "gp": "max"},
            {"args.gp": "max", "args.model_kwargs.output_stride": 8},
        ),
        ({"model": "resnetaa50", "bn_eps": 1e-3, "lr": 0.1}, {"args.model": "resnetaa50", "args.bn_eps": 1e-3}),
        ({"model_kwargs": {"act_layer": argparse.Namespace(a=1)}}, {}),
        ({"model_kwargs": {}, "gp": None}, {}),
    ],
)
def test_the_settings_of_a_training_script(arguments: dict, says: dict) -> None:
    written = io.BytesIO(pickle.dumps({"args": argparse.Namespace(**arguments)}))
    assert claims_in(resolve_pending(RestrictedUnpickler(written, {}, stand_ins=True).load())) == says


class Settings(dict):
    """A dict of a class that is not here, as Lightning's and configuration libraries' are."""


def test_settings_in_a_dict_of_another_class() -> None:
    written = io.BytesIO(pickle.dumps({"hyper_parameters": Settings(arch="resnetblur18", args=Settings(gp="max"))}))
    says = {"hyper_parameters.arch": "resnetblur18", "hyper_parameters.args.gp": "max"}
    assert claims_in(resolve_pending(RestrictedUnpickler(written, {}, stand_ins=True).load())) == says


@pytest.mark.parametrize(
    "content",
    [
        {"architecture": "resnet18", "num_classes": 1000, "num_features": 512, "global_pool": "avg",
         "pretrained_cfg": {"tag": "a1_in1k", "mean": [0.485, 0.456, 0.406], "classifier": "fc"}},
        {"model_args": {"act_layer": "torch.nn.ReLU", "aa_layer": False, "output_stride": "32", "global_pool": ""}},
        {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "hidden_act": "relu"},
        {"model": {"name": "vgg16", "weights": None}, "train": "finetune", "data": {"source": "digits"}},
        {"arch": None, "args": None, "model": {"a": 1}, "config": [], "architectures": ["a", "b"]},
        {},
        [],
        7,
    ],
    ids=str,
)  # fmt: skip
def test_configs_that_say_nothing_else(content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = resnet(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded(path)
    assert lines(caplog) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"{" * 9, b'{"arch": ' + b"[" * 100_000, b"no"])
def test_a_config_that_is_none_is_not_in_the_way(content: bytes, tmp_path: Path, caplog: Any) -> None:
    path = resnet(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    loaded(path)
    (line,) = lines(caplog)
    assert line.startswith(f"{tmp_path / 'config.json'}: not looked at (")


def test_what_is_said_is_bounded() -> None:
    deep: Any = {"arch": "x"}
    for _ in range(10_000):
        deep = {"args": deep}
    assert claims_in(deep) == {}
    assert claims_in({1: "a", ("arch",): "b", "arch": b"bytes", "model_name": ["x", "y"]}) == {}
    long = claims_in({"arch": "ForA" * 1_000_000 + "."})["arch"]
    assert len(long) == LONGEST and claims.named(long, "resnet50") is None
    assert Described({}).says == {} and Described({}).network is None


def test_our_own_files_say_what_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = registry.flat_state(registry.build("resnet18", seed=0, width=WIDTH))
    metadata = native.describe("resnet18", {"width": WIDTH}, model="resnet18.a1_in1k")
    native.write(tmp_path / "model.safetensors", arrays, metadata)
    (tmp_path / "config.json").write_text('{"architecture": "resnetblur18"}')  # of the file that this was made from
    create_model("resnet18", weights=tmp_path / "model.safetensors")
    assert lines(caplog) == []


# Written with, asked for as, with fields of one's own -> what is said, None if nothing.
FIELDS: list[tuple[dict, str, dict, str | None]] = [
    ({}, "resnet18.tv", {}, None),
    (
        {"bn_epsilon": 1e-3},
        "resnet18.tv",
        {},
        r"was written with bn_epsilon=0.001, and resnet18.tv has bn_epsilon=1e-05",
    ),
    ({"bn_epsilon": 1e-3}, "resnet18.tv", {"bn_epsilon": 1e-3}, None),
    ({"bn_epsilon": 1e-5, "stride_in_1x1": False}, "resnet18.tv", {}, None),
    ({"bn_epsilon": 1e-3}, "resnet18", {}, None),
    ({"num_classes": 1000}, "resnet18.a1", {}, None),
    ({}, "strided", {}, r"was written with stride_in_1x1=False, and strided has stride_in_1x1=True; by_names=True"),
]


@pytest.mark.parametrize(("written", "name", "own", "words"), FIELDS)
def test_the_fields_that_our_files_were_written_with(
    written: dict, name: str, own: dict, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strided = dataclasses.replace(RECORDS["resnet18.tv"], name="strided", fields=(("stride_in_1x1", True),))
    monkeypatch.setattr(catalogue, "records", lambda: {**RECORDS, "strided": strided})
    path = tmp_path / "model.safetensors"
    arrays = registry.flat_state(registry.build("resnet18", seed=0, width=WIDTH))
    native.write(path, arrays, native.describe("resnet18", {"width": WIDTH, **written}))
    if words:
        with pytest.raises(TransferError, match=words):
            create_model(name, weights=path, width=WIDTH, **own)
    create_model(name, weights=path, width=WIDTH, by_names=words is not None, **own)


@pytest.mark.parametrize(
    "stem",
    ["resnetblur18-84f4748f", "resnetaa18d", "resnet18_silu", "resnet18-dilated8-0123456789abcdef", "resnet18_msra"],
)
def test_a_file_that_is_called_as_another_function(stem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = resnet(tmp_path).rename(tmp_path / f"{stem}.safetensors")
    loaded(path)
    assert lines(caplog) == [
        f"{path} is called as another function of the same tensors is; if it is one, it is not resnet18"
    ]


@pytest.mark.parametrize(
    "stem", ["resnet18", "resnet18_a1_0-d63eafa0", "checkpoint", "x.best", "blur", "resnet18.a1_in1k"]
)
def test_a_file_whose_name_says_nothing_else(stem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded(resnet(tmp_path).rename(tmp_path / f"{stem}.safetensors"))
    assert lines(caplog) == []


def test_no_record_has_a_file_of_such_a_name(caplog: pytest.LogCaptureFixture) -> None:
    for record in RECORDS.values():
        claims.look_at_name(Path(record.file.filename), record.arch, record.name)
    assert lines(caplog) == []


def test_the_file_of_the_first_set_given_to_the_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resnet(tmp_path)
    prefix = cache.digests(path)["sha256"][:8]
    first, second = (dataclasses.replace(RECORDS["resnet18.tv"], name=f"resnet18.tv{n}") for n in (1, 2))
    own = WeightFile("a.pth", "https://127.0.0.1:9/a", sha256_prefix=prefix)
    other = dataclasses.replace(own, filename="b.pth", sha256_prefix="0" * 8)
    made = {
        "resnet18.tv1": dataclasses.replace(first, file=own),
        "resnet18.tv2": dataclasses.replace(second, file=other),
    }
    monkeypatch.setattr(catalogue, "records", lambda: made)
    create_model("resnet18.tv2", path, width=WIDTH)
    assert lines(caplog) == [
        f"resnet18.tv2: by its hash, {path} is the file of resnet18.tv1; preprocessing and all else are taken from "
        "resnet18.tv2"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("digits", [{"sha256": 64}, {"sha256_prefix": 8}, {"md5": 32}], ids=lambda digits: min(digits))
@pytest.mark.parametrize("notop", [False, True])
def test_the_file_of_another_record(
    digits: dict, notop: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resnet(tmp_path)
    ((key, count),) = digits.items()
    own = WeightFile("a.pth", "http://127.0.0.1:9/a", **{key: cache.digests(path)[key.split("_")[0]][:count]})
    other = WeightFile("b.pth", "http://127.0.0.1:9/b", sha256_prefix="01234567")
    nameless = WeightFile("c.pth", "http://127.0.0.1:9/c")
    base = RECORDS["resnet18.tv"]
    made = {
        "resnet18.v1": dataclasses.replace(base, file=other if notop else own, notop=own if notop else None),
        "resnet18.v2": dataclasses.replace(base, file=other, notop=nameless),
        "resnet18.same": dataclasses.replace(base, file=own),
        "resnet18.none": dataclasses.replace(base, file=nameless),
    }
    made = {name: dataclasses.replace(record, name=name) for name, record in made.items()}
    monkeypatch.setattr(catalogue, "records", lambda: made)
    for name in ("resnet18.v2", "resnet18.none"):
        caplog.clear()
        assert create_model(name, weights=path, width=WIDTH).record.name == name
        assert lines(caplog) == [
            f"{name}: by its hash, {path} is the file of resnet18.v1 and resnet18.same; preprocessing and all else are "
            f"taken from {name}"
        ]
    caplog.clear()
    for name in ("resnet18.v1", "resnet18.same", "resnet18"):
        create_model(name, weights=path, width=WIDTH)
    assert lines(caplog) == []


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, beside, output = (tmp_path / name for name in ("model.safetensors", "config.json", "out.safetensors"))
    native.write(path, registry.flat_state(registry.build("lenet5", seed=0)))
    beside.write_text('{"architecture": "lenet5_leaky\\u001b\\n"}')
    assert command.main(["convert", str(path), "--model=lenet5", f"--output={output}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(
        f"error: {beside} says architecture=lenet5_leaky\\x1b\\n: not lenet5, but another function"
    )
    assert printed.count("\n") == 1 and not output.exists()
