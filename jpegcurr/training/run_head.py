"""``run.json``, the description of a run, as it is read back; ``run_folder.write_head`` writes it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.json_files import read_json, read_json_map

HEAD = "run.json"
_COMPLAINT = "cannot be read as a run's description"


class RunData(BaseModel):
    """One data set of a run: the file, and the facts that identify its images. Facts of other versions are kept."""

    model_config = ConfigDict(extra="allow")

    path: str
    images: int
    quality: Quality | None
    at_load: dict[str, Any] | None = None
    keys_sha256: str | None


class RunHead(BaseModel):
    """What jpegcurr reads of ``run.json``.

    Attributes:
        id: of the run, for trackers.
        data: by role and name, such as ``train/clean``.
        runtime: the device and the precision, in words.
        loader: ``ffcv`` or ``plain``.
    """

    id: str
    data: dict[str, RunData]
    runtime: str
    loader: str


def read_head(run: Path, remedy: str) -> RunHead:
    """Read ``run.json`` of the run in the folder ``run``; raise UsageError, with the ``remedy``, if it is not one."""
    return read_json(run / HEAD, RunHead, complaint=_COMPLAINT, remedy=remedy)


def read_whole_head(run: Path, remedy: str) -> dict[str, Any]:
    """Read ``run.json`` as ``read_head`` does, and return everything in it, for a copy of the run."""
    return read_json_map(run / HEAD, RunHead, complaint=_COMPLAINT, remedy=remedy)
