"""Every error that a user can meet.

    JpegcurrError            exit code 1: the work was asked for rightly and failed
    ├── ImageError           one image could not be read (a row in the manifest, not the end of a run)
    ├── EncodeError          more images failed than allowed, the disk is full, or the source fails
    ├── TrainingError        an epoch cannot be saved, or a loader's thread fails
    │   ├── NotFiniteError   the loss or a weight is not a number any more
    │   └── PeerError        another process of the same run has ended; its own message says why
    ├── Interrupted          exit code 130: Ctrl-C
    │   └── Terminated       exit code 143: a scheduler's SIGTERM, answered with a checkpoint
    └── UsageError           exit code 2: what was asked for cannot be done; nothing was written
        ├── SourceError      a data set that is missing, empty, damaged or without classes
        ├── BetonError       a file that is not a whole .beton, or betons that do not belong together
        └── RecipeError      a recipe with an unknown key, a wrong value or a missing file

The message is one or two sentences: what is wrong, by name, and the way out.
"""

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache

log = logging.getLogger("jpegcurr")


class JpegcurrError(Exception):
    """The root; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ImageError(JpegcurrError):
    """One image cannot be decoded or stored."""


class EncodeError(JpegcurrError):
    """An encoding run that had to stop; what is encoded is kept for --resume."""


class TrainingError(JpegcurrError):
    """A training run that had to stop; the last checkpoint is whole."""


class NotFiniteError(TrainingError):
    """The loss or a weight has become infinite or not a number; ``train`` adds which checkpoint is from before it."""


class PeerError(TrainingError):
    """This process waited for one that has ended, which says why itself."""


class Interrupted(JpegcurrError):
    """The user stopped the work; the message says how to go on."""

    exit_code = 130


class Terminated(Interrupted):
    """A scheduler stopped the work, at a moment that was saved."""

    exit_code = 143


class UsageError(JpegcurrError):
    """Something the user typed, wrote or pointed at."""

    exit_code = 2


class SourceError(UsageError):
    """What cannot be read as a labelled data set."""


class BetonError(UsageError):
    """A file that is not a whole .beton, or that does not belong with the others."""


class RecipeError(UsageError):
    """A recipe that cannot mean anything."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence, after a space, with the nearest of ``names``; nothing if none is near."""
    close = get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@cache
def warn_renamed(old: str, new: str) -> None:
    """Warn, once a process, that ``old`` is now called ``new`` and will not be read any more by the next version."""
    log.warning("%s is now %s; the next version will not know the old name", old, new)
