"""What the arms of an evaluation are called, and which of them make up a line over qualities."""

from collections.abc import Sequence
from pathlib import Path

from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.files import short_names

AFTER_RESIZE = ", after the resize"
Place = tuple[int, int, str]  # on the axis of qualities: source first, then by falling quality, then others; and its name
Line = tuple[str, list[Evaluation]]


def run_name(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """The folder's name, with those above it where two are called alike."""
    return short_names(other.run for other in results)[each.run]


def data_name(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """The beton's name without its suffix, with the folders above it where two are called alike."""
    return short_names(other.data for other in results)[each.data].removesuffix(".beton")


def quality_name(each: Evaluation) -> str:
    """``source``, ``50``, ``50, after the resize``, or what is done at loading, where that is not one quality."""
    if each.tested is None:
        return each.at_load or "not known"
    return f"{each.tested}{AFTER_RESIZE if each.at_load and each.at_load.endswith(AFTER_RESIZE) else ''}"


def arm_name(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """What tells an arm from the others: the run and the beton where there are several, and the quality."""
    alike = {(other.data, quality_name(other)) for other in results if quality_name(other) == quality_name(each)}
    parts = [run_name(each, results)] if many_runs(results) else []
    return ", ".join([*parts, *([data_name(each, results)] if len(alike) > 1 else []), quality_name(each)])


def many_runs(results: Sequence[Evaluation]) -> bool:
    """Whether there are several."""
    return len({each.run for each in results}) > 1


def place_of(each: Evaluation) -> Place:
    """Where an arm stands on the axis of qualities."""
    kind, quality = (2, 0) if each.tested is None else (0, 0) if each.tested == "source" else (1, -each.tested)
    return kind, quality, quality_name(each)


def place_names(places: Sequence[Place]) -> tuple[list[str], str]:
    """What the places are called, and what is said once for all of them, where all but source are after the resize."""
    names = [name for *_, name in places]
    made = [name for name in names if name != "source"]
    if made and all(name.endswith(AFTER_RESIZE) for name in made):
        return [name.removesuffix(AFTER_RESIZE) for name in names], ", encoded after the resize"
    return names, ""


def quality_lines(results: Sequence[Evaluation]) -> list[Line]:
    """The name of each line and its arms, source first, then by falling quality.

    A run has one line for each set of images, through its betons of several qualities. Where that is one quality more than
    once, of several betons, it has one line for each beton.
    """
    lines = _grouped(results, by_data=False)
    if any(len(arms) > len({place_of(each) for each in arms}) for arms in lines):
        lines = _grouped(results, by_data=True)
    sets = {tuple(dict.fromkeys(each.data for each in arms)) for arms in lines}
    named = []
    for arms in lines:
        parts = [run_name(arms[0], results)] if many_runs(results) or len(sets) == 1 else []
        if len(sets) > 1:
            parts += dict.fromkeys(data_name(each, results) for each in arms)
        named.append((", ".join(parts), sorted(arms, key=place_of)))
    return named


def _grouped(results: Sequence[Evaluation], *, by_data: bool) -> list[list[Evaluation]]:
    """Arms of one run and the same images, or of one run and beton; an arm that was asked for twice counts once."""
    lines: dict[tuple[Path, str], dict[tuple[Path, Place], Evaluation]] = {}
    for each in results:
        images = str(each.data) if by_data or each.keys is None else each.keys
        lines.setdefault((each.run, images), {})[each.data, place_of(each)] = each
    return [list(arms.values()) for arms in lines.values()]
