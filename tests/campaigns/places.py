"""Kills a process just before it creates, renames or removes its n-th file, or counts how often it does."""

import os
import signal
import sys
from pathlib import Path

# "open" counts where it is for writing.
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Places:
    """An audit hook that counts what a command does to files below a folder, and kills it before the n-th."""

    def __init__(self, folder: Path, kill_before: int | None = None, count_to: Path | None = None) -> None:
        self.folder, self.kill_before, self.count_to, self.count = str(folder), kill_before, count_to, 0

    def install(self) -> None:
        """From here on, for as long as the process lives."""
        sys.addaudithook(self._seen)
        if self.count_to is not None:
            self._exit, os._exit = os._exit, self._exit_counted  # type: ignore[assignment]

    def _seen(self, event: str, arguments: tuple) -> None:
        if event not in EVENTS or not self._concerns(event, arguments):
            return
        self.count += 1
        if self.count == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def _concerns(self, event: str, arguments: tuple) -> bool:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return False
        path = arguments[0]
        return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self.folder)

    def _exit_counted(self, code: int) -> None:
        assert self.count_to is not None
        self.count_to.write_text(str(self.count))
        self._exit(code)
