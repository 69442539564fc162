"""JPEG-quality curricula: encode a data set at several qualities, train through a swap, and measure its effect.

    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    import jpegcurr

    sources = jpegcurr.open_sources("data/imagenet")
    specs = [jpegcurr.EncodeSpec("source"), jpegcurr.EncodeSpec(50)]
    with ThreadPoolExecutor(8) as executor:
        outputs = jpegcurr.plan_outputs(sources, specs, Path("betons"))
        jpegcurr.encode_dataset(sources, outputs, executor=executor, workers=8)

    runtime = jpegcurr.resolve_runtime("auto")
    jpegcurr.train(jpegcurr.load_recipe("recipes/two_phase.yaml"), "runs/two_phase", runtime=runtime)

    run = jpegcurr.load_run(Path("runs/two_phase"), runtime)
    for result in jpegcurr.evaluate_run(run, {"q50": Path("betons/val-q50.beton")}, runtime):
        print(result.as_dict())
    study = jpegcurr.compare_cams([run], Path("data/imagenet/val"), specs, runtime)
    jpegcurr.write_report(study, Path("report.html"))

For a training loop of one's own, see "From Python" in this package's README.

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
    "encode_dataset": "jpegcurr.encoding.encode",
    "plan_outputs": "jpegcurr.encoding.plan",
    "Manifest": "jpegcurr.encoding.beton.manifest",
    "open_sources": "jpegcurr.encoding.sources.open",
    "JpegcurrError": "jpegcurr.errors",
    "UsageError": "jpegcurr.errors",
    "Recipe": "jpegcurr.recipe.schema",
    "load_recipe": "jpegcurr.recipe.loading",
    "resolve_runtime": "jpegcurr.runtime",
    "plan_epochs": "jpegcurr.training.curriculum",
    "open_datasets": "jpegcurr.training.data.datasets",
    "BetonDataset": "jpegcurr.training.data.beton_dataset",
    "JPEG": "jpegcurr.training.augment.jpeg",
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
