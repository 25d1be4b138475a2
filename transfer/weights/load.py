"""Strict loading: every array of the model is filled with numbers, every tensor of the file used or excused."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable
from transfer.weights.names import NameMap, Shape

SHOWN = 3
# Part of the name of a tensor that is unexpected, or of all that are missing -> how to save the network instead.
SAVED_OTHERWISE: Mapping[str, str] = {
    r"weight_mask$": "it is pruned: save it after torch.nn.utils.prune.remove(module, 'weight') for each module",
    r"weight_u$": "save it after torch.nn.utils.remove_spectral_norm(module) for each module that has it",
    r"weight_g$": "save it after torch.nn.utils.remove_weight_norm(module) for each module that has it",
    r"\bparametrizations\.": (
        "save it after torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') for each that has one"
    ),
    r" as .*running_(mean|var)$": "save model.state_dict(), which has the statistics of batch norm too",
    r"^0\.": "numbers stand for names, as in an nn.Sequential: save the state_dict() of the library's own module",
}
# From this share of fitting arrays on, a file is of the model that it was taken for, and only damaged.
NEARLY = 0.9


class Likeness(NamedTuple):
    """`phrase` such as "vgg16_bn from torchvision (vgg16_bn.tv)"; `sure`: all names agree; `as_taken`: as asked for."""

    phrase: str
    sure: bool
    as_taken: bool = False


class Report(NamedTuple):
    """How a file and a model fit together: our paths, or names in the file where `unexpected` and `excused`."""

    matched: Sequence[str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Sequence[str]
    excused: Sequence[str]

    @property
    def fits(self) -> bool:
        """Whether no array is missing, and no tensor unexpected or misshapen."""
        return not (self.missing or self.unexpected or self.misshapen)

    def has(self, part: str) -> bool:
        """Whether a pattern is in an unexpected name, or in all that are missing."""
        are_so = [bool(re.search(part, name)) for name in self.missing]
        return any(re.search(part, name) for name in self.unexpected) or (any(are_so) and all(are_so))

    def __str__(self) -> str:
        """The problems: a count and the first few of each kind; empty if all fits."""
        problems = (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", self.misshapen))
        return "; ".join(f"{len(names)} {kind} ({few(names)})" for kind, names in problems if names)


def few(names: Sequence[str]) -> str:
    """The first few names, and whether there are more."""
    return ", ".join(printable(name, 200) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def fit(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], names: NameMap, left_out: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], Report]:
    """Matches a file's tensors with a model's arrays (dotted path -> shape) by name.

    Paths that are `left_out` are not to be filled; their tensors, and others of a classifier with them, are excused.

    Returns:
      (path -> array as stored but in our layout, for what fits; the report).
    """
    arrays: dict[str, np.ndarray] = {}
    missing, misshapen = [], []
    for path in (path for path in shapes if path not in left_out):
        source, shape = names.sources[path], shapes[path]
        if source.name not in tensors:
            missing.append(f"{path} as {source.name}" if source.name != path else path)
            continue
        array = source.convert(tensors[source.name], shape)
        if array.shape == shape:
            arrays[path] = array
        else:
            misshapen.append(f"{source.name} {array.shape} for {path} {shape}")
    used = {names.sources[path].name for path in shapes}
    headless = left_out or not any(map(names.fills_classifier, names.sources))
    rest = [name for name in tensors if name not in used]
    excused = {name: names.is_excused(name) or (headless and names.in_classifier(name)) for name in rest}
    unexpected = [name for name, is_excused in excused.items() if not is_excused]
    return arrays, Report(list(arrays), missing, unexpected, misshapen, [name for name in rest if excused[name]])


def require_fit(
    report: Report,
    file: str,
    model: str,
    library: str,
    likeness: Callable[[], Likeness | None] = lambda: None,
    advice: str = "",
) -> None:
    """Raises TransferError with the report and `advice`, or with what the file looks like, unless everything fits."""
    if report.fits:
        return
    problems = len(report.missing) + len(report.unexpected) + len(report.misshapen)
    is_near = len(report.matched) >= NEARLY * (len(report.matched) + problems)
    like = None if is_near else likeness()
    number = len(report.matched) + len(report.unexpected) + len(report.misshapen) + len(report.excused)
    if like and like.sure:
        raise TransferError(f"{file} does not fit {model}: its {number} tensors look like {like.phrase}")
    hint = f"; it looks most like {like.phrase}" if like else ""
    advice = next((f"; {text}" for part, text in SAVED_OTHERWISE.items() if report.has(part)), "") + advice
    if not report.matched and not report.misshapen:
        tensors = f"{len(report.unexpected)} tensors ({few(report.unexpected)})"
        raise TransferError(
            f"{file} does not fit {model}: none of its {tensors} has a name that {model} knows{hint}{advice}"
        )
    raise TransferError(f"{file} does not fit {model} by {library} names: {report}{hint}{advice}")


def require_numbers(arrays: Mapping[str, np.ndarray], names: NameMap, file: str, model: str) -> None:
    """Raises TransferError, naming the tensors of the file, if any array holds no floats, or NaN or infinity.

    Whole numbers are quantised weights without what they are to be multiplied by. A network with one NaN in it answers
    NaN to every image. Nothing later says where either comes from.
    """

    def listed(paths: Sequence[str], texts: Sequence[str]) -> str:
        only_classifier = all(map(names.fills_classifier, paths))
        return f"({few(texts)}){'; num_classes=0 leaves the classifier out' if only_classifier else ''}"

    # floats of NumPy, or those that it knows only by `ml_dtypes`
    whole = [path for path, array in arrays.items() if not jnp.issubdtype(array.dtype, jnp.floating)]
    if whole:
        texts = [f"{names.sources[path].name} {arrays[path].dtype}" for path in whole]
        raise TransferError(
            f"{file} cannot be used for {model}: {len(whole)} of its tensors {'hold' if whole[1:] else 'holds'} no "
            f"floats {listed(whole, texts)}; if it is quantised, save the weights that it was made from, as float32"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in the model
        bad = [path for path, array in arrays.items() if not np.isfinite(np.asarray(array, np.float32)).all()]
    if bad:
        raise TransferError(
            f"{file} cannot be used for {model}: there is NaN or infinity in {len(bad)} of its tensors "
            f"{listed(bad, [names.sources[path].name for path in bad])}"
        )
