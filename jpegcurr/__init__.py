"""JPEG-quality curricula: encode at several qualities, train through a swap, show what it did.

Public names are imported on first use, so that ``import jpegcurr`` and ``jpegcurr encode`` never pay for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Beton": "jpegcurr.encoding.beton.reader",
    "EncodeSpec": "jpegcurr.encoding.jpeg.codec",
    "reencode": "jpegcurr.encoding.jpeg.codec",
    "encode_dataset": "jpegcurr.encoding.encode",
    "Manifest": "jpegcurr.encoding.beton.manifest",
    "open_sources": "jpegcurr.encoding.sources.open",
    "JpegcurrError": "jpegcurr.errors",
    "UsageError": "jpegcurr.errors",
    "Recipe": "jpegcurr.recipe.schema",
    "load_recipe": "jpegcurr.recipe.loading",
    "resolve_runtime": "jpegcurr.runtime",
    "plan_epochs": "jpegcurr.training.curriculum",
    "open_loaders": "jpegcurr.training.data.loaders",
    "train": "jpegcurr.training.train",
    "load_run": "jpegcurr.training.models.load",
    "evaluate_run": "jpegcurr.analysis.evaluation.evaluate",
    "predict_images": "jpegcurr.analysis.prediction.predict",
    "compare_cams": "jpegcurr.analysis.cam.compare",
    "write_report": "jpegcurr.analysis.report.html",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jpegcurr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
