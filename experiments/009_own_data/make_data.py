"""Data with a known answer, from Imagenette at 128 pixels: ambiguous classes, and scenes with annotated boxes.

    python make_data.py IMAGENETTE OUT

OUT/ambiguous/{train,val}/<class>/ holds gas pumps (``negative``), garbage trucks (``positive``) and blends of one of each: in
``amb_neg`` the gas pump has a share between 0.55 and 0.75 of every pixel, in ``amb_pos`` the truck. OUT/scenes has YOLO's
layout: pictures of ten classes of the val split on a blurred background, three to a scene, their boxes in labels/val/*.txt.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

NEGATIVE, POSITIVE = "n03425413", "n03417042"  # gas pump, garbage truck
TRAIN, VAL, SCENES = 150, 150, 80  # images of a class, and scenes
SIDE = 128
WIDTH, HEIGHT = 640, 480


def pictures(folder: Path) -> list[Image.Image]:
    """Return the images of a folder in the order of their names, all of one size."""
    return [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in sorted(folder.iterdir())]


def save(image: Image.Image, path: Path) -> None:
    """Save a JPEG of quality 95, 4:4:4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95, subsampling=0)


def make_ambiguous(data: Path, out: Path, random: np.random.Generator) -> None:
    """Write both splits of the four classes."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        negatives, positives = (pictures(data / split / name) for name in (NEGATIVE, POSITIVE))
        for number in range(count):
            save(negatives[number], out / split / "negative" / f"{number:03}.jpg")
            save(positives[number], out / split / "positive" / f"{number:03}.jpg")
            for name, first, others in (("amb_neg", negatives, positives), ("amb_pos", positives, negatives)):
                one, other = first[count + number % (len(first) - count)], others[count + number % (len(others) - count)]
                save(Image.blend(other, one, random.uniform(0.55, 0.75)), out / split / name / f"{number:03}.jpg")


def make_scenes(data: Path, out: Path, random: np.random.Generator) -> None:
    """Write the scenes, their boxes and the names of the classes."""
    classes = sorted(path.name for path in (data / "val").iterdir())
    (out / "labels/val").mkdir(parents=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    shown = {name: pictures(data / "val" / name)[:30] for name in classes}
    for number in range(SCENES):
        background = shown[classes[number % 10]][number // 10].resize((WIDTH, HEIGHT)).filter(ImageFilter.GaussianBlur(30))
        lines = []
        for place in range(3):  # a third of the width each, so that none overlaps
            label = int(random.integers(10))
            left = place * WIDTH // 3 + int(random.integers(WIDTH // 3 - SIDE))
            top = int(random.integers(HEIGHT - SIDE))
            background.paste(shown[classes[label]][int(random.integers(10, 30))], (left, top))
            edges = ((left + SIDE / 2) / WIDTH, (top + SIDE / 2) / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT)
            lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in edges))
        save(background, out / "images/val" / f"{number:03}.jpg")
        (out / "labels/val" / f"{number:03}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    make_ambiguous(source, target / "ambiguous", np.random.default_rng(0))
    make_scenes(source, target / "scenes", np.random.default_rng(0))
