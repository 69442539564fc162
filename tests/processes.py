"""Processes that train together, forked from one that has torch imported: each is there in a tenth of a second."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch


class Group:
    """``jpegcurr`` with ``words``, in as many processes, as torchrun would start them; what they say is in ``said``."""

    def __init__(self, words: list[str], ranks: int = 2) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["jpegcurr.training.train", "jpegcurr.training.data.thread_loader", "jpegcurr.cli.train"]
        )
        port = _free_port()
        self._files = [Path(f"said{rank}.txt").absolute() for rank in range(ranks)]
        self._processes = [
            context.Process(target=_work, args=(rank, ranks, port, file, words)) for rank, file in enumerate(self._files)
        ]
        for process in self._processes:
            process.start()

    def kill(self) -> None:
        """SIGKILL."""
        for process in self._processes:
            process.kill()

    def terminate(self) -> None:
        """SIGTERM, as torchrun passes it on."""
        for process in self._processes:
            process.terminate()

    def ended(self, seconds: float = 120) -> list[int | None]:
        """Wait for all; their exit codes, None for one that is still there."""
        for process in self._processes:
            process.join(seconds)
        codes = [process.exitcode for process in self._processes]
        for process in self._processes:
            process.kill()
        return codes

    @property
    def said(self) -> list[str]:
        """Lines, by whoever."""
        return [line for file in self._files if file.exists() for line in file.read_text().splitlines()]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _work(rank: int, ranks: int, port: int, file: Path, words: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with file.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if ranks > 1:
        torch.set_num_threads(1)
    from jpegcurr.cli import main

    main(words)


def soon(there: Callable[[], object], do: Callable[[], object]) -> threading.Thread:
    """Do something as soon as something is there; nothing if that takes a minute."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not there() and time.monotonic() < end:
            time.sleep(0.01)
        if there():
            do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
