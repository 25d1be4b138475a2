"""Diagrams of the networks, made from the models themselves."""
