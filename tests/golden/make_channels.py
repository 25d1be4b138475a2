"""Writes `channels.npz`: first kernels as timm adapts them to images of other channels.

python tests/golden/make_channels.py
"""

from pathlib import Path

import numpy as np
import timm
import torch
from timm.models._manipulate import adapt_input_conv

CHANNELS = (1, 2, 3, 4, 5, 6, 7)
OF_FILE = (1, 3)


def main() -> None:
    """Kernels (outputs, inputs, height, width): `FROM` what a file has, `FROM to TO` as adapted."""
    kernels = {"timm": np.array(timm.__version__)}
    for inputs in OF_FILE:
        kernel = np.random.default_rng(inputs).standard_normal((2, inputs, 3, 2)).astype(np.float32)
        kernels[str(inputs)] = kernel
        for channels in CHANNELS:
            adapted = adapt_input_conv(channels, torch.from_numpy(kernel), base_chans=inputs)
            kernels[f"{inputs} to {channels}"] = adapted.numpy()
    np.savez_compressed(Path(__file__).with_name("channels.npz"), **kernels)


if __name__ == "__main__":
    main()
