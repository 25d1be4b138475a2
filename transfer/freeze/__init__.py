"""Frozen networks: batch norm folded in, layers joined, each convolution computed the way that is fastest here."""
