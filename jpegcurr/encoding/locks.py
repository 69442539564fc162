"""One writer at a time, also where one ends as another begins."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jpegcurr.errors import UsageError

log = logging.getLogger("jpegcurr")

_TRIES = 100
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def locked(lock: Path, what: Path, *, doing: str = "encoded", option: str = "-o") -> Iterator[None]:
    """Hold the file ``lock`` against other processes; the system lets go of it when this one ends, however it ends.

    Raises:
        UsageError: another process holds it, and so is writing ``what``; it says what is ``doing``, and the ``option``.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = _acquired(lock, what, doing, option)
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_same(file, lock):
                lock.unlink()  # while it is held: whoever opened it before sees that it is another's by then
        os.close(file)


def _acquired(lock: Path, what: Path, doing: str, option: str) -> int:
    for _ in range(_TRIES):
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                log.warning("%s: the file system has no locks, so see that nothing else writes %s", lock.parent, what.name)
                return file
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise UsageError(
                    f"{what} is being {doing} by another process. Wait for it, or choose another place with {option}."
                ) from None
            raise
        if _is_same(file, lock):
            return file
        os.close(file)  # its holder has finished and taken it away since it was opened
    raise UsageError(f"{lock} cannot be held: its file system tells a file by two numbers. Choose another place with {option}.")


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
