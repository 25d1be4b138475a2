"""The catalogue's records are sound; files are downloaded whole, verified, or not at all."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from absl import logging as absl_logging

from tests.campaigns import source
from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.preprocess.recipe import normalise
from transfer.weights import cache, catalogue
from transfer.weights.catalogue import Record, WeightFile
from transfer.weights.names import libraries

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTENT, SHA256 = source.CONTENT, source.SHA256
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue.names())
def test_a_record_is_complete(name: str) -> None:
    record = catalogue.get(name)
    hash(record)
    assert record.name == name and record.arch in registry.architectures()
    assert record.name_map in libraries(record.arch)
    assert record.licence and record.source and record.gflops
    model = registry.build(record.arch, seed=None, num_classes=record.num_classes, **dict(record.fields))
    arrays = registry.flat_state(model)
    # Keras counts the moving statistics of batch norm too
    is_counted = (lambda path: True) if record.name_map == "keras" else lambda path: not path.endswith((".mean", "var"))
    assert record.num_params == sum(array.size for path, array in arrays.items() if is_counted(path))
    if "logits.kernel" in arrays and not any(path.startswith("fc1") for path in arrays):
        assert record.num_features == arrays["logits.kernel"].shape[0]
    if record.dataset == "ImageNet-1k" and name not in WITHOUT_ACCURACY:
        assert record.acc1 and (56 if record.num_classes else 49) < record.acc1 < 83
    for file in filter(None, (record.file, record.notop)):
        if file.url:
            assert file.url.startswith("https://")
            assert file.sha256 or file.sha256_prefix or file.md5 or not record.num_classes


# The features' classifier is not usable; the other is in no table of results that was to be had.
WITHOUT_ACCURACY = ("vgg16.tv_features", "resnet34.tv_in1k")


def test_a_local_file_has_one_name_and_is_one_file() -> None:
    files = [f for r in catalogue.records().values() for f in (r.file, r.notop) if f]
    assert len({f.filename for f in files}) == len({f.url for f in files}) == len(set(files))


def test_every_published_weight_set_has_its_record() -> None:
    by_source = Counter(r.source.split()[0] for r in catalogue.records().values())
    assert by_source["torchvision"] == 28 and by_source["keras"] == 9
    assert all(r.notop for r in catalogue.records().values() if r.name.endswith(".keras"))
    timm = [r for r in catalogue.records().values() if r.source.startswith("timm")]
    assert {"resnet50.a1_in1k", "resnet50.tv_in1k", "vgg16_bn.tv_in1k", "inception_v3.tv_in1k"} < {r.name for r in timm}
    assert all((r.hf_repo, r.hf_file) == (f"timm/{r.name}", "model.safetensors") for r in timm)


def test_an_alias_is_its_record() -> None:
    record = catalogue.get("resnet50.a1")
    assert record is catalogue.get("resnet50.a1_in1k") and "resnet50.a1" in record.aliases
    assert "resnet50.a1" not in catalogue.names() and catalogue.names("*50.a1") == ["resnet50.a1_in1k"]
    names = [name for r in catalogue.records().values() for name in (r.name, *r.aliases)]
    assert len(names) == len(set(names))


def test_both_sets_of_torchvision_are_told_apart_where_there_are_two() -> None:
    names = set(catalogue.names("*.tv*"))
    assert {"resnet18.tv", "resnet34.tv", "vgg16.tv", "vgg19_bn.tv"} < names
    for arch in ("resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext101_32x8d"):
        assert {f"{arch}.tv1", f"{arch}.tv2"} < names and f"{arch}.tv" not in names
    assert catalogue.get("resnet50.tv1").preprocessing.resize_to == 256
    assert catalogue.get("resnet50.tv2").preprocessing.resize_to == 232


@pytest.mark.parametrize(
    ("name", "size", "resize_to", "pixel_becomes"),
    [
        # what a pixel of (64, 128, 192) becomes, by the arithmetic that the source publishes
        ("vgg16.keras", 224, None, (192 - 103.939, 128 - 116.779, 64 - 123.68)),
        ("resnet50v2.keras", 224, None, (64 / 127.5 - 1, 128 / 127.5 - 1, 192 / 127.5 - 1)),
        ("inception_v3.keras", 299, None, (64 / 127.5 - 1, 128 / 127.5 - 1, 192 / 127.5 - 1)),
        ("inception_v3.tv_in1k", 299, 341, (64 / 127.5 - 1, 128 / 127.5 - 1, 192 / 127.5 - 1)),
        ("inception_v3.tv", 299, 342, [(v / 255 - m) / s for v, m, s in zip((64, 128, 192), MEAN, STD, strict=True)]),
        ("vgg16.tv", 224, 256, [(v / 255 - m) / s for v, m, s in zip((64, 128, 192), MEAN, STD, strict=True)]),
        ("vgg16.tv_features", 224, 256, (64 - 0.48235 * 255, 128 - 0.45882 * 255, 192 - 0.40784 * 255)),
        ("resnet50.a1", 288, 288, [(v / 255 - m) / s for v, m, s in zip((64, 128, 192), MEAN, STD, strict=True)]),
    ],
)
def test_preprocessing_by_source(name: str, size: int, resize_to: int | None, pixel_becomes: Sequence[float]) -> None:
    recipe = catalogue.get(name).preprocessing
    assert recipe.image_size == (size, size) and recipe.resize_to == resize_to
    pixel = np.array([64, 128, 192], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalise(recipe, pixel).ravel(), pixel_becomes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg16.kers", "did you mean vgg16.keras"),
        ("vgg16", "choose vgg16.keras, vgg16.tv"),
        ("zzz", "see `python -m transfer models`"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalogue.get(name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[source.Server]:
    with source.serving(tmp_path_factory.mktemp("source")) as server:
        yield server


@pytest.fixture
def address(server: source.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.certificate))
    return server.url("").removesuffix("/")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def record(url: str | None, **hashes: str) -> Record:
    return dataclasses.replace(catalogue.get("resnet18.tv"), file=WeightFile("x.pth", url, **hashes))


@pytest.mark.parametrize("hashes", [{"sha256": SHA256}, {"sha256_prefix": SHA256[:8]}, {"md5": MD5}, {}])
def test_a_download_is_kept_and_found_again(address: str, cache_folder: Path, hashes: dict[str, str]) -> None:
    path, sha256 = cache.fetch(record(f"{address}/good", **hashes))
    assert path == cache_folder / "x.pth" and sha256 == SHA256
    assert path.read_bytes() == CONTENT
    assert [file.name for file in cache_folder.iterdir()] == ["x.pth"]
    assert cache.fetch(record("https://127.0.0.1:9/gone", **hashes)) == (path, SHA256)


@pytest.mark.parametrize(
    ("page", "hashes", "message"),
    [
        ("good", {"sha256": "0" * 64}, "its SHA-256 is [0-9a-f]{64}, not 0{64}; nothing was kept"),
        ("good", {"sha256_prefix": "0" * 8}, "its SHA-256 is [0-9a-f]{64}, not 00000000…; nothing was kept"),
        ("good", {"md5": "0" * 32}, "its MD5 is [0-9a-f]{32}, not 0{32}; nothing was kept"),
        ("nowhere", {"md5": MD5}, "cannot download https://.*/nowhere \\(HTTP 404\\)"),
        ("to-http", {"md5": MD5}, "refused: http://.* is not https"),
    ],
)
def test_nothing_is_kept_of_a_wrong_file(
    address: str, cache_folder: Path, page: str, hashes: dict[str, str], message: str
) -> None:
    with pytest.raises(TransferError, match=message):
        cache.fetch(record(f"{address}/{page}", **hashes))
    assert list(cache_folder.iterdir()) == []


def test_what_came_before_a_source_failed_is_kept(address: str, cache_folder: Path) -> None:
    with pytest.raises(
        TransferError, match="short.*; the same command goes on after the 0.5 MB that are here; or fetch"
    ):
        cache.fetch(record(f"{address}/short", md5=MD5))
    (part,) = cache_folder.iterdir()
    assert CONTENT.startswith(part.read_bytes()) and part.stat().st_size > len(CONTENT) // 4
    assert cache.fetch(record(f"{address}/good", md5=MD5)) == (cache_folder / "x.pth", SHA256)
    assert [file.name for file in cache_folder.iterdir()] == ["x.pth"]


def test_two_processes_download_a_file_once(address: str, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(2) as pool:  # two descriptors, as good as two processes to the lock
        found = list(pool.map(cache.fetch, [record(f"{address}/slow", sha256=SHA256)] * 2))
    assert found == [(cache_folder / "x.pth", SHA256)] * 2
    assert [file.name for file in cache_folder.iterdir()] == ["x.pth"]


def test_without_a_sha256_it_says_so(
    address: str, cache_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absl_logging.get_absl_logger(), "propagate", True)
    with caplog.at_level("INFO", logger="absl"):
        cache.fetch(record(f"{address}/good", sha256_prefix=SHA256[:8]))
    said = f"x.pth: published without a SHA-256, verified by 8 digits of SHA-256; its SHA-256 is {SHA256}"
    assert said in caplog.text


def test_offline_and_not_cached_says_where_to_put_the_file(cache_folder: Path) -> None:
    with pytest.raises(TransferError) as error:
        cache.fetch(record("https://127.0.0.1:9/x.pth", md5=MD5))
    message = str(error.value)
    assert message.startswith("cannot download https://127.0.0.1:9/x.pth (ConnectionError")
    assert f"put it at {cache_folder / 'x.pth'}" in message and "\n" not in message
    timm = dataclasses.replace(catalogue.get("resnet18.a1_in1k"), file=WeightFile("x.pth", "https://127.0.0.1:9/x.pth"))
    with pytest.raises(
        TransferError, match=r"\(weights=FILE\), such as model.safetensors of timm/resnet18.a1_in1k on H"
    ):
        cache.fetch(timm)


def test_a_damaged_cached_file_is_noticed(cache_folder: Path) -> None:
    cache_folder.mkdir()
    (cache_folder / "x.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(TransferError, match=r"x\.pth is not resnet18\.tv: its MD5 is .* delete it"):
        cache.fetch(record("https://127.0.0.1:9/x.pth", md5=MD5))


def test_a_shipped_file_that_is_missing() -> None:
    with pytest.raises(TransferError, match="missing from the installation"):
        cache.fetch(record(None))
