"""JPEG-quality curricula: encode a data set at several qualities, train through a swap, and measure its effect.

    from pathlib import Path
    import jpegcurr

    jpegcurr.encode_dataset("data/imagenet", ["source", 50], "betons")
    recipe = jpegcurr.load_recipe(Path("recipes/two_phase.yaml"))
    jpegcurr.train(recipe, Path("runs/two_phase"), runtime=jpegcurr.resolve_runtime())

    for result in jpegcurr.evaluate("runs/two_phase", "betons/val-source.beton", qualities=["source", 50]):
        print(result.as_dict())
    study = jpegcurr.compare_cams("runs/two_phase", "data/imagenet/val", ["source", 50])
    jpegcurr.write_report(study, "report.html")

    dataset = jpegcurr.BetonDataset("betons/train-source.beton", quality=50)  # for any loop with torch

Paths are ``str`` or ``Path``, a model is a run, a name, or a network in memory, and the device is a GPU if there is one.
Networks, data sets and loops of one's own are in ``jpegcurr/README.md``.

Public names are imported on first use, so that ``import jpegcurr`` and ``jpegcurr encode`` never import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Beton": "jpegcurr.encoding.beton.reader",
    "EncodeSpec": "jpegcurr.encoding.jpeg.codec",
    "reencode": "jpegcurr.encoding.jpeg.codec",
    "open_executor": "jpegcurr.encoding.workers",
    "decode_rgb": "jpegcurr.encoding.jpeg.codec",
    "encode_rgb": "jpegcurr.encoding.jpeg.codec",
    "encode_dataset": "jpegcurr.encoding.encode",
    "plan_outputs": "jpegcurr.encoding.plan",
    "Manifest": "jpegcurr.encoding.beton.manifest",
    "open_sources": "jpegcurr.encoding.sources.open",
    "SplitDraw": "jpegcurr.encoding.sources.base",
    "show_progress": "jpegcurr.progress",
    "Journal": "jpegcurr.analysis.journal",
    "preview": "jpegcurr.analysis.preview.preview",
    "JpegcurrError": "jpegcurr.errors",
    "UsageError": "jpegcurr.errors",
    "Recipe": "jpegcurr.recipe.schema",
    "load_recipe": "jpegcurr.recipe.loading",
    "resolve_runtime": "jpegcurr.runtime",
    "plan_epochs": "jpegcurr.training.curriculum",
    "open_datasets": "jpegcurr.training.data.datasets",
    "BetonDataset": "jpegcurr.training.data.beton_dataset",
    "JPEG": "jpegcurr.training.augment.jpeg",
    "jpeg": "jpegcurr.training.augment.exact_jpeg",
    "open_loaders": "jpegcurr.training.data.loaders",
    "Loaders": "jpegcurr.training.data.loaders",
    "TrainLoader": "jpegcurr.training.data.iteration",
    "ValLoader": "jpegcurr.training.data.iteration",
    "SwapLoader": "jpegcurr.training.data.swap_loader",
    "Batch": "jpegcurr.training.data.sampling",
    "Augment": "jpegcurr.training.augment.augment",
    "recipe_loss": "jpegcurr.training.loss",
    "create_model": "jpegcurr.training.models.create",
    "create_optimizer": "jpegcurr.training.optim",
    "learning_rate": "jpegcurr.training.schedule",
    "create_schedule": "jpegcurr.training.optim",
    "train": "jpegcurr.training.train",
    "audit": "jpegcurr.analysis.audit.report",
    "write_audit": "jpegcurr.analysis.audit.page",
    "load_model": "jpegcurr.training.models.load",
    "load_run": "jpegcurr.training.models.load",
    "evaluate": "jpegcurr.analysis.evaluation.evaluate",
    "budget": "jpegcurr.analysis.evaluation.budget",
    "evaluate_run": "jpegcurr.analysis.evaluation.evaluate",
    "predict_images": "jpegcurr.analysis.prediction.predict",
    "compare_evaluations": "jpegcurr.analysis.evaluation.evaluate",
    "grad_cam": "jpegcurr.analysis.cam.grad_cam",
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
