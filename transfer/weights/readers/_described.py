"""Tensors together with what their file says of the network beside them: names, settings, layers in front."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.unpickler import StandIn

# Where checkpoints, `config.json` and headers name the network, and where they say how it differs from the usual one.
NAMING = (
    *("arch", "architecture", "architectures", "model", "model_name", "model_type", "base_model", "network"),
    *("backbone", "backbone_name", "encoder", "encoder_name"),
)
SETTING = (
    *("act_layer", "hidden_act", "aa_layer", "output_stride", "global_pool", "gp", "bn_eps"),
    "downsample_in_first_stage",
)
# The dicts in which they may lie.
WITHIN = (
    *("args", "config", "cfg", "hparams", "hyper_parameters", "kwargs"),
    *("model_args", "model_kwargs", "opt", "pretrained_cfg"),
)
DEEPEST, LONGEST = 3, 200

HDF5 = "Keras .h5"  # the name of Keras' other format


class Described(dict[str, np.ndarray]):
    """Tensors by name, with what their file says beside them.

    Attributes:
      says: key in the file, such as `arch` or `args.model` -> text or a number.
      network: of a whole Keras model, its configuration as in the file; None where there is none.
      preprocessing: what the network does to its images first, where the file says it and it is no part of the tensors.
      image_size: (height, width) that the network takes, where it takes no other.
      assumed: sentences on what the reader chose where the file leaves it open (`transfer.weights.assumed`).
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        says: Mapping[str, Any] | None = None,
        network: Any = None,
        assumed: Sequence[str] = (),
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(tensors)
        self.says, self.network, self.assumed = dict(says or {}), network, list(assumed)
        self.preprocessing = preprocessing
        self.image_size: tuple[int, int] | None = None


def claims_in(content: object, depth: int = 0) -> dict[str, Any]:
    """The claims of a dict, or of a stand-in's state, about the network: dotted key in the file -> text or number."""
    claims: dict[str, Any] = {}
    content = {**content.entries, **content.says} if isinstance(content, StandIn) else content
    for key in (*NAMING, *SETTING, *WITHIN) if isinstance(content, Mapping) else ():
        value = content.get(key)  # type: ignore[attr-defined]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if key in WITHIN and isinstance(value, (Mapping, StandIn)) and depth < DEEPEST:
            claims |= {f"{key}.{inner}": claim for inner, claim in claims_in(value, depth + 1).items()}
        elif key not in WITHIN and isinstance(value, (str, int, float)):
            claims[key] = value[:LONGEST] if isinstance(value, str) else value
    return claims
