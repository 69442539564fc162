"""Processes that train together, and signals sent to them."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from forked import PYTHON


class Group:
    """``jpegcurr`` with the arguments ``words``, in ``ranks`` processes with the variables that torchrun sets."""

    def __init__(self, words: list[str], ranks: int = 2) -> None:
        port = free_port()
        self._files = [Path(f"output{rank}.txt").absolute() for rank in range(ranks)]
        self._processes = []
        for rank, file in enumerate(self._files):
            group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
            variables = {name: str(number) for name, number in group.items()} | {"MASTER_ADDR": "127.0.0.1"}
            variables |= {"OMP_NUM_THREADS": "1"} if ranks > 1 else {}
            with file.open("w") as output:
                command = [PYTHON, "-m", "jpegcurr", *words]
                process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
            self._processes.append(process)

    def kill(self) -> None:
        """Send SIGKILL."""
        for process in self._processes:
            process.kill()

    def terminate(self) -> None:
        """Send SIGTERM, as torchrun passes it on."""
        for process in self._processes:
            process.terminate()

    def ended(self, seconds: float = 120) -> list[int | None]:
        """Wait for all processes; return their exit codes, None for one that is still running."""
        end = time.monotonic() + seconds
        codes = [_exit_code(process, end - time.monotonic()) for process in self._processes]
        self.kill()
        return codes

    @property
    def output(self) -> list[str]:
        """Return the lines of output, process by process."""
        return [line for file in self._files if file.exists() for line in file.read_text().splitlines()]


def _exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def soon(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Run ``action`` as soon as ``condition`` holds; do nothing if that takes more than a minute."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        if condition():
            action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
