#!/usr/bin/env python3
"""Demo data: real photographs that scikit-image and scikit-learn ship, whole or as a small labelled image folder.

A class is one photograph or texture, cut into a 4x4 grid of tiles: twelve are for training and four, one in every row and
column, for validation, so that no pixel is in both. Crops are random squares within a tile.

    demo_data.py FOLDER             writes FOLDER/{train,val}/<class>/*.jpg; does nothing if FOLDER exists
    demo_data.py --whole FOLDER     writes FOLDER/<name>.{png,jpg}, the packages' own files; likewise
"""

import argparse
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

PHOTOGRAPHS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "moon": "skimage/data/moon.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "page": "skimage/data/page.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "temple": "sklearn/datasets/images/china.jpg",
    "tissue": "skimage/data/ihc.png",
}
GREY = {"camera": "skimage/data/camera.png", "clock": "skimage/data/clock_motion.png"}  # whole only
GRID = 4
VALIDATION_COLUMN = (1, 3, 0, 2)  # by row
SIDE = 128
CROPS = {"train": 96, "val": 24}


def main() -> None:
    """Write the folder whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="copy the photographs as they are")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    folder: Path = given.folder
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        (copy_whole if given.whole else cut_all)(Path(temporary))
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # for TemporaryDirectory to remove


def find_photograph(path: str) -> Path:
    """Return the file of a photograph that is named as ``package/folders/file``."""
    package, _, inside = path.partition("/")
    return Path(str(files(package).joinpath(inside)))


def copy_whole(folder: Path) -> None:
    """Copy every photograph, byte by byte, to ``<its name>`` and its own suffix."""
    for name, path in {**PHOTOGRAPHS, **GREY}.items():
        photograph = find_photograph(path)
        (folder / name).with_suffix(photograph.suffix).write_bytes(photograph.read_bytes())


def cut_all(folder: Path) -> None:
    """Write the crops of every class."""
    for number, (name, path) in enumerate(PHOTOGRAPHS.items()):
        with Image.open(find_photograph(path)) as photograph:
            write_crops(photograph.convert("RGB"), name, folder, np.random.default_rng(number))


def write_crops(photograph: Image.Image, name: str, folder: Path, random: np.random.Generator) -> None:
    """Write the crops of one class, JPEG quality 95, ``SIDE`` pixels square."""
    for split, count in CROPS.items():
        (folder / split / name).mkdir(parents=True)
        tiles = [
            (row, column)
            for row in range(GRID)
            for column in range(GRID)
            if (column == VALIDATION_COLUMN[row]) == (split == "val")
        ]
        for number in range(count):
            crop = photograph.crop(random_square(photograph.size, tiles[number % len(tiles)], random))
            crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / split / name / f"{number:03}.jpg", quality=95)


def random_square(size: tuple[int, int], tile: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) in pixels of a square in a tile, 70 to 100 % of its shorter side."""
    width, height = size[0] // GRID, size[1] // GRID
    side = int(random.uniform(0.7, 1.0) * min(width, height))
    left = tile[1] * width + int(random.integers(0, width - side + 1))
    top = tile[0] * height + int(random.integers(0, height - side + 1))
    return left, top, left + side, top + side


if __name__ == "__main__":
    main()
