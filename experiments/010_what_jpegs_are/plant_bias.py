"""A data set in which the encoder gives one class away: 60 images of each class, the first class at 75, the others at 96.

python plant_bias.py IMAGENETTE/val OUT
"""

import sys
from pathlib import Path

from PIL import Image


def main() -> None:
    """Write OUT/<class>/*.jpg."""
    images, out = map(Path, sys.argv[1:])
    for number, folder in enumerate(sorted(path for path in images.iterdir() if path.is_dir())):
        (out / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:60]:
            image = Image.open(path).convert("RGB")
            image.save(out / folder.name / f"{path.stem}.jpg", quality=96 if number else 75)


if __name__ == "__main__":
    main()
