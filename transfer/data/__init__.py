"""Labelled images from many places behind one protocol: `open_source("folder:PATH", "train").image(0)`."""

from transfer.data.registry import SOURCES, open_source
from transfer.data.source import BrokenImage, Source, select

__all__ = ["SOURCES", "BrokenImage", "Source", "open_source", "select"]
