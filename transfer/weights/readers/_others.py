"""Files that people take for weights and that are something else: what they are, and what to fetch or save instead."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable

# As many bytes as a tar needs to be told by its magic number, and where that is.
LOOKED_AT, TAR_MAGIC = 512, 257
PAGE = "a web page, such as a login or an error page of the server, in place of the file: fetch it again, signed in"
TENSORFLOW = "load it in TensorFlow and save the model as .keras, or its weights as .weights.h5"
UNPACK = "unpack it and give the weight file in it"


class Other(NamedTuple):
    """A kind of file, told by its first bytes from `at` on, by its name, or by the names in a zip, and what to say."""

    text: str
    starts: tuple[bytes, ...] = ()
    at: int = 0
    name: str = ""
    members: str = ""

    def is_kind_of(self, head: bytes, name: str, members: Collection[str]) -> bool:
        """Whether a file with these first bytes, this name and these members of a zip is of the kind."""
        of_members = bool(self.members and members) and all(re.search(self.members, member) for member in members)
        start = head[self.at :].lstrip().lower()
        return start.startswith(self.starts) or bool(self.name and re.search(self.name, name)) or of_members


OTHERS = (
    Other(
        "a pointer of Git LFS, not the file itself: `git lfs pull` in its repository fetches it", (b"version https://",)
    ),
    Other(PAGE, (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")),
    Other(
        "arrays as .npz, which no library writes: save them under a library's names as .safetensors",
        members=r"\.npy$",
    ),
    Other("a single array, not named weights", (b"\x93numpy",)),
    Other(f"a TensorFlow Lite model, made for inference: {TENSORFLOW} (what it was made from)", (b"tfl3",), at=4),
    Other("a GGUF file of a language model", (b"gguf",)),
    Other(f"a packed file: {UNPACK}", (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"7z\xbc\xaf", b"rar!", b"\x28\xb5\x2f\xfd")),
    Other(f"a tar archive: {UNPACK}", (b"ustar",), at=TAR_MAGIC),
    Other(f"a zip archive with other files in it: {UNPACK}", (b"pk\x03\x04",)),
    Other(f"a part of a TensorFlow checkpoint: {TENSORFLOW}", name=r"\.(index|data-\d{5}-of-\d{5}|meta)$|^checkpoint$"),
    Other(f"a TensorFlow graph (SavedModel): {TENSORFLOW}", name=r"\.pb$"),
    Other(
        "a pickle (of pickle.dump or joblib), not a file of torch.save: load it where it was written, and save "
        "model.state_dict() by torch.save",
        tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6)),
    ),
)
# Part of a tensor's name -> what the file is. Numbers to be added to weights, or to be multiplied by them, are none.
NAMES: Mapping[str, str] = {
    r"\blora_|\.lora\.|\bhada_w|\blokr_w": (
        "an adapter (LoRA), differences to a model's weights: merge it into that, by merge_and_unload(), and save it"
    ),
    r"\b(qweight|qzeros|SCB|absmax|weight_scale|_packed_params)\b": (
        "quantised: save the weights that it was made from, as float32"
    ),
}


def named(path: Path, members: Collection[str]) -> str | None:
    """What a file of no supported format is, and what to do; None for one that is nothing known."""
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    if not head:
        return "an empty file; fetch or save it again"
    return next((other.text for other in OTHERS if other.is_kind_of(head, path.name, members)), None)


def check_names(tensors: Collection[str]) -> None:
    """Raises TransferError for tensors that are no weights of a network, by their names."""
    for pattern, text in NAMES.items():
        for name in tensors:
            if re.search(pattern, name):
                raise TransferError(f"{printable(name)} shows that the file is {text}")
