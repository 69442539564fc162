"""Studies like those of ``jpegcurr cam``, made of random numbers, because the report needs no network."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from samples import jpeg, photograph

from jpegcurr.analysis.cam.results import CamStudy, CamView, Column, Example, ExamplePrediction, Rule, ViewColumns
from jpegcurr.analysis.cam.similarity import METRICS
from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes
from jpegcurr.encoding.jpeg.pillow import Pixels

MARKUP = "<img src=x onerror=alert(1)>.jpg"
SCRIPT = "</script><script>alert(2)</script>"
CLASSES = ("astronaut", "cat & dog", SCRIPT, "grass", "n01440764")
NAMES = (MARKUP, 'it\'s "quoted" \u202e\u2028.jpg', "a/" + 40 * "long_" + ".jpg", "bytes\udcff.jpg", "=1+1.jpg")
QUALITIES = ("source", "q50", "q10")
RULES: tuple[Rule, ...] = ("most changed", "lost", "gained", "median", "random", "least changed")


def picture(number: int, quality: str, size: int = 64) -> Pixels:
    """Return a crop of a photograph, ``size`` pixels a side, after encoding at the quality."""
    whole = photograph(("astronaut", "cat", "coffee", "grass")[number % 4])
    left, top = (number * 37) % (whole.width - size), (number * 23) % (whole.height - size)
    crop = whole.crop((left, top, left + size, top + size))
    if quality != "source":
        with Image.open(BytesIO(jpeg(crop, quality=int(quality[1:])))) as again:
            crop = again.convert("RGB")
    return np.asarray(crop)


def cam_study(
    images: int = 24,
    shown: int = 8,
    *,
    runs: Sequence[str] = ("runs/two_phase", "runs/restart_only"),
    qualities: Sequence[str] = QUALITIES,
    labelled: bool = True,
    grid: tuple[int, int] = (4, 5),
    size: int = 64,
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
) -> CamStudy:
    """Return a study with awkward names of images, dark maps in its third example, and some undefined metrics.

    Its first image is no JPEG, if there is a view at ``source``.
    """
    random = np.random.default_rng(seed)
    views = tuple(
        CamView(Path(run), "raw", quality, f"{number:x}" * 64) for number, run in enumerate(runs, 10) for quality in qualities
    )
    truth = random.integers(0, len(classes), images) if labelled else np.full(images, -1)
    clean = np.where(random.random(images) < 0.8, np.maximum(truth, 0), random.integers(0, len(classes), images))
    predicted = [clean] + [np.where(random.random(images) < 0.7, clean, (clean + 1) % len(classes)) for _ in views[1:]]
    columns = tuple(_columns(random, labels, clean, first=not view) for view, labels in enumerate(predicted))
    names = tuple(NAMES[number] if number < len(NAMES) else f"{number:05}.jpg" for number in range(images))
    baseline = _similarity(random, images, 0.2)
    baseline["logit_change"][:] = np.nan
    chosen = np.linspace(0, images - 1, min(shown, images)).round().astype(int).tolist()
    examples = tuple(
        Example(
            index=index,
            rules=tuple(dict.fromkeys((RULES[place % len(RULES)], RULES[(place * 2) % len(RULES)]))),
            pictures={quality: picture(index, quality, size) for quality in qualities},
            predictions=tuple(
                _prediction(random, classes, int(predicted[view][index]), int(clean[index]), grid, dark=place == 2)
                for view in range(len(views))
            ),
        )
        for place, index in enumerate(chosen)
    )
    return CamStudy(
        views=views,
        classes=tuple(classes),
        names=names,
        truth=truth.astype(np.int32),
        converted=(np.arange(images) == 0) & ("source" in qualities),
        columns=columns,
        baseline=baseline,
        ceiling=_similarity(random, images, 0.99),
        baseline_of="same class" if labelled else "half the list",
        examples=examples,
        unknown="" if labelled else f"{images} of {images} images have no class: the folder is no class of run: {MARKUP!r}.",
        skipped=((f"bad/{MARKUP}", "not an image that Pillow can read"),),
        available=images + 1,
        layer="stages.3",
        grid=grid,
        runtime="no CUDA device: CPU, float32",
        preprocessing=("224 pixels",),
        method="gradcam",
        target_rule="reference",
        seed=seed,
        jpegs={
            quality: JpegBytes(images, 90_000 * images // (2 * place + 1), 180_000 * images)
            for place, quality in enumerate(qualities)
        },
    )


def _columns(random: np.random.Generator, predicted: np.ndarray, target: np.ndarray, *, first: bool) -> ViewColumns:
    images = len(predicted)
    nothing = {name: np.full(images, np.nan, np.float32) for name in METRICS}
    similarity = nothing if first else _similarity(random, images, 0.8)
    return ViewColumns(
        predicted=predicted.astype(np.int32),
        target=target.astype(np.int32),
        confidence=random.random(images, np.float32),
        logit=random.normal(5, 2, images).astype(np.float32),
        dark=np.arange(images) == 2,
        similarity=similarity,
        faithfulness={"road": np.where(np.arange(images) % 7, random.normal(0.2, 0.1, images), np.nan).astype(np.float32)},
    )


def _similarity(random: np.random.Generator, images: int, mean: float) -> dict[str, Column]:
    """Return every metric around ``mean``; the third image's maps are dark, so it has none."""
    values = np.clip(random.normal(mean, 0.1, (images, len(METRICS))), 0.01, 1).astype(np.float32)
    values[2:3] = np.nan
    return {name: values[:, number].copy() for number, name in enumerate(METRICS)}


def _prediction(
    random: np.random.Generator, classes: Sequence[str], predicted: int, target: int, grid: tuple[int, int], *, dark: bool
) -> ExamplePrediction:
    shares = np.sort(random.dirichlet(np.ones(3)))[::-1].tolist()
    likeliest = dict.fromkeys([classes[predicted], *classes[: min(3, len(classes))]])
    top = tuple(zip(list(likeliest)[:3], shares, strict=False))
    cam = np.zeros(grid, np.float32) if dark else random.gamma(1, 1, grid).astype(np.float32)
    return ExamplePrediction(top, float(random.normal(5, 2)), cam, classes[target])
