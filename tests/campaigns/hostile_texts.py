"""Texts of JSON that come with weights: indexes that lead elsewhere, and `config.json` with too much in it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.campaigns.fuzz_seeds import model_config, processors
from tests.campaigns.fuzz_targets import INDEX, said_beside, sharded
from tests.campaigns.hostile_file import File, Make
from transfer.runtime.files.untrusted import MAX_JSON
from transfer.weights import beside

SHARD = "1.safetensors"
DEEP, DIGITS, MANY = b"[" * 1_000_000, b"9" * 5000, 200_000
# Bytes of a shard that is hashed in no time once, and not so often.
LARGE = 8 << 20


def listed(names: Mapping[str, object]) -> bytes:
    """An index of tensors by file."""
    return json.dumps({"weight_map": names}).encode()


def with_shard(index: bytes, size: int = 4) -> Make:
    """What writes an index, and a shard with the tensor `a` of so many bytes."""

    def make(folder: Path) -> None:
        (folder / INDEX).write_bytes(index)
        (folder / SHARD).write_bytes(save({"a": np.zeros(size // 4, np.float32)}))

    return make


def instead(put: Callable[[Path], object], name: str = SHARD) -> Make:
    """What writes an index of one file, which `put` makes, beside a good one."""

    def make(folder: Path) -> None:
        with_shard(listed({"a": name}))(folder)
        (folder / name).unlink(missing_ok=True)
        put(folder / name)

    return make


OUTSIDE = {
    "above": "../1.safetensors",
    "above a folder": "x/../../1.safetensors",
    "at the root": "/etc/passwd",
    "at the root of another kind": "//host/share/1.safetensors",
    "of another system": "C:\\1.safetensors",
    "on a drive": "C:1.safetensors",
    "in an address": "file:///etc/passwd",
    "of no name": "",
    "in its folder itself": ".",
    "that is a number": 7,
    "that is a list": [SHARD],
    "that is nothing": None,
}
MISSING = {
    "with a zero byte": "1.safetensors\0",
    "with half a letter": "\ud800",
    "with an escape": "\x1b[2J\n",
    "of a megabyte": "x" * (1 << 20),
    "in many folders": "x/" * 100_000 + "x",
}


def links(folder: Path) -> None:
    """Indexes that each list both of the next: more ways than there is time for."""
    for number in range(60):
        index = listed({f"a{number}": f"{number + 1}.json", f"b{number}": f"{number + 1}b.json"})
        for name in (f"{number}.json", f"{number}b.json"):
            (folder / name).write_bytes(index)
    os.rename(folder / "0.json", folder / INDEX)


def indexes() -> Iterator[File]:
    """Indexes of shards."""

    def case(name: str, make: Make, *says: str, reads: bool = False) -> File:
        return File(f"an index {name}", make, sharded, says, reads)

    for title, place in OUTSIDE.items():
        yield case(f"of a shard {title}", with_shard(listed({"a": place})), "outside of its folder")
    for title, place in MISSING.items():
        yield case(f"of a shard {title}", with_shard(listed({"a": place})), "is not there")
    for title, put in {
        "is a device": lambda path: path.symlink_to("/dev/zero"),
        "is a pipe": os.mkfifo,
        "is a folder": Path.mkdir,
        "links to itself": lambda path: path.symlink_to(path.name),
    }.items():
        yield case(f"of a shard that {title}", instead(put), "is not there")
    yield case("of a shard that is another text", instead(lambda path: path.symlink_to("/etc/passwd")), "not a weight")
    yield case("of itself", with_shard(listed({"a": INDEX})), "holds no tensors")
    yield case("of a config.json", instead(lambda path: path.write_bytes(model_config()[0]), "c.json"), "no tensors")
    yield case("of indexes of indexes", links, "holds no tensors")
    spellings = {"a": SHARD} | {f"a{count}": "./" * count + SHARD for count in range(1, 1500)}
    yield case("of one shard by many names", with_shard(listed(spellings), LARGE), "does not hold")
    yield case("of a shard without its tensor", with_shard(listed({"b": SHARD})), "does not hold b")
    many = {f"a{number}": SHARD for number in range(MANY)}
    yield case("of many tensors", with_shard(listed(many)), "does not hold")
    yield case("of many shards", with_shard(listed({f"{n}": f"{n}.bin" for n in range(MANY)})), "is not there")
    yield case("with a tensor twice", with_shard(b'{"weight_map": {"a": "x", "a": "%s"}}' % SHARD.encode()), reads=True)
    yield case("with a place twice", with_shard(b'{"weight_map": {"a": "x", "a": "../x"}}'), "outside of its folder")
    yield case("of a name of half a letter", with_shard(listed({"\ud800": SHARD})), "does not hold")
    yield case(
        "of other sizes", with_shard(listed({"a": SHARD})[:-1] + b', "metadata": {"total_size": 1e999}}'), reads=True
    )
    yield case("of deep brackets", with_shard(b'{"weight_map": ' + DEEP), "JSON")
    yield case("of digits without end", with_shard(b'{"metadata": ' + DIGITS + b', "weight_map": {}}'), "JSON")
    yield case(
        "of nothing much", with_shard(b'{"weight_map": [' + b"{}," * (MAX_JSON // 3 - 9) + b"{}]}"), "weight_map"
    )
    yield case("that is too long", with_shard(b'{"x": "' + b"x" * MAX_JSON + b'"}'), str(MAX_JSON))
    yield case("that is no UTF-8", with_shard(b'{"weight_map": {"\xff": "x"}}'), "JSON")


def changed(content: bytes, **changes: object) -> bytes:
    """A text with other values, in timm's inner dict too."""
    found = json.loads(content)
    for each in (found, found.get("pretrained_cfg", {})):
        each |= changes
    return json.dumps(found).encode()


NAMES = [f"class {number}" for number in range(MANY)]
CONFIGS: Mapping[str, dict[str, object]] = {
    "of many classes": {"label_names": NAMES},
    "of classes by number with gaps": {"label_names": {str(number): "x" for number in range(0, MANY, 2)}},
    "of more classes than may be": {"label_names": None, "num_classes": 1 << 60},
    "of less than no class": {"label_names": None, "num_classes": -(1 << 60)},
    "of names that a terminal would act on": {"label_names": ["\x1b[2J", "a\nb", "\u202e", "\ud800"]},
    "of a name of a megabyte": {"label_names": ["x" * (1 << 20)]},
    "of a network's name of a megabyte": {"architecture": "resnet-" * (1 << 17)},
    "of many arguments": {"model_args": {f"a{number}\n": "x" * 99 for number in range(50_000)}},
    "of images of a terapixel": {"input_size": [3, 1 << 40, 1 << 40], "test_input_size": [3, 1 << 20, 1 << 20]},
    "of images of more than a float holds": {"input_size": [3, 10**400, 10**400]},
    "of images of many sides": {"input_size": [3] * MANY},
    "of images of half pixels": {"input_size": [3, 160.5, 160.5]},
    "of a crop of nothing": {"crop_pct": 0, "test_crop_pct": 1e-300},
    "of many means": {"mean": [0.5] * MANY, "std": [0.5] * MANY},
    "of means that are none": {"mean": [float("nan")] * 3, "std": [float("inf")] * 3},
    "of a filter of many words": {"interpolation": "bicubic " * MANY},
    "of a wide network": {"architecture": None, "model_type": "resnet", "embedding_size": 1 << 60},
    "of sizes that are lists": {"architecture": None, "model_type": "resnet", "depths": [[2]] * MANY},
}
PROCESSORS: Mapping[str, dict[str, object]] = {
    "of an edge of a terapixel": {"size": {"shortest_edge": 1 << 40}},
    "of an edge of more than a float holds": {"size": {"shortest_edge": 10**400}},
    "of an edge that is text": {"size": {"shortest_edge": "x" * MANY}},
    "of a size that is a list": {"size": [224] * MANY},
    "of a crop of nothing": {"crop_pct": 0},
    "of a filter that is a list": {"resample": [3]},
    "of a factor that is none": {"rescale_factor": float("nan")},
    "of a kind of a megabyte": {"image_processor_type": "ViT" * (1 << 18)},
}


def texts() -> Iterator[File]:
    """`config.json` and `preprocessor_config.json`, of which a line in the log says what is not looked at."""

    def case(name: str, config: bytes, processor: bytes = b"{}") -> File:
        def make(folder: Path) -> None:
            for file, content in (("model.bin", b"x"), (beside.CONFIG, config), (beside.PREPROCESSOR, processor)):
                (folder / file).write_bytes(content)

        return File(name, make, said_beside, reads=True)

    for title, changes in CONFIGS.items():
        for number, content in enumerate(model_config()):
            yield case(f"config.json {title}, {number}", changed(content, **changes))
    for title, changes in PROCESSORS.items():
        for number, content in enumerate(processors()):
            yield case(f"preprocessor_config.json {title}, {number}", b"{}", changed(content, **changes))
    odd = {
        "of deep brackets": b'{"a": ' + DEEP,
        "of digits without end": b'{"num_classes": ' + DIGITS + b"}",
        "of nothing much": b'{"a": [' + b"{}," * (MAX_JSON // 3 - 9) + b"{}]}",
        "that is too long": b" " * (MAX_JSON + 1),
        "of sizes as deep as can be read": b'{"model_type": "resnet", "depths": ' + b"[" * 900 + b"]" * 900 + b"}",
        "that is a list": b"[]",
        "with a network twice": b'{"architecture": "resnet18", "architecture": ["resnet18"]}',
    }
    for title, content in odd.items():
        yield case(f"config.json {title}", content)
        yield case(f"preprocessor_config.json {title}", b"{}", content)
    for title, put in {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero")}.items():
        yield File(f"config.json that is {title}", beside_a(put), said_beside, reads=True)


def beside_a(put: Callable[[Path], object]) -> Make:
    """What writes a weight file, and `put` in place of its `config.json`."""

    def make(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"x")
        put(folder / beside.CONFIG)

    return make


def files() -> list[File]:
    """All of them."""
    return [*indexes(), *texts()]
