#!/usr/bin/env python3
"""Images/s of loading two betons for training, ours against the others; what a swap between them costs; what training waits.

The betons hold the same images, as they came and at quality 50. Every contender takes all of them in random order, crops and
resizes them by torchvision's random-resized rule, mirrors about half, and hands over batches that are counted and dropped.
They do so turn by turn, A B C, A B C, after one round that does not count: it fills the page cache, compiles what is compiled,
and starts the DataLoaders' processes, which stay. Give betons that fit into memory, with 2000 images or more, and leave the
machine to the benchmark.

What the clock sees is a whole epoch: from asking for it to its end, so the first batch, for which nothing has been prepared,
and the last, for which the workers are not all busy, weigh on a small file. The contenders differ in what they make. ``area``
is OpenCV's filter, FFCV's only one; ``bilinear`` is antialiased, torchvision's default. FFCV decodes with libjpeg's fast
transform, all others with the accurate one. A DataLoader's workers are processes, which hand every batch over through shared
memory; they take the same JPEGs from the same file. The bound is libturbojpeg alone, in threads: no crop, no resize, no batch.

A swap is the start of an epoch on the other beton. Its first batch is timed from asking for the epoch, in units of the median
time between two batches of that epoch, the last left out because it may be smaller; "from the last batch before" is timed
from the batch that the epoch before ended with, so that it has the end of that epoch in it too. Data wait is the share of its
time that a training step on the CPU (small images, a small model, which competes with the loader for the processors) spends
in asking for a batch, from the second on.
"""

import ctypes
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from common import bench_parser, circumstances, positive, record
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import JpegcurrError
from jpegcurr.recipe.schema import ImageSection, Interpolation
from jpegcurr.runtime import resolve_runtime
from jpegcurr.system import available_cpus, keep_freed_memory, library_versions
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import Batch, EpochSampler, Loader, Variant

SOURCE, HALF = "source", "q50"
OURS = {"FfcvLoader": "ffcv", "PlainLoader": "plain"}
STOCK = "stock FFCV"
PILLOW, DECODE_JPEG = "DataLoader + Pillow", "DataLoader + decode_jpeg"
BOUND = "the bound: decoding alone"
# What is asked of our loaders: the ratio of two medians of images/s, at least.
TARGETS = {
    "FfcvLoader against stock FFCV": ("FfcvLoader, area", STOCK, 1.2),
    "PlainLoader against stock FFCV": ("PlainLoader, area", STOCK, None),
    "PlainLoader against DataLoader + decode_jpeg": ("PlainLoader, bilinear", DECODE_JPEG, 1.0),
    "PlainLoader against DataLoader + Pillow": ("PlainLoader, bilinear", PILLOW, None),
    "FfcvLoader against PlainLoader, area": ("FfcvLoader, area", "PlainLoader, area", None),
    "FfcvLoader against PlainLoader, bilinear": ("FfcvLoader, bilinear", "PlainLoader, bilinear", None),
    "FfcvLoader of the bound": ("FfcvLoader, area", BOUND, None),
    "PlainLoader of the bound": ("PlainLoader, area", BOUND, None),
}
FIRST_BATCH = 1.5  # batch times after a swap, at most
BUILT_ANEW, BOTH_OPEN = f"{STOCK}, built at the swap", f"{STOCK}, both open"
CHUNK = 16  # images that a thread of the bound takes at a time
MODEL, MODEL_SIZE, STEPS = "convnext_atto", 64, 8
ACCURATE_DCT = 4096  # TJFLAG_ACCURATEDCT; turbojpeg.h
LIBRARIES = ("torch", "torchvision", "numba", "timm")

Begin = Callable[[int], Iterator[Batch]]
_kept: list[Any] = []  # numba prints an ignored KeyError for a compiled loader that is dropped before the process ends


@dataclass(frozen=True, slots=True)
class Options:
    """What all contenders are given alike."""

    size: int
    batch: int
    workers: int


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to load one beton: ``run`` does a whole epoch, whose number it is given, and returns how many images came."""

    name: str
    data: str
    images: int
    run: Callable[[int], int]

    @property
    def title(self) -> str:
        """In tables."""
        return f"{self.name}, {self.data}"


@dataclass(frozen=True, slots=True)
class Swaps:
    """Of each swap, in batch times: from asking for the epoch to its first batch, and from the last batch before it."""

    first: list[float]
    between: list[float]


def view_of(
    betons: Mapping[str, Beton], options: Options, interpolation: Interpolation = "area", epochs: int = 0
) -> EpochSampler:
    """A training view of betons; with ``epochs`` these take turns, epoch by epoch, without there is one beton."""
    names = list(betons)
    plans = tuple(EpochPlan(epoch, epoch, ((names[epoch % len(names)], 1.0),), 0.0, epochs) for epoch in range(epochs))
    variants = {name: Variant(beton) for name, beton in betons.items()}
    image = ImageSection(size=options.size, interpolation=interpolation)
    return EpochSampler(variants, image, train=True, batch=options.batch, workers=options.workers, plans=plans)


def open_ours(name: str, sampler: EpochSampler) -> Loader:
    """One of our loaders, for the CPU."""
    return open_loader(OURS[name], sampler, resolve_runtime("cpu"))


def open_stock(path: Path, options: Options) -> Any:
    """FFCV's own loader, as its documentation shows it; in a process that has none of ours.

    It marks a type that numba shares as read-only, and numba then no longer finds what was compiled for the type before.
    """
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    crop = RandomResizedCropRGBImageDecoder((options.size, options.size))
    loader = Loader(
        str(path),
        options.batch,
        options.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
        pipelines={
            "image": [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze(1)],
        },
    )
    _kept.append(loader)
    return loader


@cache
def kept_stock(path: Path, options: Options) -> Any:
    """The one of this process."""
    return open_stock(path, options)


def stock_epoch(path: Path, options: Options) -> int:
    """Its images, counted."""
    return sum(len(images) for images, _ in kept_stock(path, options))


def stock_swaps(paths: Sequence[Path], options: Options, count: int) -> dict[str, Swaps]:
    """Between two loaders that are both open and have run, and with one that is built, and compiled, at the swap."""
    return {
        BOTH_OPEN: time_swaps(lambda epoch: iter(kept_stock(paths[epoch % 2], options)), count),
        BUILT_ANEW: time_swaps(lambda epoch: iter(open_stock(paths[epoch % 2], options)), 2),
    }


def open_dataloader(beton: Beton, decode: Callable[[bytes], Any], options: Options) -> DataLoader:
    """torch's DataLoader, with processes that start afresh: a fork of this one would inherit the locks of its threads."""
    steps = [v2.RandomResizedCrop(options.size, antialias=True), v2.RandomHorizontalFlip()]
    if decode is with_pillow:
        steps.append(v2.PILToTensor())
    return DataLoader(
        Payloads(beton, decode, v2.Compose(steps)),
        options.batch,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=True,
        multiprocessing_context="spawn",
        worker_init_fn=hush,
    )


class Payloads(Dataset):
    """The images of a beton as torchvision takes them; a worker maps the file itself."""

    def __init__(self, beton: Beton, decode: Callable[[bytes], Any], transform: Callable[[Any], torch.Tensor]) -> None:
        self.beton, self.decode, self.transform = beton, decode, transform

    def __len__(self) -> int:
        return len(self.beton)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.decode(self.beton.payload(index))), int(self.beton.labels[index])


def with_pillow(data: bytes) -> Image.Image:
    """Decode one JPEG."""
    return Image.open(BytesIO(data)).convert("RGB")


def with_torchvision(data: bytes) -> torch.Tensor:
    """Decode one JPEG, uint8 [3 h w]."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def hush(_worker: int) -> None:
    """Leave out that torchvision's decoder is deprecated."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision")


def bare_loop(beton: Beton, data: str, workers: int, stack: ExitStack) -> Contender:
    """What nothing that decodes whole images with libturbojpeg's accurate transform can beat."""
    import ffcv._libffcv  # which has libturbojpeg for a dependency

    library = ctypes.CDLL(ffcv._libffcv.__file__)  # its calls leave the interpreter lock
    library.tjInitDecompress.restype = ctypes.c_void_p
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    library.tjDecompress2.argtypes = [pointer, pointer, long, pointer, *[number] * 5]
    threads, own = stack.enter_context(ThreadPoolExecutor(workers)), threading.local()
    widths, heights = beton.widths.astype(int).tolist(), beton.heights.astype(int).tolist()
    addresses, sizes = (beton.address + beton.pointers).tolist(), beton.sizes.tolist()
    largest = 3 * max(width * height for width, height in zip(widths, heights, strict=True))

    def decode(chunk: range) -> int:
        if not hasattr(own, "handle"):
            own.handle, own.pixels = library.tjInitDecompress(), np.empty(largest, np.uint8)
        pixels = own.pixels.ctypes.data
        for i in chunk:
            library.tjDecompress2(own.handle, addresses[i], sizes[i], pixels, widths[i], 0, heights[i], 0, ACCURATE_DCT)
        return len(chunk)

    chunks = [range(start, min(start + CHUNK, len(beton))) for start in range(0, len(beton), CHUNK)]
    return Contender(BOUND, data, len(beton), lambda _: sum(threads.map(decode, chunks)))


def loading(name: str, data: str, beton: Beton, begin: Begin) -> Contender:
    """One that is asked for epochs."""
    return Contender(name, data, len(beton), lambda epoch: sum(len(images) for images, *_ in begin(epoch)))


def open_contenders(
    data: str, beton: Beton, options: Options, process: ProcessPoolExecutor | None, stack: ExitStack
) -> list[Contender]:
    """All that can run here, on one beton; ``process`` is FFCV's, if there is one, ``stack`` ends their threads."""
    samplers = {interpolation: view_of({data: beton}, options, interpolation) for interpolation in ("area", "bilinear")}
    found = [
        loading(f"{name}, {interpolation}", data, beton, open_ours(name, sampler).at)
        for name in ours_here()
        for interpolation, sampler in samplers.items()
    ]
    if process is not None:
        stock = partial(process.submit, stock_epoch, beton.path, options)
        found.append(Contender(STOCK, data, len(beton), lambda _: stock().result()))
        found.append(bare_loop(beton, data, options.workers, stack))
    for name, decode in ((PILLOW, with_pillow), (DECODE_JPEG, with_torchvision)):
        loader = open_dataloader(beton, decode, options)
        found.append(loading(name, data, beton, partial(dataloader_epoch, loader)))
    return found


def dataloader_epoch(loader: DataLoader, _epoch: int) -> Iterator[Batch]:
    """Its next one."""
    return iter(loader)


def open_process(stack: ExitStack) -> ProcessPoolExecutor | None:
    """Where stock FFCV lives; None where ffcv is not installed."""
    if not find_spec("ffcv"):
        print(f"{STOCK}, FfcvLoader and the bound are left out: ffcv is not installed.")
        return None
    return stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=keep_freed_memory))


def ours_here() -> list[str]:
    """Our loaders, without the one that needs ffcv where that is not installed."""
    return [name for name, kind in OURS.items() if kind != "ffcv" or find_spec("ffcv")]


def measure(contenders: Sequence[Contender], runs: int) -> dict[str, list[float]]:
    """Images/s of ``runs`` rounds by contender."""
    rates: dict[str, list[float]] = {contender.title: [] for contender in contenders}
    for turn in range(runs + 1):
        say(turn, runs)
        for contender in contenders:
            rate = images_per_second(contender, turn)
            rates[contender.title] += [rate] if turn else []
    return rates


def images_per_second(contender: Contender, epoch: int) -> float:
    """By the wall clock, over one epoch."""
    start = time.perf_counter()
    came = contender.run(epoch)
    seconds = time.perf_counter() - start
    if came != contender.images:
        raise SystemExit(f"{contender.title} handed over {came} images of {contender.images}.")
    return came / seconds


def measure_swaps(sampler: EpochSampler, count: int) -> dict[str, Swaps]:
    """Of ours."""
    return {name: time_swaps(open_ours(name, sampler).at, count) for name in ours_here()}


def time_swaps(begin: Begin, count: int) -> Swaps:
    """Of ``count`` swaps, one after every epoch but the last."""
    swaps, last = Swaps([], []), None
    for epoch in range(count + 1):
        times = [time.perf_counter()]
        times += [time.perf_counter() for _ in begin(epoch)]
        if len(times) < 5:
            raise SystemExit("An epoch has fewer than four batches: nothing can be said about a swap. Give a smaller --batch.")
        usual = statistics.median(np.diff(times[1:-1]))
        if last is not None:
            swaps.first.append((times[1] - times[0]) / usual)
            swaps.between.append((times[1] - last) / usual)
        last = times[-1]
    return swaps


def measure_waits(betons: Mapping[str, Beton], options: Options, runs: int) -> dict[str, list[tuple[float, float]]]:
    """The share of a training step's time that it waits for data, and the milliseconds of the whole step."""
    import timm

    small = Options(MODEL_SIZE, options.batch, options.workers)
    classes = 1 + max(int(beton.labels.max()) for beton in betons.values())
    train = training_step(timm.create_model(MODEL, num_classes=classes))
    loaders = {
        f"{name}, {data}": open_ours(name, view_of({data: beton}, small))
        for name in ours_here()
        for data, beton in betons.items()
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for turn in range(runs + 1):
        say(turn, runs)
        for name, loader in loaders.items():
            found[name] += [wait(loader, turn, train)][: bool(turn)]
    return found


def training_step(model: torch.nn.Module) -> Callable[[Batch], None]:
    """Forward, backward and AdamW."""
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: Batch) -> None:
        images, labels, *_ = batch  # a stock loader's has no numbers
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()

    return step


def wait(loader: Loader, epoch: int, train: Callable[[Batch], None]) -> tuple[float, float]:
    """Over ``STEPS`` steps after the first, which starts the clock."""
    waited, steps = 0.0, 0
    with closing(loader.at(epoch)) as batches:
        train(next(batches))
        start = asked = time.perf_counter()
        for batch in islice(batches, STEPS):
            waited += time.perf_counter() - asked
            train(batch)
            asked = time.perf_counter()
            steps += 1
    return waited / (asked - start), 1e3 * (asked - start) / steps


def say(turn: int, runs: int) -> None:
    """How far it is."""
    print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)


def rate_table(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Images/s, and of medians what they are of the bound's on the same beton."""
    lines = [f"{'images/s':<46}{'median':>8}{'min':>8}{'max':>8}{'of the bound':>14}"]
    for title, values in rates.items():
        median, bound = statistics.median(values), rates.get(f"{BOUND}, {title.rpartition(', ')[2]}")
        share = f"{median / statistics.median(bound):>14.2f}" if bound else ""
        lines.append(f"{title:<46}{median:>8.0f}{min(values):>8.0f}{max(values):>8.0f}{share}")
    return lines


def ratios(rates: Mapping[str, Sequence[float]]) -> list[tuple[str, float, str]]:
    """Of medians; what is asked of them is named, and whether it is met."""
    found = []
    for name, (one, other, least) in TARGETS.items():
        for data in (SOURCE, HALF):
            ours, theirs = rates.get(f"{one}, {data}"), rates.get(f"{other}, {data}")
            if ours and theirs:
                ratio = statistics.median(ours) / statistics.median(theirs)
                wanted = f"   asked: {least}{'' if ratio >= least else ', missed'}" if least else ""
                found.append((f"{name}, {data}", ratio, wanted))
    return found


def swap_table(swaps: Mapping[str, Swaps]) -> list[str]:
    """Batch times."""
    lines = [f"{'first batch after a swap, in batch times':<46}{'median':>8}{'min':>8}{'max':>8}{'from last batch':>18}"]
    for name, each in swaps.items():
        median = statistics.median(each.first)
        wanted = f"   asked: at most {FIRST_BATCH}{'' if median <= FIRST_BATCH else ', missed'}" if name in OURS else ""
        numbers = f"{median:>8.2f}{min(each.first):>8.2f}{max(each.first):>8.2f}{statistics.median(each.between):>18.2f}"
        lines.append(f"{name:<46}{numbers}{wanted}")
    return lines


def wait_table(waits: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Shares of the step's time."""
    lines = [f"{f'data wait, {MODEL} at {MODEL_SIZE}':<46}{'median':>8}{'min':>8}{'max':>8}{'ms a step':>14}"]
    for name, values in waits.items():
        shares, steps = zip(*values, strict=True)
        numbers = f"{statistics.median(shares):>8.1%}{min(shares):>8.1%}{max(shares):>8.1%}{statistics.median(steps):>14.0f}"
        lines.append(f"{name:<46}{numbers}")
    return lines


def describe(betons: Mapping[str, Beton], options: Options, runs: int) -> str:
    """What was measured on, in a line."""
    source = betons[SOURCE]
    megapixels = (source.widths.astype(int) * source.heights).mean() / 1e6
    sizes = " and ".join(f"{beton.sizes.mean() / 1e3:.0f}" for beton in betons.values())
    images = f"{len(source)} images of {megapixels:.2f} megapixels, {sizes} kB"
    return f"{images}, size {options.size}, batch {options.batch}, {options.workers} workers, {runs} runs after one warm-up"


def main() -> None:
    """Measure and print."""
    parser = bench_parser(__doc__, workers=2, runs=5)
    parser.add_argument("clean", type=Path, help="a beton made by jpegcurr: the images as they came")
    parser.add_argument("half", type=Path, help="the same images at quality 50")
    parser.add_argument("--size", type=positive, default=224, help="pixels a side (224)")
    parser.add_argument("--batch", type=positive, default=64, help="images a batch (64)")
    filters = get_args(Interpolation)
    parser.add_argument("--interpolation", choices=filters, default="area", help="of our loaders when they swap (area)")
    arguments = parser.parse_args()
    if arguments.workers > available_cpus():
        parser.error("FFCV has no more workers than there are processors")
    options = Options(arguments.size, arguments.batch, arguments.workers)
    keep_freed_memory()  # as jpegcurr's commands do; FFCV's process too
    try:
        betons = {SOURCE: Beton(arguments.clean), HALF: Beton(arguments.half)}
        if any((beton.modes != MODE_JPEG).any() for beton in betons.values()):
            raise SystemExit("A beton holds images that are no JPEGs: what decoding costs could not be compared.")
        with ExitStack() as stack:
            process = open_process(stack)
            pairs = betons.items()
            contenders = [each for pair in pairs for each in open_contenders(*pair, options, process, stack)]
            rates = measure(contenders, arguments.runs)
            swaps = measure_swaps(view_of(betons, options, arguments.interpolation, 2 * arguments.runs + 1), 2 * arguments.runs)
            if process is not None:
                paths = [beton.path for beton in betons.values()]
                swaps |= process.submit(stock_swaps, paths, options, 2 * arguments.runs).result()
        waits = measure_waits(betons, options, arguments.runs)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    counts = describe(betons, options, arguments.runs)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    found = ratios(rates)
    tables = [
        *(*rate_table(rates), ""),
        *(*(f"{name:<54}{ratio:>8.2f}{wanted}" for name, ratio, wanted in found), ""),
        *(*swap_table(swaps), ""),
        *(*wait_table(waits), ""),
    ]
    print("\n".join([*tables, counts, *(f"{name}: {value}" for name, value in circumstances().items()), versions]))
    figures = {
        "counts": counts,
        "loading_versions": versions,
        "images_per_second": {title: round(statistics.median(values)) for title, values in rates.items()},
        "ratios": {name: round(ratio, 3) for name, ratio, _ in found},
        "first_batch_after_swap": {name: round(statistics.median(each.first), 2) for name, each in swaps.items()},
        "last_batch_to_first": {name: round(statistics.median(each.between), 2) for name, each in swaps.items()},
        "data_wait": {name: round(statistics.median(share for share, _ in values), 3) for name, values in waits.items()},
    }
    record(arguments.json, "loader", figures)


if __name__ == "__main__":
    main()
