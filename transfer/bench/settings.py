"""What all rows of a run share."""

import dataclasses
from pathlib import Path

from transfer.bench.network import Wanted


@dataclasses.dataclass(frozen=True)
class Settings:
    """`Wanted` has the meaning of the first fields, `interleaved` of `rounds`, `seconds`.

    Attributes:
      peers: names of those to run beside ours (`transfer.bench.peers.PEERS`), None for no comparison at all.
      autotune: as the extractor takes it.
      errors: whether to measure what the precision costs.
      profile: folder for a JAX profiler trace of each row.
    """

    tap: str = "pre_logits"
    image_size: int | None = None
    precision: str = "high"
    weights: str | None = None
    seed: int = 0
    rounds: int = 5
    seconds: float = 0.5
    peers: tuple[str, ...] | None = None
    autotune: bool = False
    errors: bool = True
    profile: Path | None = None

    def wanted(self, model: str) -> Wanted:
        """The network of a row."""
        return Wanted(model, self.weights, self.tap, self.image_size, self.seed)
