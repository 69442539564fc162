"""``run.json``, the description of a run, as it is read back; ``run_folder.write_head`` writes it. And its class names."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.json_files import read_json, read_json_map

HEAD, LOCK = "run.json", ".run.lock"
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
    """The part of ``run.json`` that jpegcurr reads.

    Attributes:
        id: of the run, for trackers.
        data: by role and name, such as ``train/clean``.
        runtime: the device and the precision, in words.
        loader: ``compiled``, ``ffcv`` or ``plain``.
        factory_sha256: checksum of the file that defines the network, if it is the user's own.
        class_names: by number; None if they are not known. Version 0.1 did not record them here.
        class_names_known: see ``names_known``; None in runs of version 0.1.
    """

    id: str
    data: dict[str, RunData]
    runtime: str
    loader: str
    factory_sha256: str | None = None
    class_names: tuple[str, ...] | None = None
    class_names_known: bool | None = None

    @property
    def names_known(self) -> bool:
        """True if the run was trained on data with class names, not on numbers alone."""
        had_manifest = any(facts.keys_sha256 for facts in self.data.values())
        return had_manifest if self.class_names_known is None else self.class_names_known


class ExportedClasses(BaseModel):
    """The classes in ``config.json``, beside the weights of a model."""

    label_names: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1)]


def read_head(run: Path, remedy: str) -> RunHead:
    """Read ``run.json`` of the run in the folder ``run``; raise UsageError, with the ``remedy``, if it is not one."""
    return read_json(run / HEAD, RunHead, complaint=_COMPLAINT, remedy=remedy)


def read_class_names(config: Path) -> tuple[str, ...]:
    """Return the names of the outputs in a model's ``config.json``; raise UsageError if it cannot be read."""
    complaint = "cannot be read as a model's description"
    return read_json(config, ExportedClasses, complaint=complaint, remedy="Train the run again.").label_names


def read_whole_head(run: Path, remedy: str) -> dict[str, Any]:
    """Read ``run.json`` as ``read_head`` does, and return everything in it, for a copy of the run."""
    return read_json_map(run / HEAD, RunHead, complaint=_COMPLAINT, remedy=remedy)
