"""Backbones in Flax NNX, one file per family; every model returns `(output, endpoints)`."""
