"""The errors that a user can meet, in one tree.

    JpegcurrError            exit code 1: the command was right, but its work failed
    ├── ImageError           one image cannot be read (a row in the manifest, not the end of a run)
    │   └── OversizeError    it has more pixels than allowed
    ├── EncodeError          more images failed than allowed, the disk is full, or the source failed
    ├── TrainingError        an epoch cannot be saved, or a loader's thread failed
    │   ├── NotFiniteError   the loss or a weight is infinite or not a number
    │   └── PeerError        another process of the same run has ended; its own message says why
    ├── Interrupted          exit code 130: Ctrl-C
    │   └── Terminated       exit code 143: a scheduler's SIGTERM, answered with a checkpoint
    └── UsageError           exit code 2: the command cannot be carried out; nothing was written
        ├── SourceError      a data set that is missing, empty, damaged or without classes
        ├── BetonError       a file that is not a complete .beton, or betons that do not belong together
        └── RecipeError      a recipe with an unknown key, a wrong value or a missing file

A message is one or two sentences: it names what is wrong and says what to do.
"""

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache

log = logging.getLogger("jpegcurr")


class JpegcurrError(Exception):
    """The root of all errors; ``exit_code`` is that of the command."""

    exit_code = 1


class ImageError(JpegcurrError):
    """An image that cannot be decoded or stored."""


class OversizeError(ImageError):
    """An image with more pixels than the limit of this call, which may be raised."""


class EncodeError(JpegcurrError):
    """An encode that had to stop; the images encoded so far are kept for --resume."""


class TrainingError(JpegcurrError):
    """A training run that had to stop; the last checkpoint is complete."""


class NotFiniteError(TrainingError):
    """A loss or a weight that is infinite or not a number; ``train`` adds which checkpoint is from before it."""


class PeerError(TrainingError):
    """The end of another process that this one waited for; that process prints the reason."""


class Interrupted(JpegcurrError):
    """A stop by the user; the message says how to resume."""

    exit_code = 130


class Terminated(Interrupted):
    """A stop by a scheduler, after a checkpoint was saved."""

    exit_code = 143


class UsageError(JpegcurrError):
    """A mistake in an option, a file or a path that the user gave."""

    exit_code = 2


class SourceError(UsageError):
    """A source that cannot be read as a labelled data set."""


class BetonError(UsageError):
    """A file that is not a complete .beton, or that does not belong with the others."""


class RecipeError(UsageError):
    """A recipe with a mistake."""


def did_you_mean(name: str, names: Iterable[str], most: int = 1) -> str:
    """Return a space and a sentence that suggests the nearest of ``names``, at most ``most``; an empty string without any."""
    close = [repr(near) for near in get_close_matches(name, list(names), n=most)]
    if not close:
        return ""
    *others, last = close
    return f" Did you mean {', '.join(others) + ' or ' if others else ''}{last}?"


@cache
def warn_renamed(old: str, new: str) -> None:
    """Warn, once per process, that ``old`` is now called ``new`` and that the next version will not accept the old name."""
    log.warning("%s is now %s; the next version will not know the old name", old, new)
