"""Commands of cells that run at once: one slot for each, ended together, and never two in one folder."""

from __future__ import annotations

import fcntl
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 20.0  # seconds between asking a process to end and ending it


class StoppedError(Exception):
    """The grid was interrupted."""


class Processes:
    """Starts commands for several threads, at most one for each slot.

    Args:
        jobs: how many at once.
        devices: numbers of the GPUs, dealt to the slots in turn; none leaves the environment as it is.
        threads: of each command on the CPU, None for torch's choice.
    """

    def __init__(self, jobs: int, devices: list[str], threads: int | None) -> None:
        self.stopped = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._slots: queue.Queue[dict[str, str]] = queue.Queue()
        for slot in range(jobs):
            device = {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {}
            self._slots.put({**os.environ, **device, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})})

    @contextmanager
    def slot(self) -> Iterator[dict[str, str]]:
        """Lends one slot's environment."""
        environment = self._slots.get()
        try:
            yield environment
        finally:
            self._slots.put(environment)

    def run(self, command: list[str], log: Path, environment: dict[str, str], lock: int) -> int:
        """Runs a command to its end.

        Args:
            command: what to run.
            log: takes its output, behind what is there.
            environment: of a slot.
            lock: open file that the command inherits, so that its folder stays locked even if we are killed.

        Returns:
            Its exit status.

        Raises:
            StoppedError: the grid was interrupted.
        """
        if self.stopped.is_set():
            raise StoppedError
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
                pass_fds=(lock,),
            )
        self._running.add(process)
        try:
            while process.poll() is None and not self.stopped.wait(0.1):
                pass
            if process.poll() is None:
                _end(process)
            if self.stopped.is_set():
                raise StoppedError
            return process.returncode
        finally:
            self._running.discard(process)

    @contextmanager
    def locked(self, folder: Path) -> Iterator[int]:
        """Waits until no other process works in a folder, and keeps others out.

        Yields:
            The open lock file.

        Raises:
            StoppedError: the grid was interrupted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a+") as file:
            told = False
            while not _take(file.fileno()):
                if not told:
                    print(f"{folder} is being worked on by another process, perhaps one left behind: waiting for it")
                told = True
                if self.stopped.wait(0.5):
                    raise StoppedError
            yield file.fileno()


def is_locked(folder: Path) -> bool:
    """Tells whether a process works in a folder."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open("a+") as file:
        return not _take(file.fileno())


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
