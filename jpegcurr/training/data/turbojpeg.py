"""The place of libturbojpeg: the system's library, that of a conda environment, or one that came in a wheel.

No package on which jpegcurr depends has it: Pillow and torchvision come with libjpeg's interface alone, and the library inside
simplejpeg and OpenCV cannot be called from outside. All versions from 1.4 on have the functions that are used, with the same
pixels by the accurate DCT.
"""

import ctypes
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from ctypes.util import find_library
from functools import cache
from pathlib import Path

FUNCTIONS = (
    "tjInitDecompress",
    "tjInitCompress",
    "tjDestroy",
    "tjDecompressHeader3",
    "tjDecompress2",
    "tjCompress2",
    "tjBufSize",
)
MISSING = (
    "libturbojpeg is not installed (Debian and Ubuntu: apt install libturbojpeg0; conda: libjpeg-turbo; without either: "
    "pip install turbojpeg)"
)


@cache
def load_library() -> tuple[ctypes.CDLL, str]:
    """Load libturbojpeg and return it with its name or path; raise OSError, with the ways to get it, if it is nowhere."""
    for name in _candidates():
        with suppress(OSError):
            library = ctypes.CDLL(name)
            if all(hasattr(library, function) for function in FUNCTIONS):
                return library, name
    raise OSError(MISSING)


def _candidates() -> Iterator[str]:
    """Yield names for the system's linker, then files of the environment (conda), then of wheels.

    A wheel that was repaired for distribution has its libraries in a folder beside the package: ``turbojpeg.libs`` for one.
    """
    yield from _system_names()
    for folder in dict.fromkeys((sys.prefix, sys.base_prefix)):
        yield from _files(Path(folder, "lib"), "libturbojpeg.*")
    packages = [sysconfig.get_path(scheme) for scheme in ("platlib", "purelib")]
    for path in dict.fromkeys([*packages, *filter(None, sys.path)]):  # pip's --target is on the latter alone
        yield from _files(Path(path), "*.libs/libturbojpeg*")


def _system_names() -> Iterator[str]:
    yield "libturbojpeg.so.0"  # which the linker also finds by LD_LIBRARY_PATH
    with suppress(OSError):  # find_library runs programs, which a small system may lack
        if name := find_library("turbojpeg"):
            yield name


def _files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(pattern))
