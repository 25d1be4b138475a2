"""What a reader is shown as the name of a class, a label or a value."""

from transfer.evaluation.predictions import Predictions


def of_outputs(predictions: Predictions) -> list[str]:
    """A name for each output of predictions: its own, else its number; what is no text in UTF-8 is replaced."""
    titles = [shown(name) for name in predictions.class_names]
    return titles + [str(number) for number in range(len(titles), predictions.num_outputs)]


def shown(text: object) -> str:
    """Text that a page can hold: lone surrogates, which names of files may have, become question marks."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
