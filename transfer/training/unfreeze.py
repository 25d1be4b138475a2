"""Which layers of a network are trained, by shell-style patterns over their dotted paths."""

import itertools
from collections.abc import Iterable
from fnmatch import fnmatchcase

from flax import nnx

from transfer.errors import UsageError
from transfer.models.registry import flat_state, layers_of

CLASSIFIER = "logits"
SHOWN = 12


def head_layers(model: nnx.Module) -> frozenset[str]:
    """The new classifier: `logits`, and whatever else `create_model` left random, as the file has no arrays for it."""
    return frozenset({CLASSIFIER, *layers_of(getattr(model, "renewed", ()))})


def trained_layers(model: nnx.Module, unfreeze: str | None) -> frozenset[str]:
    """The layers that `config.unfreeze` leaves to be trained: all for None, else those that it names and the head.

    Args:
        model: the network.
        unfreeze: one pattern or several separated by commas, as `fnmatch` has them: "stage4", "stage4.unit3", "block*",
            "block4,block5", "*.bn2". A pattern that matches the path of a layer, or any part of the path from its
            start, names the layer.

    Raises:
        UsageError: a pattern matches nothing; the message lists what there is.
    """
    layers = layers_of(flat_state(model))
    if unfreeze is None:
        return frozenset(layers)
    # "a", "a.b" and "a.b.c" of the layer "a.b.c"
    starts = {layer: list(itertools.accumulate(layer.split("."), "{}.{}".format)) for layer in layers}
    trained = set(head_layers(model))
    for pattern in (text.strip() for text in unfreeze.split(",")):
        matched = {layer for layer in layers if any(fnmatchcase(start, pattern) for start in starts[layer])}
        if not matched:
            deepest = max(layers, key=lambda layer: layer.count("."))
            below = f" (and below, such as {deepest})" if "." in deepest else ""
            overview = folded(dict.fromkeys(start for start, *_ in starts.values())) + below
            raise UsageError(f"config.unfreeze={unfreeze!r}: {pattern!r} matches no layer; there is {overview}")
        trained |= matched
    return frozenset(trained)


def folded(names: Iterable[str]) -> str:
    """Names separated by commas; of many the first and the last ones."""
    names = tuple(names)
    if len(names) > SHOWN:
        names = (*names[: SHOWN // 2], f"… {len(names) - SHOWN} more …", *names[-SHOWN // 2 :])
    return ", ".join(names)
