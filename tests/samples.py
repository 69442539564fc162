"""Samples for the tests: real photographs that scikit-image ships, as JPEGs of the usual layouts."""

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_loader
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jpegcurr.encoding.beton.format import DEFAULT_PAGE_SIZE
from jpegcurr.encoding.beton.writer import BetonWriter
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe

TOOLS = Path(__file__).parent.parent / "tools"
PHOTOGRAPHS = {"astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png", "grass": "grass.png"}
CROPS = {"train": 12, "val": 4}
# Pillow's options for the JPEGs of the data set, in turn.
LAYOUTS: tuple[dict[str, object], ...] = (
    {"quality": 96, "subsampling": "4:4:4"},
    {"quality": 92, "subsampling": "4:2:0"},
    {"quality": 90, "subsampling": "4:2:2", "progressive": True},
)

# Options that make `train --recipe two_phase.yaml` take seconds.
SMALL = (
    "--set model.name=test_convnext --set image.size=32 --set curriculum.0.until_epoch=1 --set curriculum.1.until_epoch=2 "
    "--set schedule.warmup_epochs=0 --set batch.size=16 --set batch.per_device=16 --set loader.kind=plain "
    "--set loader.workers=0 --device cpu"
)


def photograph(name: str) -> Image.Image:
    with Image.open(str(files("skimage").joinpath("data", PHOTOGRAPHS[name]))) as image:
        return image.convert("RGB")


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def scan(data: bytes) -> bytes:
    """Return the entropy-coded data behind the start-of-scan header of a baseline JPEG."""
    start = data.index(b"\xff\xda")
    return data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def image(number: int) -> bytes:
    """Return a JPEG of 40 by 30 pixels, a different one for every number."""
    return jpeg(photograph("coffee").crop((number, 0, number + 40, 30)))


class Photographs:
    """Five labelled images, in the form that FFCV's writer takes."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.asarray(photograph("cat").crop((index, 0, index + 80, 60 + index))), index * 3

    def __len__(self) -> int:
        return 5


class LabelFirst(Photographs):
    """The same with the label before the image. FFCV's writer sends it to processes, so it cannot be a class of a test."""

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:  # type: ignore[override]
        image, label = super().__getitem__(index)
        return label, image


# All loaders; FFCV, and numba's parallel loops, emit warnings about their own code.
FFCV = (pytest.mark.ffcv, pytest.mark.filterwarnings("ignore"))
COMPILED = pytest.param("compiled", marks=pytest.mark.compiled)
LOADERS = (COMPILED, "plain", pytest.param("ffcv", marks=FFCV))


def write_beton(
    path: Path, samples: Sequence[tuple[Any, ...]], capacity: int | None = None, page_size: int = DEFAULT_PAGE_SIZE
) -> Path:
    """Write a beton; ``samples`` are the arguments of ``BetonWriter.append``."""
    with BetonWriter(path, capacity or len(samples), page_size) as writer:
        for sample in samples:
            writer.append(*sample)
        writer.finish()
    return path


def write_photos(root: Path) -> None:
    """Write ``root/{train,val}/<class>/NN.jpg``: crops with sides of 64 to 160 pixels; the last of every class is grey."""
    random = np.random.default_rng(0)
    for label in PHOTOGRAPHS:
        whole = photograph(label)
        for split, count in CROPS.items():
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                width, height = (int(side) for side in random.integers(64, 161, 2))
                left = int(random.integers(0, whole.width - width))
                top = int(random.integers(0, whole.height - height))
                crop = whole.crop((left, top, left + width, top + height))
                crop = crop.convert("L") if number == count - 1 else crop
                (root / split / label / f"{number:02}.jpg").write_bytes(jpeg(crop, **LAYOUTS[number % len(LAYOUTS)]))


def encode_all(root: str | Path, out: Path, qualities: Sequence[Quality], threads: int = 2, **options: Any) -> None:
    sources = open_sources(root)
    outputs = plan_outputs(sources, [EncodeSpec(quality) for quality in qualities], out)
    with open_executor(threads) as (executor, workers):
        encode_dataset(sources, outputs, executor=executor, workers=workers, **options)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def contents(source: Source) -> dict[str, tuple[str, bytes]]:
    """Return class and bytes of every key."""
    return {item.key: (source.classes[item.label], source.store.read(item)) for item in source.items}


def tiny_tree(betons: Path) -> dict[str, Any]:
    """Return a recipe that trains the smallest ConvNeXt for four epochs, two on clean and two on q50."""

    def data(file: str, quality: Quality) -> dict[str, object]:
        paths = {split: str(betons / f"{split}-{file}.beton") for split in ("train", "val")}
        return {**paths, "quality": quality}

    return {
        "model": {"name": "test_convnext", "drop_path": 0.1},
        "data": {"clean": data("source", "source"), "q50": data("q50", 50)},
        "curriculum": [{"data": "clean", "until_epoch": 2}, {"data": "q50", "until_epoch": 4}],
        "evaluate": ["clean", "q50"],
        "image": {"size": 32},
        "batch": {"size": 16, "per_device": 8},
        "schedule": {"lr": 2e-3, "warmup_epochs": 1},
        "ema": {"decay": 0.9},
        "loader": {"kind": "plain", "workers": 0},
    }


def tiny_recipe(betons: Path, folder: Path, *overrides: str) -> Recipe:
    """Load ``tiny_tree`` as a recipe, with overrides as after ``--set``, without the data set that these leave unused."""
    path, tree = folder / "tiny.yaml", tiny_tree(betons)
    path.write_text(json.dumps(tree))  # JSON is YAML
    try:
        return load_recipe(path, overrides)
    except RecipeError as error:
        unused = re.search(r"data\.(clean|q50) is trained on in no phase", str(error))
        if unused is None:
            raise
        del tree["data"][unused[1]]
        path.write_text(json.dumps(tree))
        return load_recipe(path, overrides)


def tool_module(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script of ``tools/`` as a module, whose names can be patched."""
    patch.setattr(sys, "dont_write_bytecode", True)
    patch.syspath_prepend(str((TOOLS / name).parent))
    name, path = Path(name).stem, str(TOOLS / name)
    spec = spec_from_loader(name, SourceFileLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    patch.setitem(sys.modules, name, module)  # dataclasses look the module up
    spec.loader.exec_module(module)
    return module
