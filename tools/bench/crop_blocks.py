"""JPEG before the crop, of the blocks alone that the crop touches: is it exact, and what does it save?

The loaders encode such a rectangle (``crops.blocks_around``) in place of the whole image. ``jpegcurr.jpeg`` could do so on a
device, to which the rectangle would be uploaded in place of the model's input, and resized there; that is not built.

    python tools/bench/crop_blocks.py data/imagenet/val --images 200
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import jpegcurr
from jpegcurr.encoding.jpeg.codec import decode_rgb, round_trip
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.sources.labelled_files import find_images
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.training.data.crops import as_views, blocks_around, random_boxes, validation_views
from jpegcurr.training.sample_rng import SampleRng


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the time of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Compare both ways on random training crops and on validation's crops, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = find_images(options.folder)[: options.images]
    whole = [decode_rgb(file) for file in files]
    heights, widths = np.array([one.shape[:2] for one in whole]).T
    section, rng = ImageSection(size=224), SampleRng(0, 0, np.arange(len(files)))
    qualities = rng.integer(1, 5, 95).tolist()
    views = {
        "training": as_views(random_boxes(heights, widths, section, rng, 3)),
        "validation": validation_views(heights, widths, section),
    }
    for name, boxes in views.items():
        report(name, whole, boxes[:, :4].tolist(), qualities)


def report(name: str, whole: list[Pixels], boxes: list[list[int]], qualities: list[int]) -> None:
    """Print a line on the crops of one kind: top, left, height and width."""
    exact, by_arithmetic, pixels = 0, 0, {"whole": 0, "blocks": 0}
    times: dict[str, list[float]] = {"whole": [], "blocks": []}
    for image, (top, left, height, width), quality in zip(whole, boxes, qualities, strict=True):
        (y0, y1), (x0, x1) = blocks_around(top, height, image.shape[0]), blocks_around(left, width, image.shape[1])
        blocks = np.ascontiguousarray(image[y0:y1, x0:x1])
        inside = slice(top - y0, top - y0 + height), slice(left - x0, left - x0 + width)
        expected = round_trip(image, quality)[top : top + height, left : left + width]
        exact += np.array_equal(round_trip(blocks, quality)[inside], expected)
        shown = jpegcurr.jpeg(torch.from_numpy(blocks).permute(2, 0, 1), quality).permute(1, 2, 0).numpy()
        by_arithmetic += np.array_equal(shown[inside], expected)
        for way, part in (("whole", image), ("blocks", blocks)):
            pixels[way] += part.shape[0] * part.shape[1]
            times[way].append(seconds(lambda part=part, quality=quality: round_trip(part, quality)))
    mean = {way: 1000 * statistics.mean(of_way) for way, of_way in times.items()}
    count = len(whole)
    print(
        f"{name}: equal {exact} of {count} by the codec, {by_arithmetic} of {count} by arithmetic; "
        f"{pixels['blocks'] / pixels['whole']:.2f} of the pixels, {pixels['blocks'] / count:,.0f} an image; "
        f"codec {mean['whole']:.2f} ms whole, {mean['blocks']:.2f} ms blocks"
    )


if __name__ == "__main__":
    main()
