"""Writes `keras_names.txt`: names and shapes of the variables of `keras.applications`, a network of each family.

KERAS_BACKEND=jax python tests/golden/make_keras_names.py
"""

from pathlib import Path

import keras

NETWORKS = {
    "vgg16.keras": keras.applications.VGG16,
    "resnet50.keras": keras.applications.ResNet50,
    "resnet50v2.keras": keras.applications.ResNet50V2,
    "inception_v3.keras": keras.applications.InceptionV3,
}


def main() -> None:
    """A line with the name of our record, then one for each layer: its name, and `VARIABLE=SHAPE` of each variable."""
    lines = [f"# keras {keras.__version__}"]
    for name, network in NETWORKS.items():
        keras.backend.clear_session()  # numbers layers from 0
        lines.append(f"[{name}]")
        for layer in network(weights=None).layers:
            variables = [f"{variable.name}={'x'.join(map(str, variable.shape))}" for variable in layer.weights]
            lines += [" ".join((layer.name, *variables))] if variables else []
    (Path(__file__).parent / "keras_names.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
