"""What a comparison of Grad-CAM maps found: the figures of every image, and the maps and pictures of a chosen few."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.pillow import Pixels

Map = NDArray[np.float32]
Column = NDArray[np.float32]
# The class explained: that of the image's folder, the prediction in the first view, or each view's own prediction
Explains = Literal["label", "reference", "own"]
# Whose reference maps stand against each other in the nulls
NullOf = Literal["same class", "half the list", ""]
# Why a picture is shown. Lost is right in the first view alone, gained only in another; flipped stands for both without a truth
Rule = Literal["most changed", "median", "least changed", "lost", "gained", "flipped", "random"]

FIGURES = ("pearson", "spearman", "jsd", "iou", "shift", "magnitude", "logit_change")  # the columns of ``ViewColumns.figures``


@dataclass(frozen=True, slots=True)
class CamView:
    """One way to look at an image: through a run, at a quality; ``sha256`` is of the file that the weights are from."""

    run: Path
    weights: str
    quality: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ViewColumns:
    """What one view makes of every image, [images] each.

    Attributes:
        predicted, target: the likeliest class and the class explained, int32, places in ``CamStudy.classes``.
        confidence: the probability of the likeliest, 0 to 1.
        logit: of the class explained.
        dark: whether the map is zero everywhere.
        figures: of this view's map against the first view's, float32 [images FIGURES]; nan in the first view itself.
        faithfulness: what was asked for beside (``road``, ``confidence_change``), by name.
    """

    predicted: NDArray[np.int32]
    target: NDArray[np.int32]
    confidence: Column
    logit: Column
    dark: NDArray[np.bool_]
    figures: Column
    faithfulness: dict[str, Column] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePrediction:
    """One image in one view.

    Attributes:
        top: (class, probability) pairs, likeliest first, three at most.
        logit: of the class explained.
        cam: its raw Grad-CAM map [h w], not negative, in the units of the logit's gradient times the activation.
        target: the class explained, which differs between an image's views only if each explains its own prediction.
    """

    top: tuple[tuple[str, float], ...]
    logit: float
    cam: Map
    target: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image of those that are shown: its place in ``CamStudy.names``, why it is shown, and what every view saw of it.

    ``pictures`` are uint8 [size size 3] by quality, as the first run sees them.
    """

    index: int
    rules: tuple[Rule, ...]
    pictures: dict[str, Pixels]
    seen: tuple[ExamplePrediction, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CamStudy:
    """Everything that a report is made of.

    Attributes:
        views: the first is what the others are compared with.
        classes: those of the runs, by number.
        names: of every image, [images], relative to its folder.
        truth: each image's class, int32 [images], -1 where its folder's name is no class.
        columns: what each view makes of them.
        null, ceiling: figures of the first view's maps against another image's (``null_of``) and against the same image at
            quality 95, float32 [images FIGURES]; nan where there is none.
        examples: those that are shown, most changed first; their maps and pictures are the only ones kept.
        skipped: (file, reason) pairs of what could not be read.
        found: how many images there were in the folder.
        grid: of the maps, (h, w).
        seed: of what was drawn.
    """

    views: tuple[CamView, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    truth: NDArray[np.int32]
    columns: tuple[ViewColumns, ...]
    null: Column
    ceiling: Column
    null_of: NullOf
    examples: tuple[Example, ...]
    skipped: tuple[tuple[str, str], ...]
    found: int
    layer: str
    grid: tuple[int, int]
    runtime: str
    method: str
    explains: Explains
    seed: int

    def right(self, view: int) -> NDArray[np.bool_]:
        """Whether each image is classified rightly in a view, [images]; never where its truth is unknown."""
        return np.equal(self.columns[view].predicted, self.truth, dtype=np.bool_)

    def flipped(self, view: int) -> NDArray[np.bool_]:
        """Whether each image's likeliest class in a view is not that in the first, [images]."""
        return np.not_equal(self.columns[view].predicted, self.columns[0].predicted, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class over all images of it: how many, and in each view how many are right, how many flip, and the mean Pearson."""

    name: str
    images: int
    right: tuple[int, ...]
    flips: tuple[int, ...]
    pearson: tuple[float, ...]
