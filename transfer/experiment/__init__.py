"""A config becomes `result.json`: `extract`, `train` and `train_on_files`."""

from typing import TYPE_CHECKING

from transfer.runtime import lazy

if TYPE_CHECKING:
    from transfer.experiment.run import extract as extract
    from transfer.experiment.run import train as train
    from transfer.experiment.run import train_on_files as train_on_files

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, dict.fromkeys(("extract", "train", "train_on_files"), "transfer.experiment.run")
)
