"""Threads of one process share few heaps, where the allocator is glibc's."""

import platform
import subprocess
import sys

import pytest

# Six threads allocate at the same time, and glibc lists its heaps on standard output.
PROGRAM = """
import ctypes, sys, threading
from transfer.runtime.memory import limit_heaps
if sys.argv[1:]:
    limit_heaps()
libc, together = ctypes.CDLL(None), threading.Barrier(6)
libc.malloc.restype = ctypes.c_void_p
def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(*arguments: str) -> int:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_threads_share_two_heaps() -> None:
    assert heaps() > 2 >= heaps("limited")
