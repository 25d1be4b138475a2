"""Which layers of a network are trained, by shell-style patterns over their dotted paths."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from flax import nnx

from transfer.errors import UsageError
from transfer.models.registry import flat_state, layers_of

CLASSIFIER = "logits"
SHOWN = 12


def head_layers(model: nnx.Module) -> frozenset[str]:
    """The new classifier: `logits`, and whatever else `create_model` had to leave random beside the file's arrays."""
    return frozenset({CLASSIFIER, *layers_of(getattr(model, "renewed", ()))})


def trained_layers(model: nnx.Module, unfreeze: str | None) -> frozenset[str]:
    """The layers that `config.unfreeze` leaves to be trained: all for None, else those that it names and the head.

    Args:
        model: the network.
        unfreeze: one pattern or several by comma, as `fnmatch` has them: "stage4", "stage4.unit3", "block*",
            "block4,block5", "*.bn2". A pattern that matches the path of a layer, or any part of the path from its
            start, names the layer.

    Raises:
        UsageError: a pattern matches nothing; the message lists what there is.
    """
    layers = layers_of(flat_state(model))
    if unfreeze is None:
        return frozenset(layers)
    found = set(head_layers(model))
    for pattern in (text.strip() for text in unfreeze.split(",")):
        matched = {layer for layer in layers if any(fnmatchcase(start, pattern) for start in _starts(layer))}
        if not matched:
            raise UsageError(
                f"config.unfreeze={unfreeze!r}: {pattern!r} matches no layer; there is {_overview(layers)}"
            )
        found |= matched
    return frozenset(found)


def _starts(layer: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` of `a.b.c`."""
    parts = layer.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _overview(layers: Iterable[str]) -> str:
    """The first parts of the paths, and one whole path as an example of what is below."""
    layers = tuple(layers)
    tops = tuple(dict.fromkeys(layer.partition(".")[0] for layer in layers))
    deepest = max(layers, key=lambda layer: layer.count("."))
    below = f" (and below, such as {deepest})" if "." in deepest else ""
    return folded(tops) + below


def folded(names: Iterable[str]) -> str:
    """Names by comma; of many the first and the last."""
    names = tuple(names)
    if len(names) > SHOWN:
        names = (*names[: SHOWN // 2], f"… {len(names) - SHOWN} more …", *names[-SHOWN // 2 :])
    return ", ".join(names)
