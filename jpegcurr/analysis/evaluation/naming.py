"""Names of runs, betons and qualities that tell them apart, and the lines that evaluations form over qualities.

``run_names``, ``data_names``, ``quality_names`` and ``join_name`` take plain values, so that any table or page can use them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.files import short_names
from jpegcurr.text import join_words

if TYPE_CHECKING:
    from jpegcurr.analysis.evaluation.evaluate import Evaluation

NAMED = 2  # runs that the name of a pass lists
AFTER_RESIZE = ", after the resize"
AxisPosition = tuple[int, int, str]  # sorts source first, then falling qualities, then others; the last is the name
QualityLine = tuple[str, list["Evaluation"]]


def run_names(runs: Sequence[tuple[Path, str]]) -> list[str]:
    """Return a name for each of ``runs``, (folder, weights) pairs, no two alike.

    A name is the folder's own, with the parent folders that tell it from others, then the weights if the folder comes with
    more than one kind, and a number if the same run is given again: ``a/x``, ``x (ema)``, ``x #2``.
    """
    folders = short_names(folder for folder, _ in runs)
    kinds = Counter(folder for folder, _ in set(runs))
    given: Counter[tuple[Path, str]] = Counter()
    names = []
    for folder, weights in runs:
        given[folder, weights] += 1
        number = given[folder, weights]
        name = folders[folder] if kinds[folder] == 1 else f"{folders[folder]} ({weights})"
        names.append(name if number == 1 else f"{name} #{number}")
    return names


def data_names(betons: Iterable[Path]) -> dict[Path, str]:
    """Return a name for each beton: the file's without its suffix, with the parent folders that tell it from others."""
    return {path: name.removesuffix(".beton") for path, name in short_names(betons).items()}


def quality_name(tested: Quality | None, at_load: str | None) -> str:
    """Return ``source``, ``50`` or ``50, after the resize``; for more than one quality, what is done when images are loaded.

    ``tested`` is the quality that the model sees, None if it is unknown or not one number; ``at_load`` describes the encoding
    on the fly (``OnTheFlyJpeg.describe``), None if there is none.
    """
    if tested is None:
        return at_load or "not known"
    return f"{tested}{AFTER_RESIZE if at_load and at_load.endswith(AFTER_RESIZE) else ''}"


def quality_names(qualities: Iterable[tuple[Quality | None, str | None]]) -> tuple[list[str], str]:
    """Return the ``quality_name`` of each (tested, at_load) pair, and what to say once beside all of them.

    That is ``, encoded after the resize`` where it applies to all qualities but source, which are then named without it; else
    it is empty.
    """
    return _shorten([quality_name(*quality) for quality in qualities])


def join_name(run: str = "", data: str = "", quality: str = "") -> str:
    """Join the parts that are not empty to ``run, data, quality``, the order in all tables."""
    return ", ".join(part for part in (run, data, quality) if part)


def pass_name(runs: Sequence[str], data: str, quality: str = "") -> str:
    """Return a name of a pass of runs over the images of a beton: ``two_phase on val-source at 50``."""
    who = join_words(runs) if len(runs) <= NAMED else f"{len(runs)} models"
    return f"{who} on {data}{quality and f' at {quality}'}"


def run_name(evaluation: "Evaluation", results: Sequence["Evaluation"]) -> str:
    """Return what tells the run from the other runs of ``results``."""
    runs = list(dict.fromkeys((other.run, other.weights) for other in results))
    return run_names(runs)[runs.index((evaluation.run, evaluation.weights))]


def data_name(evaluation: "Evaluation", results: Sequence["Evaluation"]) -> str:
    """Return what tells the beton from the other betons of ``results``."""
    return data_names(other.data for other in results)[evaluation.data]


def tested_name(evaluation: "Evaluation") -> str:
    """Return the ``quality_name`` of what the model saw."""
    return quality_name(evaluation.tested, evaluation.at_load)


def evaluation_name(evaluation: "Evaluation", results: Sequence["Evaluation"]) -> str:
    """Return what tells an evaluation from the others: the run and the beton, where needed, and the quality."""
    quality = tested_name(evaluation)
    betons = {other.data for other in results if tested_name(other) == quality}
    run = run_name(evaluation, results) if have_many_runs(results) else ""
    return join_name(run, data_name(evaluation, results) if len(betons) > 1 else "", quality)


def have_many_runs(results: Sequence["Evaluation"]) -> bool:
    """Return whether ``results`` are of more than one run."""
    return len({(evaluation.run, evaluation.weights) for evaluation in results}) > 1


def axis_position(evaluation: "Evaluation") -> AxisPosition:
    """Return the position of an evaluation on the axis of qualities."""
    tested = evaluation.tested
    kind, rank = (2, 0) if tested is None else (0, 0) if tested == "source" else (1, -tested)
    return kind, rank, tested_name(evaluation)


def axis_labels(positions: Sequence[AxisPosition]) -> tuple[list[str], str]:
    """Return the names of positions on the axis of qualities, and what to say once for all; see ``quality_names``."""
    return _shorten([name for *_, name in positions])


def quality_lines(results: Sequence["Evaluation"]) -> list[QualityLine]:
    """Return lines over qualities: the name of each and its evaluations, source first, then by falling quality.

    A run has one line for each set of images, through its betons of different qualities. If such a line has one quality more
    than once, from different betons, a run has one line for each beton instead.
    """
    lines = _group_by_line(results, by_data=False)
    if any(len(line) > len(set(map(axis_position, line))) for line in lines):
        lines = _group_by_line(results, by_data=True)
    data_sets = {tuple(dict.fromkeys(evaluation.data for evaluation in line)) for line in lines}
    named = []
    for line in lines:
        run = run_name(line[0], results) if have_many_runs(results) or len(data_sets) == 1 else ""
        betons = dict.fromkeys(data_name(evaluation, results) for evaluation in line) if len(data_sets) > 1 else ()
        named.append((join_name(run, ", ".join(betons)), sorted(line, key=axis_position)))
    return named


def _group_by_line(results: Sequence["Evaluation"], *, by_data: bool) -> list[list["Evaluation"]]:
    """Return the evaluations of one run on the same images, or of one run and beton; repeated evaluations count once."""
    lines: dict[tuple[Path, str, str], dict[tuple[Path, AxisPosition], Evaluation]] = {}
    for evaluation in results:
        images = str(evaluation.data) if by_data or evaluation.keys is None else evaluation.keys
        line = lines.setdefault((evaluation.run, evaluation.weights, images), {})
        line[evaluation.data, axis_position(evaluation)] = evaluation
    return [list(line.values()) for line in lines.values()]


def _shorten(names: list[str]) -> tuple[list[str], str]:
    encoded = [name for name in names if name != "source"]
    if encoded and all(name.endswith(AFTER_RESIZE) for name in encoded):
        return [name.removesuffix(AFTER_RESIZE) for name in names], ", encoded after the resize"
    return names, ""
