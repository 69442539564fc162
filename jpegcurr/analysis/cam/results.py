"""Results of a comparison of Grad-CAM maps: columns of numbers on every image, and maps and pictures of a chosen few."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.recipe.values import Stage

Map = NDArray[np.float32]
Column = NDArray[np.float32]
Labels = NDArray[np.int32]
# The class explained: the image's own (see ``LabelledFiles``), the prediction in the first view, or each view's own.
TargetRule = Literal["label", "reference", "own"]
# Which two images' maps the baseline compares: see ``Comparison.baseline_of``.
BaselineOf = Literal["same class", "half the list", ""]
# Why an image is shown. Lost: right only in the first view; gained: right only in another; flipped: either, without a label.
Rule = Literal["most changed", "median", "least changed", "lost", "gained", "flipped", "random"]


@dataclass(frozen=True, slots=True)
class CamView:
    """One run at one quality; ``sha256`` is the hash of the file that holds the weights."""

    run: Path
    weights: str
    quality: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ViewColumns:
    """The results of one view, [images] each.

    Attributes:
        predicted, target: the likeliest class and the class explained, int32, numbers in ``CamStudy.classes``.
        confidence: the probability of the likeliest class, 0 to 1.
        logit: the logit of the class explained.
        dark: True where the map is zero everywhere.
        similarity: this view's maps compared with the first view's, by the names in ``similarity.METRICS``; nan in the first
            view itself.
        faithfulness: the optional metrics of ``faithfulness.FAITHFULNESS``, by the names of their columns.
    """

    predicted: Labels
    target: Labels
    confidence: Column
    logit: Column
    dark: NDArray[np.bool_]
    similarity: dict[str, Column]
    faithfulness: dict[str, Column] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePrediction:
    """One image in one view.

    Attributes:
        top: (class, probability) pairs, likeliest first, at most three.
        logit: the logit of the class explained.
        cam: the raw map [h w], not negative, in units of the logit's gradient times the activation.
        target: the class explained, which differs between an image's views only if each explains its own prediction.
    """

    top: tuple[tuple[str, float], ...]
    logit: float
    cam: Map
    target: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image that is shown: its number in ``CamStudy.names``, the rules that chose it, and its prediction in every view.

    ``pictures`` are uint8 [size size 3] by quality, cropped as for the first run.
    """

    index: int
    rules: tuple[Rule, ...]
    pictures: dict[str, Pixels]
    predictions: tuple[ExamplePrediction, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CamStudy:
    """Everything that a report is built from.

    Attributes:
        views: the first is the reference, with which the others are compared.
        classes: the names of the runs' classes, by number.
        names: the file of each image, [images], relative to the folder.
        truth: each image's class, int32 [images], -1 where it is not known or no class of the runs.
        converted: True for the images whose view at quality ``source`` is a JPEG of quality 95 made in place of the file, bool
            [images]; see ``codec.reencode``.
        columns: the results of every view.
        baseline, ceiling: the first view's maps compared with another image's (see ``baseline_of``) and with those of the same
            image at quality 95, by the names in ``similarity.METRICS``, [images] each; nan where there is none.
        examples: the images that are shown, most changed first; only their maps and pictures are kept.
        skipped: (file, reason) pairs of the images that could not be read.
        unknown: how many images have no class of the runs, in a sentence; empty if all have one.
        available: the number of images in the folder.
        grid: the size of the maps, (h, w).
        preprocessing: how the inputs of each model are made, in words.
        seed: the seed of the random examples and of noise in ``faithfulness``.
        stage: whether whole images were encoded, or their crops.
        jpegs: the bytes of the images' JPEGs, whole and at their full size, by quality; empty where they were not counted.
    """

    views: tuple[CamView, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    truth: Labels
    converted: NDArray[np.bool_]
    columns: tuple[ViewColumns, ...]
    baseline: dict[str, Column]
    ceiling: dict[str, Column]
    baseline_of: BaselineOf
    examples: tuple[Example, ...]
    skipped: tuple[tuple[str, str], ...]
    unknown: str
    available: int
    layer: str
    grid: tuple[int, int]
    runtime: str
    preprocessing: tuple[str, ...]
    method: str
    target_rule: TargetRule
    seed: int
    stage: Stage = "before_crop"
    jpegs: Mapping[str, JpegBytes] = field(default_factory=dict)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """True for the images whose class is known, [images]."""
        return np.greater_equal(self.truth, 0, dtype=np.bool_)

    def right(self, view: int) -> NDArray[np.bool_]:
        """Return True for the images that a view classifies correctly, [images]; False where the class is unknown."""
        return np.equal(self.columns[view].predicted, self.truth, dtype=np.bool_)

    def flipped(self, view: int) -> NDArray[np.bool_]:
        """Return True for the images whose likeliest class differs from that in the first view, [images]."""
        return np.not_equal(self.columns[view].predicted, self.columns[0].predicted, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class over all its images: their number, and for each view the number right and flipped and the mean Pearson."""

    name: str
    images: int
    right: tuple[int, ...]
    flips: tuple[int, ...]
    pearson: tuple[float, ...]
