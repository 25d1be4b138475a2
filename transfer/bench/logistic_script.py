"""A script that fits scikit-learn's LogisticRegression on two published feature files: TRAINING.p VALIDATION.p.

It prints its accuracy. It imports nothing of ours, for its whole process is timed.
"""

import pickle
import sys

from sklearn.linear_model import LogisticRegression


def read(path):  # type: ignore[no-untyped-def]
    """Features as rows, labels."""
    with open(path, "rb") as file:
        content = pickle.load(file)
    return content["features"].reshape(len(content["features"]), -1), content["labels"].ravel()


if __name__ == "__main__":
    training, validation = (read(path) for path in sys.argv[1:])
    print(LogisticRegression().fit(*training).score(*validation))
