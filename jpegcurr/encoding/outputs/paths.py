"""The paths of outputs: which format a path is of, and what every output is called."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.files import path_part

Format = Literal["beton", "folder", "webdataset", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIXES: dict[str, Format] = {".beton": "beton", ".wds": "webdataset", ".parquet": "parquet"}
_FOLDER = re.compile(r".+_(source|[1-9][0-9]?|100)", re.DOTALL)


def output_path(folder: Path, split: str, spec: EncodeSpec, kind: Format) -> Path:
    """Return the path of one output: ``train-q50.beton``, ``train_50``, ``train-q50.wds`` or ``train-q50.parquet``."""
    if kind == "folder":
        return folder / f"{path_part(split)}_{spec.quality}"
    suffix = next(suffix for suffix, named in _SUFFIXES.items() if named == kind)
    return folder / f"{output_stem(split, spec)}{suffix}"


def output_stem(split: str, spec: EncodeSpec) -> str:
    """Return the name of a beton and the beginning of the names of shards: ``train-q50``."""
    return f"{path_part(split)}-{spec.name}"


def format_of(path: Path) -> Format:
    """Return the format of the output at ``path``, by its name alone; names that no output has are of betons."""
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    return "folder" if _FOLDER.fullmatch(path.name) else "beton"


def stem_of(path: Path) -> str:
    """Return what the names of an output's manifest and hidden files begin with, which differs from every other output's."""
    return path.stem if format_of(path) == "beton" else path.name


def parse_formats(texts: Sequence[str]) -> tuple[Format, ...]:
    """Parse formats as typed, ``folder`` or ``beton,folder``, without duplicates; raise UsageError for an unknown one."""
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"--to {name}: there is no such format. Give {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    return tuple(kind for kind in FORMATS if kind in names)
