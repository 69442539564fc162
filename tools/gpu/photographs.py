#!/usr/bin/env python3
"""Photographs of native size as a labelled image folder: windows of those that scikit-image and scikit-learn ship.

    photographs.py FOLDER     writes FOLDER/<class>/*.jpg, 180 images of up to 500 x 375 pixels

ImageNet's images have 500 x 375 pixels on average. A class is one photograph, and its windows overlap: this is for measuring
speed, not accuracy.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from demo_data import GREY, PHOTOGRAPHS, find_photograph

WIDTH, HEIGHT, QUALITY = 500, 375, 92
WINDOWS = 10  # of every photograph


def write_photographs(folder: Path) -> int:
    """Write the windows of every photograph; return their number."""
    for number, (name, path) in enumerate({**PHOTOGRAPHS, **GREY}.items()):
        random = np.random.default_rng(number)
        with Image.open(find_photograph(path)) as file:
            photograph = file.convert("RGB")
        width, height = min(WIDTH, photograph.width), min(HEIGHT, photograph.height)
        (folder / name).mkdir(parents=True)
        for window in range(WINDOWS):
            left = int(random.integers(0, photograph.width - width + 1))
            top = int(random.integers(0, photograph.height - height + 1))
            box = (left, top, left + width, top + height)
            photograph.crop(box).save(folder / name / f"{window}.jpg", quality=QUALITY)
    return len(list(folder.glob("*/*.jpg")))


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    folder: Path = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} exists")
    print(f"{write_photographs(folder)} images in {folder}")


if __name__ == "__main__":
    main()
