"""Sets of photographs that were resized, with JPEG blocks from before that or without: what `audit` finds of them.

    python plant_resizes.py FOLDER none|planted COUNT SEED

A set is 1,000 crops of the photographs in FOLDER, of one former side, filter, side and quality each, drawn by SEED.
"""

import random
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from jpegcurr.encoding.jpeg.former_size import BlockEdges

FORMER = [160, 192, 200, 224, 256, 299, 300, 320, 333, 375, 400, 500]
SIDES = [64, 96, 112, 128, 160, 224]
IMAGES, LONGEST = 1000, 700
R = Image.Resampling


def compress(image: Image.Image, quality: int | None) -> Image.Image:
    """Return the image after a JPEG compression; itself without a quality."""
    if quality is None:
        return image
    data = BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(BytesIO(data.getvalue())).convert("RGB")


def main() -> None:
    """Print what is found of each set."""
    folder, kind, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    photographs = []
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")):
        image = Image.open(path).convert("RGB")
        image.thumbnail((LONGEST, LONGEST), R.LANCZOS)
        photographs.append(image)
    drawn = random.Random(seed)  # noqa: S311
    first_filters = [R.BILINEAR, R.LANCZOS, R.BICUBIC]
    for number in range(count):
        former, side = drawn.choice(FORMER), drawn.choice(SIDES)
        if side >= former:
            continue
        first = drawn.choice(first_filters)
        planted = kind == "planted"
        second = drawn.choice(
            [R.BILINEAR, R.BICUBIC, R.LANCZOS] if planted else [*first_filters[::2], R.LANCZOS, R.BOX, R.NEAREST]
        )
        earlier = drawn.choice([50, 75, 75, 85, 90]) if planted else None
        now = drawn.choice([95, 95, 90, 75])
        places, edges = random.Random(number), BlockEdges(side)  # noqa: S311
        for place in range(IMAGES):
            image = photographs[place % len(photographs)]
            length = int(min(image.size) * places.uniform(0.7, 1))
            left, top = (places.randint(0, whole - length) for whole in image.size)
            image = image.crop((left, top, left + length, top + length)).resize((former, former), first)
            image = compress(compress(image, earlier).resize((side, side), second), now)
            edges.add(np.asarray(image.convert("L")))
        found = edges.find()
        told = "" if found is None or not found.detected else "detected"
        print(former, side, earlier, now, first.name, second.name, "|", found, told, flush=True)


main()
