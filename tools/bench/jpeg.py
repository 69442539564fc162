#!/usr/bin/env python3
"""Images/s of a JPEG's round trip on batches of pixels, and the distance of its pixels from Pillow's.

The contenders are our arithmetic, eager and compiled by torch, Pillow, our transform ``JPEG``, and torchvision's and, where it
is installed, kornia's. They receive the same photographs, cut to squares and resized, as batches uint8 [n 3 h w] on the device,
and return such at one quality; the codecs run on a CPU alone, and Pillow's time includes the copies from the batch and into it.
They take turns, A B C, A B C, after one warm-up round, in which torch compiles. CPU figures are per second of CPU time in one
thread, so that other work on the machine shifts them less; those of a GPU are per second of the clock.

"levels" are the mean and the largest difference from Pillow's pixels, of 255.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from common import Measurements, bench_parser, circumstances, positive, record
from PIL import Image
from torchvision.transforms import v2

from jpegcurr import JPEG, decode_rgb, jpeg, open_sources, resolve_runtime
from jpegcurr.runtime import Runtime
from jpegcurr.system import library_versions

PILLOW, OURS, COMPILED, TRANSFORM, TORCHVISION, KORNIA = (
    "Pillow",
    "jpegcurr.jpeg",
    "jpegcurr.jpeg, compiled",
    "jpegcurr.JPEG",
    "torchvision v2.JPEG",
    "kornia RandomJPEG",
)

LIBRARIES = ("torch", "torchvision", "kornia")
LAYOUTS = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}

Contender = Callable[[torch.Tensor], torch.Tensor]


def squares(folder: Path, limit: int, size: int) -> torch.Tensor:
    """Return the middle squares of photographs, uint8 [n 3 size size]."""
    images = [decode_rgb(source.store.read(item)) for source in open_sources(folder, limit=limit) for item in source.items]
    resized = []
    for image in images:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        resized.append(cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def by_pillow(images: torch.Tensor, quality: int, subsampling: str) -> torch.Tensor:
    """Save and open every image with Pillow."""
    shown = torch.empty(images.shape, dtype=torch.uint8)
    for image, out in zip(images, shown, strict=True):
        file = BytesIO()
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=LAYOUTS[subsampling])
        with Image.open(file) as opened:
            out.copy_(torch.from_numpy(np.array(opened)).permute(2, 0, 1))
    return shown


def open_contenders(quality: int, subsampling: str, runtime: Runtime, *, compiled: bool = True) -> dict[str, Contender]:
    """Return a function for every contender that this installation and device have; v2.JPEG and kornia know 4:2:0 alone."""
    contenders: dict[str, Contender] = {
        PILLOW: lambda images: by_pillow(images, quality, subsampling),
        OURS: lambda images: jpeg(images, quality, subsampling=subsampling),
        TRANSFORM: JPEG(quality, subsampling=subsampling),
    }
    if runtime.device.type != "cpu":
        del contenders[PILLOW], contenders[TRANSFORM]  # the one is the CPU's, the other our arithmetic there
    if compiled:
        one_graph = torch.compile(jpeg, fullgraph=True)
        contenders[COMPILED] = lambda images: one_graph(images, quality, subsampling=subsampling)
    if subsampling == "420":
        contenders |= _others(quality, runtime)
    return contenders


def _others(quality: int, runtime: Runtime) -> dict[str, Contender]:
    others: dict[str, Contender] = {}
    if runtime.device.type == "cpu":
        theirs = v2.JPEG((quality, quality))
        others[TORCHVISION] = lambda images: torch.stack([theirs(image) for image in images])
    try:
        from kornia.augmentation import RandomJPEG
    except ImportError:
        print("kornia is not installed, and is left out")
    else:
        augmentation = RandomJPEG(jpeg_quality=(float(quality), float(quality)), p=1.0)
        others[KORNIA] = lambda images: augmentation(images / 255).mul(255).round().clamp(0, 255).to(torch.uint8)
    return others


def measure(contender: Contender, batches: Sequence[torch.Tensor], runtime: Runtime) -> float:
    """Return images per second of CPU time, or, on a GPU, of the clock."""
    clock = time.process_time if runtime.device.type == "cpu" else time.perf_counter
    start = clock()
    for part in batches:
        shown = contender(part)
    shown[-1, -1, -1, -1].item()  # waits for a GPU
    return sum(map(len, batches)) / (clock() - start)


def distance(shown: torch.Tensor, expected: torch.Tensor) -> tuple[float, int]:
    """Return the mean and the largest difference in levels."""
    apart = (shown.cpu().int() - expected.int()).abs()
    return apart.double().mean().item(), int(apart.max())


def main() -> None:
    """Measure all contenders and print a table."""
    parser = bench_parser(__doc__, folder=True, runs=9)
    parser.add_argument("--size", type=positive, default=224, help="side of the images in pixels (224)")
    parser.add_argument("--limit", type=positive, default=64, help="number of images (64)")
    parser.add_argument("--batch", type=positive, default=4, help="images in a batch; a GPU needs more (4)")
    parser.add_argument("--quality", type=positive, default=50, choices=range(1, 101), metavar="1-100", help="quality (50)")
    parser.add_argument("--subsampling", choices=list(LAYOUTS), default="420", help="chroma layout (420)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto is a GPU if there is one")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled contender, which takes a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runtime = resolve_runtime(arguments.device)
    images = squares(arguments.folder, arguments.limit, arguments.size)
    expected = by_pillow(images, arguments.quality, arguments.subsampling)
    batches = images.to(runtime.device).split(arguments.batch)
    contenders = open_contenders(arguments.quality, arguments.subsampling, runtime, compiled=not arguments.no_compile)
    levels = {
        name: distance(torch.cat([contender(part) for part in batches]), expected) for name, contender in contenders.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    measurements = Measurements(arguments.lines)
    for _ in range(arguments.runs):
        for name, contender in contenders.items():
            rates[name].append(measure(contender, batches, runtime))
            measurements.add(name, rates[name][-1], "images/s", len(rates[name]))
    unit = "images/s a core" if runtime.device.type == "cpu" else "images/s"
    medians = {name: statistics.median(runs) for name, runs in rates.items()}
    reference = medians.get(PILLOW)
    print(f"{'':<26}{unit:>16}{'least':>8}{'most':>8}{'of Pillow':>11}{'levels, mean':>14}{'largest':>9}")
    for name, median in sorted(medians.items(), key=lambda row: -row[1]):
        ratio = f"{median / reference:.2f}" if reference else "-"
        mean, largest = levels[name]
        least, most = min(rates[name]), max(rates[name])
        print(f"{name:<26}{median:>16.0f}{least:>8.0f}{most:>8.0f}{ratio:>11}{mean:>14.4f}{largest:>9}")
    counts = (
        f"{len(images)} images of {arguments.size} pixels in batches of {arguments.batch}, quality {arguments.quality}, "
        f"{arguments.subsampling}, {runtime.name}, {arguments.runs} runs after one warm-up"
    )
    libraries = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    print("\n".join([counts, libraries, *(f"{name}: {value}" for name, value in circumstances().items())]))
    results = {
        name: {"images_per_second": round(medians[name]), "levels_mean": levels[name][0], "levels_largest": levels[name][1]}
        for name in contenders
    }
    record(arguments.json, "jpeg", {"counts": counts, "libraries": libraries, "unit": unit, **results})


if __name__ == "__main__":
    main()
