"""The pipeline of images through every view, batch by batch: crops on threads ahead of the model, then maps and logits."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.baselines import open_baseline
from jpegcurr.analysis.cam.faithfulness import Measure
from jpegcurr.analysis.cam.methods import Method
from jpegcurr.analysis.cam.results import BaselineOf, Column, Labels, Map, TargetRule, ViewColumns
from jpegcurr.analysis.cam.similarity import similarities, unknown_columns
from jpegcurr.analysis.evaluation.jpeg_bytes import NOTHING, JpegBytes
from jpegcurr.analysis.journal import Arrays, pack_json, unpack_json
from jpegcurr.analysis.prediction.predict import read_file
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode, round_trip
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.workers import map_in_order, open_executor
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Stage
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.data.crops import images_at_once
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.finite import require_finite

BATCH = 32
AHEAD = 2 * BATCH  # images decoded while the model works; only their crops are kept
_ARRAYS = [column.name for column in fields(ViewColumns) if column.name not in ("similarity", "faithfulness")]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """One file's crops uint8 [3 s s] by (number in ``ViewRunner.sections``, quality), or the ``reason`` why it has none.

    ``converted`` is True if the crops at quality ``source`` are of a JPEG that ``codec.reencode`` made in place of the file.
    ``jpegs`` has the bytes of the whole image's JPEGs, by quality.
    """

    file: Path
    crops: Mapping[tuple[int, str], torch.Tensor]
    reason: str = ""
    converted: bool = False
    jpegs: Mapping[str, JpegBytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ViewOutput:
    """A batch in one view, in the host's memory.

    Attributes:
        maps: raw maps, float32 [b h w].
        logits: float32 [b classes].
        predicted, targets: the likeliest class and the class explained, int32 [b].
        faithfulness: the optional metrics, float32 [b], by column.
    """

    maps: Map
    logits: torch.Tensor
    predicted: Labels
    targets: Labels
    faithfulness: dict[str, Column]

    @property
    def target_logits(self) -> Column:
        """The logits of the classes explained, float32 [b]."""
        targets = torch.from_numpy(self.targets.astype(np.int64))
        logits: Column = self.logits.gather(1, targets[:, None])[:, 0].numpy()
        return logits


@dataclass(frozen=True)
class ViewRunner:
    """A runner of images through every run at every quality, in this order, and through the first run at quality ``near``.

    ``truths`` has the class of every image, -1 where it is not known. Classes are numbers of the first run's; the outputs of
    the others are put into its order.
    """

    runs: Sequence[Classifier]
    specs: Sequence[EncodeSpec]
    layer: str
    method: Method
    target_rule: TargetRule
    runtime: Runtime
    truths: Mapping[Path, int]
    near: EncodeSpec | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    stage: Stage = "before_crop"

    @cached_property
    def sections(self) -> list[ImageSection]:
        """The distinct crops: runs that crop images alike share one."""
        sections: list[ImageSection] = []
        for run in self.runs:
            if run.image not in sections:
                sections.append(run.image)
        return sections

    @cached_property
    def _own_numbers(self) -> list[torch.Tensor]:
        """Each run's own number of every class of the first run, int64 [classes]."""
        numbers = [{name: number for number, name in enumerate(run.classes)} for run in self.runs]
        return [torch.tensor([own[name] for name in self.runs[0].classes]) for own in numbers]

    def batches(self, files: Sequence[Path], threads: int | None = None) -> Generator[list[PreparedImage], None, None]:
        """Yield all files in order, ``BATCH`` at a time and at most ``AHEAD`` ahead; fewer of large ones.

        ``threads`` is the number of processors if None; it makes no difference to the result.
        """
        largest = max(section.size for section in self.sections)
        count, ahead = (images_at_once(largest, most) for most in (BATCH, AHEAD))
        with (
            open_executor(threads) as (executor, _workers),
            closing(map_in_order(self._prepare, files, executor, ahead)) as images,
        ):
            while batch := list(islice(images, count)):
                yield batch

    def _prepare(self, file: Path) -> PreparedImage:
        """Read one file, encode it at every quality, before the crop or after it, and return the crops."""
        specs = {spec.name: spec for spec in [*([self.near] if self.near else []), *self.specs]}
        try:
            if self.target_rule == "label" and self.truths[file] < 0:
                raise ImageError(
                    f"--target label needs the image's class, and it is in no class of the run (its folder is "
                    f"{file.absolute().parent.name!r}); a table can name it: --labels"
                )
            crops: dict[tuple[int, str], torch.Tensor] = {}
            converted, jpegs = False, {}
            stored = list(specs.values()) if self.stage == "before_crop" else [EncodeSpec("source")]
            encoded = reencode(read_file(file), stored, self.max_pixels)
            for spec, jpeg in zip(stored, encoded, strict=True):
                converted |= jpeg.converted
                jpegs[spec.name] = JpegBytes(1, len(jpeg.data), jpeg.width * jpeg.height)
                pixels = decode_rgb(jpeg.data, scratch=True, max_pixels=self.max_pixels)
                crops |= {(number, spec.name): centre_crop(pixels, section) for number, section in enumerate(self.sections)}
            if self.stage == "after_resize":
                jpegs = {}  # no file has the crops
                crops = {
                    (number, name): _encoded(crops[number, "source"], spec)
                    for number in range(len(self.sections))
                    for name, spec in specs.items()
                }
        except ImageError as error:
            return PreparedImage(file, {}, str(error))
        return PreparedImage(file, crops, converted=converted, jpegs=jpegs)

    def run_batch(
        self, batch: Sequence[PreparedImage], targets: Sequence[Labels] | None = None
    ) -> tuple[list[ViewOutput], ViewOutput | None]:
        """Return the output of every view for a batch of readable images, and that of the first run at quality ``near``.

        ``targets`` are the classes to explain in each view, [views] of [b]; ``target_rule`` chooses them if None.

        Raises:
            UsageError: the runs' grids differ.
            JpegcurrError: the outputs of a run for an image are not finite numbers.
        """
        shared = torch.tensor([self.truths[image.file] for image in batch]) if self.target_rule == "label" else None
        outputs: list[ViewOutput] = []
        for number in range(len(self.runs)):
            for spec in self.specs:
                wanted = shared if targets is None else torch.from_numpy(targets[len(outputs)].astype(np.int64))
                outputs.append(self._run_view(number, batch, spec, wanted))
                if self.target_rule == "reference" and shared is None:
                    shared = torch.from_numpy(outputs[0].targets.astype(np.int64))
        if len({output.maps.shape for output in outputs}) > 1:
            raise UsageError(f"--layer {self.layer} has different grids in the runs, so their maps cannot be compared.")
        return outputs, self._run_view(0, batch, self.near, shared, measured=False) if self.near else None

    def _run_view(
        self,
        number: int,
        batch: Sequence[PreparedImage],
        spec: EncodeSpec,
        targets: torch.Tensor | None,
        *,
        measured: bool = True,
    ) -> ViewOutput:
        """Return a batch in the view of run ``number``; without ``targets`` the likeliest class of each image is explained."""
        run, own_numbers = self.runs[number], self._own_numbers[number]
        section = self.sections.index(run.image)
        images = torch.stack([image.crops[section, spec.name] for image in batch])
        inputs = run.normalise(images.to(self.runtime.device, memory_format=torch.channels_last))
        with whole_float32():  # rounding would be a difference too
            wanted = None if targets is None else own_numbers[targets].to(self.runtime.device)
            raw, own_logits = self.method(run.model, self.layer, inputs, wanted)
            require_finite(own_logits, run.path, [image.file for image in batch])
            logits = own_logits.detach().cpu()[:, own_numbers]
            maps, predicted = raw.cpu().numpy(), logits.argmax(dim=1)
            chosen = predicted if targets is None else targets
            measures = self.measures if measured else {}
            explained = own_numbers[chosen]
            faithfulness = {name: measure(run.model, inputs, maps, explained, self.seed) for name, measure in measures.items()}
        return ViewOutput(
            maps=maps,
            logits=logits,
            predicted=predicted.numpy().astype(np.int32),
            targets=chosen.numpy().astype(np.int32),
            faithfulness=faithfulness,
        )


def _encoded(crop: torch.Tensor, spec: EncodeSpec) -> torch.Tensor:
    """Return what a JPEG shows of a crop, uint8 [3 s s]; the crop itself at ``source``."""
    if spec.quality == "source":
        return crop
    return torch.from_numpy(round_trip(crop.permute(1, 2, 0).numpy(), spec.quality, spec.subsampling)).permute(2, 0, 1)


class ResultCollector:
    """A collector of the results of all images, and of the reasons why some could not be read.

    Attributes:
        skipped: (file, reason) pairs of the images that could not be read.
        grid: the size of the maps, (h, w); (0, 0) before the first batch.
        jpegs: the bytes of the images that were read, by quality.
    """

    def __init__(self, runner: ViewRunner, expected: Sequence[Path]) -> None:
        """``expected`` are the files to come, in order; their classes decide which baseline there can be."""
        self.skipped: list[tuple[str, str]] = []
        self.grid = (0, 0)
        self.jpegs = {spec.name: NOTHING for spec in runner.specs if runner.stage == "before_crop"}
        self._runner = runner
        self._expected = expected
        self._truth = np.array([runner.truths[file] for file in expected], np.int32)
        self._read = np.zeros(len(expected), np.bool_)
        self._converted = np.zeros(len(expected), np.bool_)
        self._added = 0
        measures = list(runner.measures)
        self._columns = [_empty(len(expected), measures) for _ in range(len(runner.runs) * len(runner.specs))]
        self._ceiling = unknown_columns(len(expected))
        self._baseline = open_baseline(self._truth)

    @property
    def added(self) -> int:
        """The number of files whose results are there."""
        return self._added

    def add(self, batch: Sequence[PreparedImage]) -> Arrays:
        """Run a batch and keep its results; return them for ``restore``. Raises as ``ViewRunner.run_batch``."""
        skipped = [(str(image.file), image.reason) for image in batch if not image.crops]
        start = self._added
        maps = self._run(batch, start + np.flatnonzero([bool(image.crops) for image in batch]))
        self.skipped += skipped
        self._added += len(batch)
        columns = {name: column[start : self._added] for name, column in self._all_columns().items()}
        jpegs = pack_json({name: astuple(jpegs) for name, jpegs in self.jpegs.items()})  # of all images so far
        return {**columns, "maps": maps, "skipped": pack_json(skipped), "jpegs": jpegs}

    def restore(self, results: Arrays) -> None:
        """Keep the results of the next batch, which ``add`` has returned in an interrupted run."""
        rows = self._added + np.flatnonzero(results["read"])
        count = len(results["read"])
        for name, column in self._all_columns().items():
            column[self._added : self._added + count] = results[name]
        self.skipped += [(file, reason) for file, reason in unpack_json(results["skipped"])]
        self.jpegs = {name: JpegBytes(*jpegs) for name, jpegs in unpack_json(results["jpegs"]).items()}
        self._added += count
        if len(rows):
            self._add_maps(results["maps"], rows)

    def _add_maps(self, maps: Map, rows: NDArray[np.int64]) -> None:
        self._baseline.add(maps, rows)
        self.grid = maps.shape[1], maps.shape[2]

    def _all_columns(self) -> dict[str, NDArray[Any]]:
        """Return every column [expected] by a name of its own."""
        columns: dict[str, NDArray[Any]] = {"read": self._read, "converted": self._converted}
        columns |= {f"ceiling.{name}": column for name, column in self._ceiling.items()}
        for number, view in enumerate(self._columns):
            columns |= {f"{number}.{name}": getattr(view, name) for name in _ARRAYS}
            columns |= {f"{number}.similarity.{name}": column for name, column in view.similarity.items()}
            columns |= {f"{number}.faithfulness.{name}": column for name, column in view.faithfulness.items()}
        return columns

    def _run(self, batch: Sequence[PreparedImage], rows: NDArray[np.int64]) -> Map:
        """Run the readable images of a batch, whose places are ``rows``, fill their columns, and return their first maps."""
        if not len(rows):
            return np.zeros((0, 0, 0), np.float32)
        outputs, near = self._runner.run_batch([image for image in batch if image.crops])
        first = outputs[0]
        for number, (columns, output) in enumerate(zip(self._columns, outputs, strict=True)):
            _fill(columns, rows, output, first if number else None)
        if near is not None:
            _fill_similarity(self._ceiling, rows, first, near)
        self._add_maps(first.maps, rows)
        self._read[rows] = True
        self._converted[rows] = [image.converted for image in batch if image.crops]
        for image in batch:
            if image.crops:
                self.jpegs = {name: jpegs + image.jpegs[name] for name, jpegs in self.jpegs.items()}
        return first.maps

    def files(self) -> list[Path]:
        """Return the files that were read, in order."""
        return [self._expected[row] for row in np.flatnonzero(self._read).tolist()]

    def truth(self) -> Labels:
        """Return each image's class, -1 where it is not known, [images]."""
        return self._truth[self._read]

    def converted(self) -> NDArray[np.bool_]:
        """Return True for the images whose view at ``source`` is a JPEG made in place of the file, [images]."""
        return self._converted[self._read]

    def columns(self) -> tuple[ViewColumns, ...]:
        """Return the results of every view."""
        return tuple(
            ViewColumns(
                **{name: getattr(columns, name)[self._read] for name in _ARRAYS},
                similarity=self._of_read(columns.similarity),
                faithfulness=self._of_read(columns.faithfulness),
            )
            for columns in self._columns
        )

    def baseline(self) -> tuple[dict[str, Column], BaselineOf]:
        """Return the metrics of the baseline, [images] each, and the kind of pairs that it compares."""
        columns, kind = self._baseline.finish()
        return self._of_read(columns), kind

    def ceiling(self) -> dict[str, Column]:
        """Return the metrics of the ceiling, [images] each."""
        return self._of_read(self._ceiling)

    def _of_read(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        return {name: column[self._read] for name, column in columns.items()}


def _empty(images: int, measures: Sequence[str]) -> ViewColumns:
    def column() -> Column:
        return np.full(images, nan, np.float32)

    return ViewColumns(
        predicted=np.full(images, -1, np.int32),
        target=np.full(images, -1, np.int32),
        confidence=column(),
        logit=column(),
        dark=np.ones(images, np.bool_),
        similarity=unknown_columns(images),
        faithfulness={name: column() for name in measures},
    )


def _fill(columns: ViewColumns, rows: NDArray[np.int64], output: ViewOutput, first: ViewOutput | None) -> None:
    """Write one batch in one view; ``first`` is None for the first view itself."""
    columns.predicted[rows] = output.predicted
    columns.target[rows] = output.targets
    columns.confidence[rows] = output.logits.softmax(dim=1).amax(dim=1).numpy()
    columns.logit[rows] = output.target_logits
    columns.dark[rows] = output.maps.max(axis=(1, 2)) <= 0
    if first is not None:
        _fill_similarity(columns.similarity, rows, first, output)
    for name, values in output.faithfulness.items():
        columns.faithfulness[name][rows] = values


def _fill_similarity(columns: dict[str, Column], rows: NDArray[np.int64], first: ViewOutput, second: ViewOutput) -> None:
    for name, values in similarities(first.maps, second.maps, (first.target_logits, second.target_logits)).items():
        columns[name][rows] = values
