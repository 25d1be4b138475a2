"""The names of ResNet V2's layers in Keras."""

from collections.abc import Sequence

CLASSIFIER = {"keras": ("predictions/",), "native": ("logits.",)}

LAYERS = {"stem.conv": "conv1_conv", "post_bn": "post_bn", "logits": "predictions"}
# Keras counts the shortcut as convolution 0 of a unit
PARTS = {"preact_bn": "preact_bn", "proj": "0_conv"} | {
    f"{part}{i}": f"{i}_{part}" for part in ("conv", "bn") for i in (1, 2, 3)
}


def keras(layers: Sequence[str]) -> dict[str, str]:
    """`stage2.unit3.conv2` is `conv3_block3_2_conv`: the stem counts as the first stage."""

    def name(layer: str) -> str:
        if layer in LAYERS:
            return LAYERS[layer]
        stage, unit, part = layer.split(".")
        number = int(stage.removeprefix("stage")) + 1
        return f"conv{number}_{unit.replace('unit', 'block')}_{PARTS[part]}"

    return {layer: name(layer) for layer in layers}


NAMES = {"keras": keras}
# Zeros around the image, a layer of their own in front of the first convolution.
KERAS_PADDING = 3
