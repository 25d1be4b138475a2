"""`weights verify`: a right file passes check by check; each kind of wrong one fails by the check that it should."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from golden import reading

from transfer import __main__ as command
from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import cache, catalogue, create_model, native, verify
from transfer.weights.catalogue import Record, WeightFile

NAME = "vgg11_slim.cifar10"
SHIPPED = cache.local_path(catalogue.get(NAME).file)


def arrays_of(name: str) -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in registry.flat_state(create_model(name)).items()}


@pytest.fixture
def with_record(monkeypatch: pytest.MonkeyPatch):
    """Puts a changed record in the place of the shipped one."""
    shipped = catalogue.get(NAME)

    def change(**values: object) -> Record:
        changed = dataclasses.replace(shipped, **values)
        monkeypatch.setattr(catalogue, "records", lambda: {NAME: changed})
        return changed

    return change


def test_the_image_is_the_same_everywhere() -> None:
    image = verify.synthetic_image()
    assert image.shape == (211, 277, 3) and image.dtype == np.uint8
    assert hashlib.sha256(image.tobytes()).hexdigest().startswith("6263b41f687f78f5")


@pytest.mark.parametrize("arguments", [[], ["--weights", str(SHIPPED)]])
def test_the_shipped_file_is_verified(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["weights", "verify", NAME, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["hash", "load", "logits", "verified"]
    assert catalogue.get(NAME).file.sha256 in lines[0]
    assert "50 arrays, 579,786 parameters" in lines[1]
    assert "10 outputs" in lines[2] and "tolerance 1e-04" in lines[2]


def test_one_changed_weight_fails_by_the_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of(NAME)
    arrays["logits.bias"] = arrays["logits.bias"] + np.eye(1, 10, 3, dtype=np.float32)[0]
    native.write(tmp_path / "x.safetensors", arrays)
    assert command.main(["weights", "verify", NAME, "--weights", str(tmp_path / "x.safetensors")]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("load    50 arrays") and captured.out.count("\n") == captured.err.count("\n") == 1
    assert "; logits: " in captured.err
    assert captured.err.startswith(f"error: hash: {tmp_path / 'x.safetensors'} is not a file of {NAME}: SHA-256 ")


def test_without_a_hash_it_fails_by_the_logits(tmp_path: Path, with_record) -> None:
    with_record(file=WeightFile(SHIPPED.name))
    arrays = arrays_of(NAME)
    arrays["block1.conv1.kernel"] = arrays["block1.conv1.kernel"] * np.float32(1.01)
    native.write(tmp_path / "x.safetensors", arrays)
    lines: list[str] = []
    with pytest.raises(TransferError, match=f"^logits: .*x.safetensors is not {NAME}: outputs differ by .* tolerance"):
        verify.verify(NAME, tmp_path / "x.safetensors", report=lines.append)
    assert [line.split()[0] for line in lines] == ["hash", "load"] and "none is published" in lines[0]


def test_a_file_of_another_architecture_fails_by_the_load(with_record) -> None:
    with_record(file=WeightFile("x.pth"))
    with pytest.raises(
        TransferError, match=f"^load: .*_slim.pth does not fit {NAME}: .* look like resnet18 from torchv"
    ):
        verify.verify(NAME, reading.HERE / "resnet18_slim.pth", report=lambda line: None)


def test_another_number_of_classes_fails_by_the_load(tmp_path: Path, with_record) -> None:
    native.write(tmp_path / "x.safetensors", registry.flat_state(create_model(NAME, num_classes=3)))
    with_record(file=WeightFile("x"))
    with pytest.raises(TransferError, match="^load: .* parameters .* which is not .* with its 579,786 parameters"):
        verify.verify(NAME, tmp_path / "x.safetensors", report=lambda line: None)


def test_without_expected_logits_it_says_so_and_prints_what_it_found(with_record) -> None:
    with_record(logits=None)
    lines: list[str] = []
    verify.verify(NAME, SHIPPED, report=lines.append)
    assert lines[2] == "logits  none in the record to compare with; the first are 4.2525 1.352 2.3059 -0.46833 -0.81658"


def test_a_keras_file_without_classifier_is_the_records_too(with_record, tmp_path: Path) -> None:
    native.write(tmp_path / "x.safetensors", registry.flat_state(create_model(NAME, num_classes=0)))
    notop = WeightFile("notop", "https://nowhere", md5=cache.digests(tmp_path / "x.safetensors")["md5"])
    with_record(notop=notop)
    lines: list[str] = []
    verify.verify(NAME, tmp_path / "x.safetensors", report=lines.append)
    assert notop.md5 in lines[0] and "no classifier" in lines[1] and "none in the record" in lines[2]


def test_a_file_from_hugging_face_has_no_published_hash(tmp_path: Path, with_record) -> None:
    file = WeightFile("x-00000000.pth", "https://nowhere", sha256_prefix="00000000")
    with_record(file=file, hf_repo="timm/x", hf_file="model.safetensors")
    lines: list[str] = []
    verify.verify(NAME, SHIPPED, report=lines.append)
    assert "none is published for this file; its SHA-256 is 6e1a1f59" in lines[0]
    with_record(file=file)
    with pytest.raises(TransferError, match="^hash: "):
        verify.verify(NAME, SHIPPED, report=lines.append)


def test_the_smaller_file_is_taken_where_it_is_the_one_that_is_there(
    tmp_path: Path, with_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    (tmp_path / "notop.h5").write_bytes(b"x")
    files = {key: WeightFile(f"{key}.h5", "http://127.0.0.1:9", md5="0" * 32) for key in ("file", "notop")}
    with_record(**files)
    with pytest.raises(
        TransferError, match=f"^hash: .*notop.h5 is not a file of {NAME}: MD5 9dd4e461268c.*, not MD5 000"
    ):
        verify.verify(NAME)


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["weights", "verify", NAME, "--weights", "nowhere.pth"]) == 1
    assert capsys.readouterr().err == "error: nowhere.pth: no such weight file\n"
