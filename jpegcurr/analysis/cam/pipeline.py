"""Images through every view, a batch at a time: decoded and cropped on threads ahead of the model, then maps and logits."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from math import nan
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.baselines import open_null
from jpegcurr.analysis.cam.faithfulness import Metric
from jpegcurr.analysis.cam.methods import Method
from jpegcurr.analysis.cam.results import FIGURES, Column, Explains, Map, NullOf, ViewColumns
from jpegcurr.analysis.cam.similarity import similarities
from jpegcurr.analysis.prediction.predict import read_file
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.workers import map_in_order, open_executor
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.models.load import Run

BATCH = 32
AHEAD = 2 * BATCH  # images decoded while the model works, of which only the crops are kept

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """One file: what the models see, uint8 [3 s s], by number in ``Look.sections`` and quality; or why it was not read."""

    file: Path
    views: Mapping[tuple[int, str], torch.Tensor]
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ViewOutput:
    """A batch in one view: raw ``maps`` [b h w], ``logits`` float32 [b classes] on the host, and the ``targets`` explained.

    ``predicted`` are the likeliest classes, int32 [b] as the targets; ``faithfulness`` the figures asked for, by column.
    """

    maps: Map
    logits: torch.Tensor
    predicted: Labels
    targets: Labels
    faithfulness: dict[str, Column]


@dataclass(frozen=True)
class ViewRunner:
    """How every image is looked at: in each run at each quality, in this order; and at ``near`` in the first run."""

    runs: Sequence[Run]
    specs: Sequence[EncodeSpec]
    layer: str
    method: Method
    explains: Explains
    runtime: Runtime
    near: EncodeSpec | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def sections(self) -> list[ImageSection]:
        """The crops that are made: one for all runs that see images alike."""
        return [
            run.image for number, run in enumerate(self.runs) if run.image not in [each.image for each in self.runs[:number]]
        ]

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.runs[0].classes)}

    def truth(self, file: Path) -> int:
        """The class that the file's folder is named after, -1 if it is none."""
        return self._labels.get(_folder(file), -1)

    def batches(self, files: Sequence[Path], threads: int | None = None) -> Generator[list[PreparedImage], None, None]:
        """Yield all files in order, ``BATCH`` at a time; no more than ``AHEAD`` of the next ones are under way or waiting.

        ``threads`` are as many as there are processors if not given; they make no difference to the result.
        """
        with (
            open_executor(threads) as (executor, _workers),
            closing(map_in_order(self._crop, files, executor, AHEAD)) as cropped,
        ):
            while batch := list(islice(cropped, BATCH)):
                yield batch

    def _crop(self, file: Path) -> PreparedImage:
        """Read one file and make its crops at every quality, from the whole image encoded at it."""
        specs = {spec.name: spec for spec in [*([self.near] if self.near else []), *self.specs]}
        try:
            if self.explains == "label" and self.truth(file) < 0:
                raise ImageError(f"its folder's name, {_folder(file)!r}, is no class of the run, which --target label needs")
            views: dict[tuple[int, str], torch.Tensor] = {}
            for name, encoded in zip(specs, reencode(read_file(file), list(specs.values())), strict=True):
                pixels = decode_rgb(encoded.data, scratch=True)
                views |= {(number, name): centre_crop(pixels, section) for number, section in enumerate(self.sections)}
        except ImageError as error:
            return PreparedImage(file, {}, str(error))
        return PreparedImage(file, views)

    def see(
        self, batch: Sequence[PreparedImage], targets: Sequence[Labels] | None = None
    ) -> tuple[list[ViewOutput], ViewOutput | None]:
        """What every view makes of a batch that was read, and what the first run makes of it at ``near``.

        ``targets`` are the classes to explain in each view, [views] of [b]; by the rule called ``explains`` if not given.

        Raises:
            UsageError: the runs' grids differ.
        """
        shared = torch.tensor([self.truth(each.file) for each in batch]) if self.explains == "label" else None
        sights: list[ViewOutput] = []
        for run in self.runs:
            for spec in self.specs:
                given = shared if targets is None else torch.from_numpy(targets[len(sights)].astype(np.int64))
                sights.append(self._through(run, batch, spec, given))
                if self.explains == "reference" and shared is None:
                    shared = torch.from_numpy(sights[0].targets.astype(np.int64))
        if len({sight.maps.shape for sight in sights}) > 1:
            raise UsageError(f"--layer {self.layer} has different grids in the runs, so their maps cannot be compared.")
        return sights, self._through(self.runs[0], batch, self.near, shared, measured=False) if self.near else None

    def _through(
        self, run: Run, batch: Sequence[PreparedImage], spec: EncodeSpec, targets: torch.Tensor | None, *, measured: bool = True
    ) -> ViewOutput:
        """One view of a batch; without ``targets`` the likeliest class of each image is explained."""
        section = self.sections.index(run.image)
        images = torch.stack([each.views[section, spec.name] for each in batch])
        inputs = run.normalise(images.to(self.runtime.device, memory_format=torch.channels_last))
        with whole_float32():  # rounding would be a difference too
            wanted = None if targets is None else targets.to(self.runtime.device)
            raw, logits = self.method(run.model, self.layer, inputs, wanted)
            maps, predicted = raw.cpu().numpy(), logits.argmax(dim=1).cpu()
            chosen = predicted if targets is None else targets
            metrics = self.metrics if measured else {}
            faithfulness = {name: each(run.model, inputs, maps, chosen, self.seed) for name, each in metrics.items()}
        return ViewOutput(
            maps=maps,
            logits=logits.detach().cpu(),
            predicted=predicted.numpy().astype(np.int32),
            targets=chosen.numpy().astype(np.int32),
            faithfulness=faithfulness,
        )


def _folder(file: Path) -> str:
    return file.absolute().parent.name


class ResultCollector:
    """What is known of the images that were added, and of the ones that could not be read.

    Attributes:
        skipped: (file, reason) pairs of those that could not be read.
        grid: of the maps, (h, w); (0, 0) before there are any.
    """

    def __init__(self, look: ViewRunner, expected: Sequence[Path]) -> None:
        """``expected`` are the files to come, in order; their classes tell which null there can be."""
        self.skipped: list[tuple[str, str]] = []
        self.grid = (0, 0)
        self._look = look
        self._expected = expected
        self._truth = np.array([look.truth(file) for file in expected], np.int32)
        self._read = np.zeros(len(expected), np.bool_)
        self._added = 0
        names = [*look.metrics]
        self._columns = [_empty(len(expected), names) for _ in range(len(look.runs) * len(look.specs))]
        self._ceiling = np.full((len(expected), len(FIGURES)), nan, np.float32)
        self._null = open_null(self._truth)

    def add(self, batch: Sequence[PreparedImage]) -> None:
        """Look at a batch and keep its figures; raises as ``Look.see``."""
        self.skipped += [(str(each.file), each.reason) for each in batch if not each.views]
        rows = self._added + np.flatnonzero([bool(each.views) for each in batch])
        self._added += len(batch)
        if not len(rows):
            return
        sights, near = self._look.see([each for each in batch if each.views])
        first = sights[0]
        for number, (columns, sight) in enumerate(zip(self._columns, sights, strict=True)):
            _fill(columns, rows, sight, first if number else None)
        self._ceiling[rows] = _figures(first, near)
        self._null.add(first.maps, rows)
        self._read[rows] = True
        self.grid = first.maps.shape[1], first.maps.shape[2]

    def files(self) -> list[Path]:
        """Those that were read, in order."""
        return [self._expected[row] for row in np.flatnonzero(self._read).tolist()]

    def truth(self) -> NDArray[np.int32]:
        """Each image's class, -1 where its folder's name is none, [images]."""
        return self._truth[self._read]

    def columns(self) -> tuple[ViewColumns, ...]:
        """What each view makes of every image."""
        return tuple(_taken(columns, self._read) for columns in self._columns)

    def null(self) -> tuple[Column, NullOf]:
        """The nulls' figures [images FIGURES], and whose maps they are of."""
        figures, null_of = self._null.finish()
        return figures[self._read], null_of

    def ceiling(self) -> Column:
        """The ceilings' figures, [images FIGURES]."""
        return self._ceiling[self._read]


def _empty(images: int, metrics: Sequence[str]) -> ViewColumns:
    def column() -> Column:
        return np.full(images, nan, np.float32)

    return ViewColumns(
        predicted=np.full(images, -1, np.int32),
        target=np.full(images, -1, np.int32),
        confidence=column(),
        logit=column(),
        dark=np.ones(images, np.bool_),
        figures=np.full((images, len(FIGURES)), nan, np.float32),
        faithfulness={name: column() for name in metrics},
    )


def _fill(columns: ViewColumns, rows: NDArray[np.int64], sight: ViewOutput, first: ViewOutput | None) -> None:
    """Write one batch in one view; ``first`` is None for the first view itself."""
    columns.predicted[rows] = sight.predicted
    columns.target[rows] = sight.targets
    columns.confidence[rows] = sight.logits.softmax(dim=1).amax(dim=1).numpy()
    columns.logit[rows] = _explained(sight)
    columns.dark[rows] = sight.maps.max(axis=(1, 2)) <= 0
    if first is not None:
        columns.figures[rows] = _figures(first, sight)
    for name, figures in sight.faithfulness.items():
        columns.faithfulness[name][rows] = figures


def _figures(first: ViewOutput, second: ViewOutput | None) -> Column:
    """Float32 [b FIGURES]; nan if there is nothing to compare with."""
    rows = np.full((len(first.maps), len(FIGURES)), nan, np.float32)
    if second is not None:
        rows[:, :-1] = similarities(first.maps, second.maps)
        rows[:, -1] = _explained(second) - _explained(first)
    return rows


def _explained(sight: ViewOutput) -> Column:
    """The logit of the class explained, [b]."""
    targets = torch.from_numpy(sight.targets.astype(np.int64))
    logits: Column = sight.logits.gather(1, targets[:, None])[:, 0].numpy()
    return logits


def _taken(columns: ViewColumns, read: NDArray[np.bool_]) -> ViewColumns:
    arrays = [field.name for field in fields(ViewColumns) if field.name != "faithfulness"]
    return ViewColumns(
        **{name: getattr(columns, name)[read] for name in arrays},
        faithfulness={name: figures[read] for name, figures in columns.faithfulness.items()},
    )
