"""What the views of a study are called, and where they stand: in rows of arms and columns of qualities."""

from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.cam.results import CamStudy, CamView
from jpegcurr.files import short_names


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run with one set of weights: its name, and its view at each quality, by the quality's name."""

    name: str
    run: Path
    weights: str
    sha256: str
    views: dict[str, int]


def arms(study: CamStudy) -> tuple[RunRow, ...]:
    """The runs in the order of their views; the same run given twice is two of them."""
    found: list[tuple[CamView, dict[str, int]]] = []
    for index, view in enumerate(study.views):
        places = (views for first, views in found if _key(first) == _key(view) and view.quality not in views)
        places_of_view = next(places, None)
        if places_of_view is None:
            found.append((view, places_of_view := {}))
        places_of_view[view.quality] = index
    names = _names([view for view, _ in found])
    return tuple(
        RunRow(name, view.run, view.weights, view.sha256, views) for name, (view, views) in zip(names, found, strict=True)
    )


def qualities(study: CamStudy) -> tuple[str, ...]:
    """Every quality once, in order."""
    return tuple(dict.fromkeys(view.quality for view in study.views))


def view_names(study: CamStudy) -> tuple[str, ...]:
    """The name of every view: the quality, and the run where there are several."""
    named: dict[int, str] = {}
    several = arms(study)
    for arm in several:
        named |= {view: quality if len(several) == 1 else f"{arm.name}, {quality}" for quality, view in arm.views.items()}
    return tuple(named[view] for view in range(len(study.views)))


def opening_view(study: CamStudy) -> int:
    """The view that the page shows first beside the reference: the first run at quality 50, or at its last quality."""
    if len(study.views) == 1:
        return 0
    others = {quality: view for quality, view in arms(study)[0].views.items() if view}
    return others.get("q50", max(others.values(), default=1))


def _key(view: CamView) -> tuple[Path, str]:
    return view.run, view.weights


def _names(views: list[CamView]) -> list[str]:
    """The folder's name, with those above it where two are called alike, the weights where those differ, else a number."""
    short = short_names(view.run for view in views)
    weights = len({view.weights for view in views}) > 1
    plain = [f"{short[view.run]} ({view.weights})" if weights else short[view.run] for view in views]
    seen: dict[str, int] = {}
    names = []
    for name in plain:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return names
