"""All that the page says as one JSON file, raw maps of the examples included."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jpegcurr.analysis.cam.results import CamStudy, ClassRow, Example, Map, Seen
from jpegcurr.analysis.prediction.contact_sheet import shown
from jpegcurr.analysis.report.summary import summary
from jpegcurr.analysis.report.text import provenance, runs_told, verdict
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.analysis.stats import mean_known
from jpegcurr.files import json_values, staged

SCHEMA_VERSION = 3


def write_figures(study: CamStudy, comparisons: Sequence[Comparison], rows: Sequence[ClassRow], path: Path) -> None:
    """Write the figures to ``path``, indented, but for a class or an example, which is a line each."""
    lists = {
        "classes": [_class(row) for row in rows],
        "examples": [_example(study, example) for example in study.examples],
    }
    whole = json.dumps(json_values(_summary(study, comparisons)), indent=2, ensure_ascii=False, allow_nan=False)
    with staged(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(whole.removesuffix("\n}"))
        for name, values in lists.items():
            lines = (json.dumps(json_values(value), ensure_ascii=False, allow_nan=False) for value in values)
            file.write(f",\n  {json.dumps(name)}: [")
            for number, line in enumerate(lines):
                file.write(f"{',' if number else ''}\n    {line}")
            file.write("\n  ]" if values else "]")
        file.write("\n}\n")


def _summary(study: CamStudy, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """``views`` are told with how many images are labelled, right and flipped in them; what is undefined is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": study.layer,
        "grid": list(study.grid),
        "method": study.method,
        "explains": study.explains,
        "null_of": study.null_of,
        "seed": study.seed,
        "images": len(study.names),
        "found": study.found,
        "labelled": int((study.truth >= 0).sum()),
        "views": [_view(study, index) for index in range(len(study.views))],
        "summary": summary(study, comparisons),
        "verdict": verdict(study, comparisons),
        "comparisons": [asdict(each) for each in comparisons],
        "skipped": [{"file": shown(name), "reason": reason} for name, reason in study.skipped],
        "runs": [dict(zip(("name", "run", "weights", "sha256"), told, strict=True)) for told in runs_told(study)],
        "provenance": provenance(study),
    }


def _view(study: CamStudy, index: int) -> dict[str, Any]:
    view, columns = study.views[index], study.columns[index]
    return {
        "run": shown(view.run),
        "weights": view.weights,
        "quality": view.quality,
        "sha256": view.sha256,
        "right": int(study.right(index).sum()),
        "flips": int(study.flipped(index).sum()),
        "dark": int(columns.dark.sum()),
        "faithfulness": {name: mean_known(values) for name, values in columns.faithfulness.items()},
    }


def _class(row: ClassRow) -> dict[str, Any]:
    return {**asdict(row), "name": shown(row.name)}


def _example(study: CamStudy, example: Example) -> dict[str, Any]:
    truth = int(study.truth[example.index])
    return {
        "index": example.index,
        "name": shown(study.names[example.index]),
        "truth": shown(study.classes[truth]) if truth >= 0 else None,
        "rules": list(example.rules),
        "seen": [_seen(seen) for seen in example.seen],
    }


def _seen(seen: Seen) -> dict[str, Any]:
    top = [[shown(name), share] for name, share in seen.top]
    return {"target": shown(seen.target), "top": top, "logit": seen.logit, "cam": _numbers(seen.cam)}


def _numbers(cam: Map) -> list[list[float]]:
    """The shortest decimals that are the same float32."""
    return [[float(str(cell)) for cell in row] for row in cam]
