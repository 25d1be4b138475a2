"""Files that people take for weights and that are something else: what they are, and what to fetch or save instead."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable

# As many bytes as a tar needs to be told by its magic number; so many of them are shown of a text.
LOOKED_AT, SHOWN = 512, 60
PAGE = "a web page, such as a login or an error page of the server, in place of the file: fetch it again, signed in"
TENSORFLOW = "load it in TensorFlow and save the model as .keras, or its weights as .weights.h5"
UNPACK = "unpack it and give the weight file in it"
PICKLE = "load it where it was written, and save model.state_dict() by torch.save"


class Other(NamedTuple):
    """A kind of file, told by how it begins, by its name, or by the names in a zip, and what to say of it.

    Patterns are regular expressions; `begins` takes no notice of case and of white space in front, `{start}` in the
    text stands for the first bytes.
    """

    text: str
    begins: bytes = b""
    name: str = ""
    members: str = ""

    def is_kind_of(self, head: bytes, name: str, members: Collection[str]) -> bool:
        """Whether a file with these first bytes, this name and these members of a zip is of the kind."""
        of_members = bool(self.members and re.fullmatch(self.members, "\n".join(members)))
        of_head = bool(self.begins and re.match(rb"(?is)\s*(?:" + self.begins + rb")", head))
        return of_head or bool(self.name and re.search(self.name, name)) or of_members


OTHERS = (
    Other("an empty file, or one of zeros, as a download leaves that did not end: fetch it again", rb"\0*\Z"),
    Other(
        "a pointer of Git LFS, not the file itself: `git lfs pull` in its repository fetches it", rb"version https://"
    ),
    Other(PAGE, rb"(?:\xef\xbb\xbf\s*)?<"),
    Other(
        "arrays as .npz, which no library writes: save them under a library's names as .safetensors",
        members=r"([^\n]+\.npy\n?)+",
    ),
    Other("a single array, not named weights", rb"\x93numpy"),
    Other(f"a TensorFlow Lite model, made for inference: {TENSORFLOW} (what it was made from)", rb".{4}tfl3"),
    Other("a GGUF file of a language model", rb"gguf"),
    Other(f"a packed file: {UNPACK}", rb"\x1f\x8b|bzh|\xfd7zxz|7z\xbc\xaf|rar!|\x28\xb5\x2f\xfd"),
    Other(f"a tar archive: {UNPACK}", rb".{257}ustar"),
    Other(
        "a program of torch.export; save torch.export.load(FILE).state_dict by torch.save",
        members=r"(?s).*(archive_format|serialized_exported_program\.json).*",
    ),
    Other(f"a zip archive with other files in it: {UNPACK}", rb"pk\x03\x04"),
    Other(f"a part of a TensorFlow checkpoint: {TENSORFLOW}", name=r"\.(index|data-\d{5}-of-\d{5}|meta)$|^checkpoint$"),
    Other(f"a TensorFlow graph (SavedModel): {TENSORFLOW}", name=r"\.pb$"),
    Other(f"a pickle (of pickle.dump or joblib), not a file of torch.save: {PICKLE}", rb"\x80[\2-\5]|\(dp\d*\n"),
    Other(
        "a text ('{start}'), such as the answer of a server, in place of the file: fetch it again", rb"[\t-\r -~]+\Z"
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
    r"\b(weight_fake_quant|activation_post_process)\b": (
        "of a network that is trained to be quantised and rounds its numbers: save it as it was before prepare_qat()"
    ),
}


def named(path: Path, members: Collection[str]) -> str | None:
    """What a file of no supported format is, and what to do; None for one that is nothing known."""
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    text = next((other.text for other in OTHERS if other.is_kind_of(head, path.name, members)), None)
    return text and text.format(start=printable(head.strip(), SHOWN))


def check_names(tensors: Collection[str]) -> None:
    """Raises TransferError for tensors that are no weights of a network, by their names."""
    for pattern, text in NAMES.items():
        for name in tensors:
            if re.search(pattern, name):
                raise TransferError(f"{printable(name)} shows that the file is {text}")
