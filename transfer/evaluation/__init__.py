"""Evaluation: what a head's predictions are worth, with intervals, and what representations have in common."""
