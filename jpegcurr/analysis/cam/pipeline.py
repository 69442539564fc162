"""Images through every view, a batch at a time: decoded and cropped on threads ahead of the model, then maps and logits."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import Column, Explains, Map
from jpegcurr.analysis.cam.faithfulness import Metric
from jpegcurr.analysis.cam.methods import Method
from jpegcurr.analysis.prediction.predict import read_file
from jpegcurr.encoding.workers import in_order
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.executors import open_executor
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema_data import ImageSection
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.models.create import Run
from jpegcurr.training.data.transforms import centre_view

BATCH = 32
AHEAD = 2 * BATCH  # images decoded while the model works, of which only the crops are kept

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Cropped:
    """One file: what the models see, uint8 [3 s s], by number in ``Look.sections`` and quality; or why it was not read."""

    file: Path
    views: Mapping[tuple[int, str], torch.Tensor]
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A batch in one view: raw ``maps`` [b h w], ``logits`` float32 [b classes] on the host, and the ``targets`` explained.

    ``predicted`` are the likeliest classes, int32 [b] as the targets; ``faithfulness`` the figures asked for, by column.
    """

    maps: Map
    logits: torch.Tensor
    predicted: Labels
    targets: Labels
    faithfulness: dict[str, Column]


@dataclass(frozen=True)
class Look:
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

    def batches(self, files: Sequence[Path], threads: int | None = None) -> Generator[list[Cropped], None, None]:
        """Yield all files in order, ``BATCH`` at a time; no more than ``AHEAD`` of the next ones are under way or waiting.

        ``threads`` are as many as there are processors if not given; they make no difference to the result.
        """
        with (
            open_executor(threads) as (executor, _workers),
            closing(in_order(self._crop, files, executor, AHEAD)) as cropped,
        ):
            while batch := list(islice(cropped, BATCH)):
                yield batch

    def _crop(self, file: Path) -> Cropped:
        """Read one file and make its crops at every quality, from the whole image encoded at it."""
        specs = {spec.name: spec for spec in [*([self.near] if self.near else []), *self.specs]}
        try:
            if self.explains == "label" and self.truth(file) < 0:
                raise ImageError(f"its folder's name, {_folder(file)!r}, is no class of the run, which --class label needs")
            views: dict[tuple[int, str], torch.Tensor] = {}
            for name, encoded in zip(specs, reencode(read_file(file), list(specs.values())), strict=True):
                pixels = decode_rgb(encoded.data, scratch=True)
                views |= {(number, name): centre_view(pixels, section) for number, section in enumerate(self.sections)}
        except ImageError as error:
            return Cropped(file, {}, str(error))
        return Cropped(file, views)

    def see(self, batch: Sequence[Cropped], targets: Sequence[Labels] | None = None) -> tuple[list[Sight], Sight | None]:
        """What every view makes of a batch that was read, and what the first run makes of it at ``near``.

        ``targets`` are the classes to explain in each view, [views] of [b]; by the rule called ``explains`` if not given.

        Raises:
            UsageError: the runs' grids differ.
        """
        shared = torch.tensor([self.truth(each.file) for each in batch]) if self.explains == "label" else None
        sights: list[Sight] = []
        for run in self.runs:
            for spec in self.specs:
                given = shared if targets is None else torch.from_numpy(targets[len(sights)].astype(np.int64))
                sights.append(self._through(run, batch, spec, given))
                if self.explains == "clean" and shared is None:
                    shared = torch.from_numpy(sights[0].targets.astype(np.int64))
        if len({sight.maps.shape for sight in sights}) > 1:
            raise UsageError(f"--layer {self.layer} has different grids in the runs, so their maps cannot be compared.")
        return sights, self._through(self.runs[0], batch, self.near, shared, measured=False) if self.near else None

    def _through(
        self, run: Run, batch: Sequence[Cropped], spec: EncodeSpec, targets: torch.Tensor | None, *, measured: bool = True
    ) -> Sight:
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
        return Sight(
            maps=maps,
            logits=logits.detach().cpu(),
            predicted=predicted.numpy().astype(np.int32),
            targets=chosen.numpy().astype(np.int32),
            faithfulness=faithfulness,
        )


def _folder(file: Path) -> str:
    return file.absolute().parent.name
