#!/usr/bin/env python3
"""Betons of the GPU check: a folder's images, as often as needed, as source files and at quality 50."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from images import copy_images

from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.errors import JpegcurrError


def main() -> None:
    """Write OUT/train-source.beton and OUT/train-q50.beton."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="<class>/*, or {train,val}/<class>/*, whose training images are taken")
    parser.add_argument("out", type=Path, help="folder for the betons")
    parser.add_argument("--count", type=int, default=8192, help="images, some repeatedly if FOLDER has too few (8192)")
    arguments = parser.parse_args()
    try:
        with TemporaryDirectory(prefix="gpu-check-images-") as name:
            copy_images(arguments.folder, Path(name) / "train", arguments.count)
            for path, manifest in encode_dataset(name, ["source", 50], arguments.out).items():
                print(f"{path.name}: {manifest.images} images, {manifest.bytes_out / 1e6:.1f} MB", flush=True)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
