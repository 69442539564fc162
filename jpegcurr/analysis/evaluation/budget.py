"""The lowest JPEG quality whose loss of accuracy is shown to be below a margin, and the bytes that it saves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpegcurr.analysis.evaluation.evaluate import Evaluation, compare_evaluations, evaluate
from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes
from jpegcurr.analysis.noninferiority import UNLIKELY, Noninferiority, assess_noninferiority, count_shown
from jpegcurr.analysis.stats import LEVEL, Paired
from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.encoding.jpeg.codec import Quality, check_quality
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.errors import UsageError
from jpegcurr.files import json_values
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import Models

LADDER = (95, 90, 85, 75, 60, 50, 40, 30, 20, 10)
WITHIN = 0.5  # points
LEVELS = 10 * UNLIKELY, 0.5

Verdict = Literal["shown", "not shown", "not tested"]


@dataclass(frozen=True, slots=True, eq=False)
class QualityTest:
    """One quality of a budget: its evaluation, compared with the reference on the same images.

    Attributes:
        quality: JPEG quality.
        evaluation, jpegs: the outcomes, and the bytes of the same images.
        pair: the difference from the reference, with its two-sided interval.
        test: that the loss is below the margin, by itself.
        verdict: ``shown``; ``not shown`` for the first of which that is so; ``not tested`` for those below it, whose tests
            count for nothing.
    """

    quality: int
    evaluation: Evaluation
    jpegs: JpegBytes
    pair: Paired
    test: Noninferiority
    verdict: Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """A search from the highest quality down for the lowest one at which a model loses less than ``within`` points of top-1.

    Attributes:
        reference, reference_jpegs: the evaluation that all are compared with, and the bytes of its images.
        within: the margin, points.
        level: the chance that any ``shown`` quality is wrong, at most; one-sided.
        tests: the qualities, from the highest down.
    """

    reference: Evaluation
    reference_jpegs: JpegBytes
    within: float
    level: float
    tests: tuple[QualityTest, ...]

    @property
    def chosen(self) -> QualityTest | None:
        """The lowest quality that is shown; None if not even the highest is."""
        return next((test for test in reversed(self.tests) if test.verdict == "shown"), None)

    @property
    def stopped_at(self) -> QualityTest | None:
        """The first quality that is not shown; None if all are shown."""
        return next((test for test in self.tests if test.verdict == "not shown"), None)

    def share(self, test: QualityTest) -> float:
        """Return the bytes at a quality as a share of the reference's."""
        return test.jpegs.total / self.reference_jpegs.total

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON: the ``chosen`` quality (or None), what it saves, and every quality's row."""
        chosen = self.chosen
        return {
            "run": str(self.reference.run),
            "weights": self.reference.weights,
            "data": str(self.reference.data),
            "loader": self.reference.loader,
            "images": len(self.reference.outcomes),
            "against": self.reference.tested,
            "within": self.within,
            "level": self.level,
            "chosen": None if chosen is None else chosen.quality,
            "bytes_saved": None if chosen is None else self.reference_jpegs.total - chosen.jpegs.total,
            "reference": {"top1": json_values(self.reference.scores.top1), **_bytes_values(self.reference_jpegs)},
            "qualities": [self.row(test) for test in self.tests],
            **self.reference.description.as_dict(),
        }

    def row(self, test: QualityTest) -> dict[str, Any]:
        """Return the plain values of one quality by name; losses are points of top-1."""
        values: dict[str, Any] = {
            "quality": test.quality,
            "verdict": test.verdict,
            "top1": test.evaluation.scores.top1,
            "loss": -test.pair.difference,
            "low": -test.pair.high,
            "high": -test.pair.low,
            "bound": 100 * test.test.bound,
            "lost": test.pair.lost,
            "gained": test.pair.gained,
            "p_value": test.test.p_value,
            "images_needed": test.test.images_needed if test.verdict == "not shown" else None,
            **test.jpegs.as_dict(),
            "share": self.share(test),
        }
        return {name: json_values(value) for name, value in values.items()}


def _bytes_values(jpegs: JpegBytes) -> dict[str, Any]:
    return {name: json_values(value) for name, value in jpegs.as_dict().items()}


def budget(
    models: Models,
    data: str | Path | Sequence[str | Path] | None = None,
    qualities: Sequence[Quality] | None = None,
    *,
    within: float = WITHIN,
    against: Quality = "source",
    level: float = LEVEL,
    runtime: Runtime | None = None,
    labels: str | Path | None = None,
    loader: str = "auto",
    max_pixels: int = MAX_PIXELS,
    merge: str | Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    byte_progress: Callable[[int, int], None] | None = None,
) -> list[Budget]:
    """Search for the lowest quality that is shown to cost less than ``within`` points of top-1, as ``jpegcurr budget`` does.

    Args:
        models: as for ``evaluate``.
        data: as for ``evaluate``; the images must be the source images.
        qualities: the qualities that may be chosen, all below ``against``; ``LADDER`` by default. They are tested from the
            highest down, until one is not shown (``noninferiority.count_shown``).
        within: the margin, points of top-1, above 0.
        against: the quality that all are compared with.
        level: of the one-sided test.
        runtime: this and all others are as for ``evaluate``.
        labels: a table of the images' classes.
        loader: the decode path.
        max_pixels: larger images that are in no beton are not read.
        merge: outputs that count as one class.
        progress: called with the number of images evaluated, and of all.
        byte_progress: called with the number of images whose bytes are measured, and of all.

    Returns:
        A search for every model on every data set, each at the full ``level``.

    Raises:
        UsageError: ``within``, ``level``, ``against`` or ``qualities`` allow no test; or as ``evaluate``.
        JpegcurrError: as ``evaluate``.
    """
    ladder = check_options(qualities, check_quality(against), within, level)
    paths = [Path(path) for path in ([data] if isinstance(data, str | Path) else data or ())]
    _refuse_encoded(paths)
    results = evaluate(
        models,
        paths,
        [check_quality(against), *ladder],
        runtime=runtime,
        labels=labels,
        loader=loader,
        max_pixels=max_pixels,
        merge=merge,
        progress=progress,
        byte_progress=byte_progress,
    )
    size = 1 + len(ladder)
    lines = [results[start : start + size] for start in range(0, len(results), size)]
    return [search(line, within=within, level=level) for line in lines]


def check_options(qualities: Sequence[Quality] | None, against: Quality, within: float, level: float) -> list[int]:
    """Return the qualities that may be chosen from the highest down, without ``source``, which is no saving.

    Raises UsageError where the options of ``budget`` allow no test.
    """
    if not 0 < within < 100:
        why = "no number of images can show that nothing is lost" if within == 0 else "a loss is between 0 and 100 points"
        raise UsageError(f"--within {within:g}: {why}. Give the points of top-1 that may be lost, such as 0.5.")
    if not LEVELS[0] <= level <= LEVELS[1]:
        low, high = LEVELS
        raise UsageError(f"--level {level:g}: the chance of a wrong claim may be from {low:g} to {high:g}, such as 0.05.")
    highest = 101 if against == "source" else against
    if qualities is None:
        ladder = [quality for quality in LADDER if quality < highest]
        if not ladder:
            raise UsageError(
                f"--against {against}: the qualities that are tried end at {LADDER[-1]}. Give others: --qualities."
            )
        return ladder
    numbers = {quality for quality in map(check_quality, qualities) if quality != "source"}
    ladder = sorted((quality for quality in numbers if isinstance(quality, int)), reverse=True)
    if not ladder:
        raise UsageError("--qualities names none that could be chosen. Give numbers, such as 90,75,50.")
    if ladder[0] >= highest:
        raise UsageError(f"--qualities {ladder[0]} is not below --against {against}, which it would be compared with. Omit it.")
    return ladder


def _refuse_encoded(paths: Sequence[Path]) -> None:
    """Raise UsageError for a beton whose images have a quality already."""
    for path in paths:
        manifest = read_manifest(path)
        if manifest is not None and manifest.quality != "source":
            raise UsageError(
                f"{path} has quality {manifest.quality}, and a budget is of the source images, which are encoded at every "
                "quality. Give their beton, or the images themselves. To measure this file as it is: jpegcurr evaluate."
            )


def search(line: Sequence[Evaluation], *, within: float, level: float) -> Budget:
    """Search one model's evaluations on the same images: the reference's, then those of qualities from the highest down.

    Raises:
        UsageError: not the same images were evaluated at every quality.
    """
    reference, *others = line
    compared = []
    for evaluation, pair in zip(others, compare_evaluations(line)[1:], strict=True):
        if pair is None or evaluation.jpegs is None or reference.jpegs is None:
            raise UsageError(f"{reference.data} did not give the same images at every quality. Was it changed meanwhile?")
        test = assess_noninferiority(pair.lost, pair.gained, pair.images, within / 100, level)
        compared.append((int(evaluation.tested or 0), evaluation, evaluation.jpegs, pair, test))
    if reference.jpegs is None or not compared:
        raise UsageError(f"{reference.data}: there is no quality to compare with the first.")
    shown = count_shown([test for *_, test in compared])
    tests = tuple(QualityTest(*row, _verdict(number - shown)) for number, row in enumerate(compared))
    return Budget(reference, reference.jpegs, within, level, tests)


def _verdict(behind: int) -> Verdict:
    """Return the verdict on a test so many places behind the first that is not shown; negative if before it."""
    return "shown" if behind < 0 else "not tested" if behind else "not shown"
