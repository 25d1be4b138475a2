"""Two classes at every threshold: the curves are scikit-learn's, and what the thresholds give is counted."""

import numpy as np
import pytest
from made_runs import made_run, of_classes
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from transfer.evaluation.predictions import Predictions
from transfer.report import probabilities


@pytest.fixture
def predictions() -> Predictions:
    return of_classes(2, 300, names=["cat", "<b>dog</b>"])


def test_thresholds_give_what_is_counted(predictions: Predictions) -> None:
    curves = probabilities.curves_of(predictions)
    assert curves is not None and curves.positive == "<b>dog</b>"
    positive = np.where(predictions.top[:, 0] == 1, predictions.probability[:, 0], predictions.probability[:, 1])
    assert curves.auc == pytest.approx(roc_auc_score(predictions.labels, positive), abs=2e-4)
    used, balanced, best_f1 = curves.thresholds
    assert used.probability == 0.5
    scores = [], []
    for at in np.unique(positive):
        said = positive >= at
        scores[0].append(balanced_accuracy_score(predictions.labels, said))
        scores[1].append(f1_score(predictions.labels, said))
    for found in (used, balanced, best_f1):
        said = positive >= found.probability - 1e-6
        assert found.recall == pytest.approx(recall_score(predictions.labels, said))
        assert found.precision == pytest.approx(precision_score(predictions.labels, said))
        assert found.false_positives == pytest.approx(recall_score(1 - predictions.labels, said))
    assert (balanced.recall + 1 - balanced.false_positives) / 2 == pytest.approx(max(scores[0]))
    assert 2 / (1 / best_f1.recall + 1 / best_f1.precision) == pytest.approx(max(scores[1]))


def test_the_section_shows_both_curves_and_the_table(predictions: Predictions) -> None:
    made = probabilities.thresholds(made_run(predictions))
    assert made is not None and made.html.count("<figure") == 2 and "&lt;b&gt;dog&lt;/b&gt;" in made.html
    assert made.html.count('<th scope="row">') == 3 and "ROC curve, area 0." in made.html


def test_probabilities_that_are_all_one_are_still_in_order() -> None:
    """Of logits beyond float32's probabilities the order is that of the logits."""
    logits = np.stack([np.zeros(6), [-60, -50, -40, 40, 50, 60]], axis=1)
    curves = probabilities.curves_of(Predictions.of_logits(logits, [0, 0, 1, 0, 1, 1]))
    assert curves is not None and curves.auc == pytest.approx(8 / 9)


def test_other_runs_have_none(predictions: Predictions) -> None:
    lone = predictions.rows(np.flatnonzero(predictions.labels == 1))
    assert probabilities.curves_of(lone) is None and probabilities.curves_of(None) is None
    assert probabilities.curves_of(of_classes(3, 30)) is None
    assert probabilities.curves_of(of_classes(2, 30, probable=False)) is None
