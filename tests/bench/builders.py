"""Contenders that behave as libraries may; a child process imports them by name."""

import os
import time

import numpy as np

from transfer.bench.peer_libraries import WEIGHTS
from transfer.bench.worker import Prepared, Skipped
from transfer.weights import create_model


def sleeper(case):
    return Prepared(lambda: time.sleep(case), lambda _: {"slept": case})


def refuses(case):
    raise Skipped(f"no {case} here")


def raises(case):
    raise RuntimeError(f"first line of {case}\nsecond line")


def lacks_a_package(case):
    import no_such_package  # noqa: F401


def dies(case):
    os._exit(7)


def dies_later(case):
    calls = []

    def call():
        calls.append(case)
        if len(calls) > 1:
            os._exit(7)
        return calls

    return Prepared(call, len)


def fails_later(case):
    calls = []

    def call():
        calls.append(case)
        if len(calls) > 1:
            raise MemoryError("no room")
        return calls

    return Prepared(call, len)


def twice_ours(case):
    """Another network, though of the right shape."""
    model = create_model(case.arch, case.folder / WEIGHTS, num_classes=0)
    return case.prepared(lambda: np.asarray(model(case.images())[0]) * 2)
