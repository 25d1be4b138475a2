"""Taps: end points of a model, with a pooling or without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from transfer.errors import UsageError

DEFAULT_TAP = "pre_logits"
# What a tap may end in: (B, ..., C) -> (B, C) or (B, D).
POOLINGS = {
    "avg": lambda x: x.mean(axis=tuple(range(1, x.ndim - 1))),
    "max": lambda x: x.max(axis=tuple(range(1, x.ndim - 1))),
    "flatten": lambda x: x.reshape(x.shape[0], -1),
}


@dataclass(frozen=True)
class Tap:
    """An end point of the model and what is done to it, written `block5` or `block5:avg`."""

    text: str
    endpoint: str
    pooling: str | None

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """The tap that `text` names; UsageError for an unknown pooling."""
        endpoint, colon, pooling = text.partition(":")
        if colon and pooling not in POOLINGS:
            raise UsageError(f"tap={text!r} ends in an unknown pooling; known are {', '.join(POOLINGS)}")
        return cls(text, endpoint, pooling or None)

    def of(self, endpoints: Mapping[str, jax.Array]) -> jax.Array:
        """The features, float32 (B, ...), pooled in float32; UsageError if the model has no such end point."""
        if self.endpoint not in endpoints:
            raise UsageError(f"tap={self.endpoint!r}: the model has no such end point; it has {', '.join(endpoints)}")
        values = endpoints[self.endpoint].astype(jnp.float32)
        return POOLINGS[self.pooling](values) if self.pooling else values


def apply_taps(taps: Sequence[Tap], endpoints: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The features of every tap, by its text."""
    return {tap.text: tap.of(endpoints) for tap in taps}


def parse_taps(tap: str | Sequence[str]) -> tuple[Tap, ...]:
    """The taps of one name, a sequence, or names separated by commas; UsageError for none or one given twice."""
    texts = [text.strip() for text in tap.split(",")] if isinstance(tap, str) else list(tap)
    if not all(texts) or not texts or len(set(texts)) < len(texts):
        raise UsageError(f"tap={tap!r} should be one name, or several different ones")
    return tuple(map(Tap.parse, texts))
