"""Memory is used again when nothing refers to it, and never before."""

import threading

import jax
import numpy as np

from transfer.data.frames import Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_goes_round():
    buffers = Buffers()
    array = buffers.array((5, 7), np.float32)
    assert array.shape == (5, 7) and array.dtype == np.float32 and array.flags.writeable
    first = address(array)
    assert first % 64 == 0
    assert address(buffers.array((5, 7), np.float32)) != first  # it is in use
    del array
    assert first in {address(array) for array in [buffers.array((3, 7)), buffers.array((3, 7))]}


def test_the_smallest_that_fits_is_taken():
    buffers = Buffers()
    arrays = {size: buffers.array((size,)) for size in (50_000, 9000, 20_000)}
    places = {size: address(array) for size, array in arrays.items()}
    arrays.clear()
    held = [buffers.array((size,)) for size in (9001, 9000, 50_000)]
    assert [address(array) for array in held] == [places[size] for size in (20_000, 9000, 50_000)]


def test_not_while_a_slice_or_a_device_has_it():
    buffers = Buffers()
    array = buffers.array((64, 1024))
    array[:] = 7
    there, part = jax.device_put(array), array[3:5, ::2].reshape(-1)
    del array
    for _ in range(3):
        buffers.array((64, 1024))[:] = 9
    assert (part == 7).all() and (np.asarray(there) == 7).all()


def test_too_small_is_given_up():
    buffers = Buffers()
    buffers.array((10,))
    large = buffers.array((100_000,))
    large[:] = 1
    del large
    assert len(buffers._free) == 1 and len(buffers._free[0]) == 100_000


def test_threads_never_share():
    buffers, errors = Buffers(), []

    def work(number):
        for _ in range(300):
            array = buffers.array((50, 50))
            array[:] = number
            if not (array == number).all():
                errors.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # each thread holds its last array while it asks for the next
    assert not errors and len(buffers._free) <= 2 * len(threads)
