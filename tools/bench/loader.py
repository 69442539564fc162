#!/usr/bin/env python3
"""Images/s of loading two betons for training, ours and other loaders'; the cost of a swap between them; the wait for data.

The betons hold the same images, as source files and at quality 50. Every contender takes all of them in random order, crops
and resizes them by torchvision's random-resized rule, mirrors about half, and returns batches, which are counted and dropped.
The contenders take turns, A B C, A B C, after a warm-up round, which fills the page cache, compiles code and starts the
DataLoaders' worker processes, which stay alive. Give betons of 2000 images or more that fit into memory, and run nothing else.

Processor time is that of all threads of an epoch, for the contenders that have no processes of their own. It holds on a machine
where other work runs, but leaves out the time in which a worker waits for another.

The clock measures a whole epoch, from the request to its end. The first batch, for which nothing has been prepared, and the
last, for which not all workers are busy, therefore count for more on a small file. The contenders do different work. ``area``
is OpenCV's filter, the only one in FFCV; ``bilinear`` is antialiased, torchvision's default; ``--filter`` names others. FFCV
decodes with libjpeg's fast transform, all others with the accurate one. A DataLoader's workers are processes that pass every
batch through shared memory; they read the same JPEGs from the same file. The bound is libturbojpeg alone, in threads: no crop,
no resize, no batch.

A swap is the start of an epoch on the other beton. The time from the request for the epoch to its first batch is given in units
of the median time between two batches of that epoch, without the last, which may be smaller. "from last batch" is the time
since the last batch of the epoch before, so it includes the end of that epoch. Data wait is the share of its time that a
training step on the CPU spends waiting for a batch, from the second batch on; images and model are small, and the step competes
with the loader for the processors.
"""

import ctypes
import mmap
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
from common import Measurements, bench_parser, circumstances, positive, record
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import JpegcurrError, RecipeError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Interpolation
from jpegcurr.runtime import resolve_runtime
from jpegcurr.system import available_cpus, keep_freed_memory, library_versions
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.loaders import choose_kind, open_loader
from jpegcurr.training.data.sampling import Batch, EpochSampler, Loader, Variant
from jpegcurr.training.data.turbojpeg import load_library

SOURCE, HALF = "source", "q50"
FILTERS: tuple[Interpolation, ...] = ("area", "bilinear")  # of our loaders
OURS = {"CompiledLoader": "compiled", "FfcvLoader": "ffcv", "PlainLoader": "plain"}
STOCK = "stock FFCV"
PILLOW, DECODE_JPEG = "DataLoader + Pillow", "DataLoader + decode_jpeg"
BOUND = "the bound: decoding alone"
# Requirements of our loaders: (one, other, minimum of the ratio of their medians of images/s).
TARGETS = {
    "CompiledLoader against FfcvLoader, area": ("CompiledLoader, area", "FfcvLoader, area", 0.97),
    "CompiledLoader against FfcvLoader, bilinear": ("CompiledLoader, bilinear", "FfcvLoader, bilinear", 0.97),
    "CompiledLoader against stock FFCV": ("CompiledLoader, area", STOCK, 1.2),
    "FfcvLoader against stock FFCV": ("FfcvLoader, area", STOCK, 1.2),
    "PlainLoader against stock FFCV": ("PlainLoader, area", STOCK, None),
    "PlainLoader against DataLoader + decode_jpeg": ("PlainLoader, bilinear", DECODE_JPEG, 1.0),
    "PlainLoader against DataLoader + Pillow": ("PlainLoader, bilinear", PILLOW, None),
    "FfcvLoader against PlainLoader, area": ("FfcvLoader, area", "PlainLoader, area", None),
    "FfcvLoader against PlainLoader, bilinear": ("FfcvLoader, bilinear", "PlainLoader, bilinear", None),
    "CompiledLoader of the bound": ("CompiledLoader, area", BOUND, None),
    "FfcvLoader of the bound": ("FfcvLoader, area", BOUND, None),
    "PlainLoader of the bound": ("PlainLoader, area", BOUND, None),
}
FIRST_BATCH = 1.5  # maximum batch times after a swap
BUILT_AT_SWAP, BOTH_OPEN = f"{STOCK}, built at the swap", f"{STOCK}, both open"
CHUNK = 16  # images that a thread of the bound takes at a time
MODEL, MODEL_SIZE, STEPS = "convnext_atto", 64, 8
ACCURATE_DCT = 4096  # TJFLAG_ACCURATEDCT; turbojpeg.h
LIBRARIES = ("torch", "torchvision", "numba", "timm")

Begin = Callable[[int], Iterator[Batch]]
_alive: list[Any] = []  # numba prints an ignored KeyError if a compiled loader is dropped before the process ends


@dataclass(frozen=True, slots=True)
class Options:
    """The options that all contenders share: pixels a side, images a batch, threads or processes."""

    size: int
    batch: int
    workers: int


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to load one beton: ``run`` loads the epoch of the given number and returns the number of its images.

    ``alone`` says that all of its threads are this process's, so that their processor time can be measured.
    """

    name: str
    data: str
    images: int
    run: Callable[[int], int]
    alone: bool = False

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.name}, {self.data}"


@dataclass(frozen=True, slots=True)
class Swaps:
    """Times to the first batch after every swap, in batch times: from the request for the epoch, and from the batch before."""

    first: list[float]
    between: list[float]


def create_sampler(
    betons: Mapping[str, Beton], options: Options, interpolation: Interpolation = "area", epochs: int = 0
) -> EpochSampler:
    """Return a sampler for training on one beton, or on two that alternate for ``epochs`` epochs."""
    names = list(betons)
    plans = tuple(EpochPlan(epoch, epoch, ((names[epoch % len(names)], 1.0),), 0.0, epochs) for epoch in range(epochs))
    variants = {name: Variant(beton) for name, beton in betons.items()}
    image = ImageSection(size=options.size, interpolation=interpolation)
    return EpochSampler(variants, image, train=True, batch=options.batch, workers=options.workers, plans=plans)


def open_ours(name: str, sampler: EpochSampler) -> Loader:
    """Open one of our loaders for the CPU."""
    return open_loader(OURS[name], sampler, resolve_runtime("cpu"))


def open_stock(path: Path, options: Options) -> Any:
    """Open FFCV's own loader as its documentation shows, in a process that has none of ours.

    It marks a type that numba shares as read-only, and numba then no longer finds the code compiled for that type before.
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
    _alive.append(loader)
    return loader


@cache
def cached_stock(path: Path, options: Options) -> Any:
    """Return this process's stock loader of a beton; open it on first use."""
    return open_stock(path, options)


def stock_epoch(path: Path, options: Options) -> int:
    """Load one epoch with stock FFCV; return the number of its images."""
    return sum(len(images) for images, _ in cached_stock(path, options))


def stock_swaps(paths: Sequence[Path], options: Options, count: int) -> dict[str, Swaps]:
    """Time swaps between two open loaders that have run, and with one that is built and compiled at the swap."""
    return {
        BOTH_OPEN: time_swaps(lambda epoch: iter(cached_stock(paths[epoch % 2], options)), count),
        BUILT_AT_SWAP: time_swaps(lambda epoch: iter(open_stock(paths[epoch % 2], options)), 2),
    }


def open_dataloader(beton: Beton, decode: Callable[[bytes], Any], options: Options) -> DataLoader:
    """Open torch's DataLoader with spawned workers: forks would inherit the locks that this process's threads hold."""
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
        worker_init_fn=ignore_deprecation,
    )


class Payloads(Dataset):
    """Decoded and transformed images of a beton, with labels; every worker maps the file itself."""

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


def ignore_deprecation(_worker: int) -> None:
    """Suppress the warning that torchvision's decoder is deprecated."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision")


def bare_loop(beton: Beton, data: str, workers: int, stack: ExitStack) -> Contender:
    """Return the bound for every loader that decodes whole images with libturbojpeg's accurate transform."""
    library, _ = load_library()  # its calls release the interpreter lock
    library.tjInitDecompress.restype = ctypes.c_void_p
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    library.tjDecompress2.argtypes = [pointer, pointer, long, pointer, *[number] * 5]
    threads, own = stack.enter_context(ThreadPoolExecutor(workers)), threading.local()
    widths, heights = beton.widths.astype(int).tolist(), beton.heights.astype(int).tolist()
    with beton.path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    addresses, sizes = (mapped.ctypes.data + beton.pointers).tolist(), beton.sizes.tolist()
    largest = 3 * max(width * height for width, height in zip(widths, heights, strict=True))

    def decode(chunk: range, _mapped: np.ndarray = mapped) -> int:  # which the addresses point into
        if not hasattr(own, "handle"):
            own.handle, own.pixels = library.tjInitDecompress(), np.empty(largest, np.uint8)
        pixels = own.pixels.ctypes.data
        for i in chunk:
            library.tjDecompress2(own.handle, addresses[i], sizes[i], pixels, widths[i], 0, heights[i], 0, ACCURATE_DCT)
        return len(chunk)

    chunks = [range(start, min(start + CHUNK, len(beton))) for start in range(0, len(beton), CHUNK)]
    return Contender(BOUND, data, len(beton), lambda _: sum(threads.map(decode, chunks)), alone=True)


def loader_contender(name: str, data: str, beton: Beton, begin: Begin, alone: bool = False) -> Contender:
    """Return the contender that loads the epochs which ``begin`` starts."""
    return Contender(name, data, len(beton), lambda epoch: sum(len(images) for images, *_ in begin(epoch)), alone)


def open_contenders(
    data: str,
    beton: Beton,
    options: Options,
    process: ProcessPoolExecutor | None,
    stack: ExitStack,
    filters: Sequence[Interpolation] = FILTERS,
) -> list[Contender]:
    """Return all contenders that can run here on one beton; ``process`` runs FFCV (None: skipped), ``stack`` ends threads.

    Our loaders resize by each of ``filters``.
    """
    samplers = {interpolation: create_sampler({data: beton}, options, interpolation) for interpolation in filters}
    contenders = [
        loader_contender(f"{name}, {interpolation}", data, beton, open_ours(name, sampler).at, alone=True)
        for name in available_loaders()
        for interpolation, sampler in samplers.items()
    ]
    if process is not None:
        stock = partial(process.submit, stock_epoch, beton.path, options)
        contenders.append(Contender(STOCK, data, len(beton), lambda _: stock().result()))
    if can_open("compiled"):
        contenders.append(bare_loop(beton, data, options.workers, stack))
    for name, decode in ((PILLOW, with_pillow), (DECODE_JPEG, with_torchvision)):
        loader = open_dataloader(beton, decode, options)
        contenders.append(loader_contender(name, data, beton, partial(dataloader_epoch, loader)))
    return contenders


def dataloader_epoch(loader: DataLoader, _epoch: int) -> Iterator[Batch]:
    """Start the next epoch of a DataLoader."""
    return iter(loader)


def open_process(stack: ExitStack) -> ProcessPoolExecutor | None:
    """Return the process that runs stock FFCV; None if ffcv is not installed."""
    if not find_spec("ffcv"):
        print(f"{STOCK} and FfcvLoader are skipped: ffcv is not installed.")
        return None
    return stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=keep_freed_memory))


def available_loaders() -> list[str]:
    """Return the names of our loaders, without those that this machine cannot open."""
    return [name for name, kind in OURS.items() if can_open(kind)]


@cache
def can_open(kind: str) -> bool:
    """Return whether a loader of this kind can be opened here; print why not."""
    try:
        choose_kind(kind)
    except RecipeError as error:
        print(error)
        return False
    return True


def measure(
    contenders: Sequence[Contender], runs: int, measurements: Measurements
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return images per second, and per second of processor time where that can be measured, of ``runs`` rounds.

    The former are printed as they come.
    """
    rates: dict[str, list[float]] = {contender.title: [] for contender in contenders}
    costs: dict[str, list[float]] = {contender.title: [] for contender in contenders if contender.alone}
    for turn in range(runs + 1):
        print_turn(turn, runs)
        for contender in contenders:
            seconds, processor_seconds = time_epoch(contender, turn)
            if turn:
                rates[contender.title].append(contender.images / seconds)
                measurements.add(contender.title, contender.images / seconds, "images/s", turn)
            if contender.alone and turn:
                costs[contender.title].append(contender.images / processor_seconds)
    return rates, costs


def time_epoch(contender: Contender, epoch: int) -> tuple[float, float]:
    """Run one epoch; return its seconds of wall-clock time and of this process's processor time."""
    start, processor_start = time.perf_counter(), time.process_time()
    images = contender.run(epoch)
    times = time.perf_counter() - start, time.process_time() - processor_start
    if images != contender.images:
        raise SystemExit(f"{contender.title} loaded {images} images of {contender.images}.")
    return times


def measure_swaps(sampler: EpochSampler, count: int) -> dict[str, Swaps]:
    """Time ``count`` swaps of each of our loaders."""
    return {name: time_swaps(open_ours(name, sampler).at, count) for name in available_loaders()}


def time_swaps(begin: Begin, count: int) -> Swaps:
    """Time ``count`` swaps, one after every epoch but the last."""
    swaps, last = Swaps([], []), None
    for epoch in range(count + 1):
        times = [time.perf_counter()]
        times += [time.perf_counter() for _ in begin(epoch)]
        if len(times) < 5:
            raise SystemExit("An epoch has fewer than four batches, too few to time a swap. Give a smaller --batch.")
        batch_time = statistics.median(np.diff(times[1:-1]))
        if last is not None:
            swaps.first.append((times[1] - times[0]) / batch_time)
            swaps.between.append((times[1] - last) / batch_time)
        last = times[-1]
    return swaps


def measure_waits(
    betons: Mapping[str, Beton], options: Options, runs: int, measurements: Measurements
) -> dict[str, list[tuple[float, float]]]:
    """Return the share of a training step's time that is spent waiting for data, and the step's milliseconds, by loader."""
    import timm

    small = Options(MODEL_SIZE, options.batch, options.workers)
    classes = 1 + max(int(beton.labels.max()) for beton in betons.values())
    train = training_step(timm.create_model(MODEL, num_classes=classes))
    loaders = {
        f"{name}, {data}": open_ours(name, create_sampler({data: beton}, small))
        for name in available_loaders()
        for data, beton in betons.items()
    }
    waits: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for turn in range(runs + 1):
        print_turn(turn, runs)
        for name, loader in loaders.items():
            waited, milliseconds = measure_wait(loader, turn, train)
            if turn:
                waits[name].append((waited, milliseconds))
                measurements.add(f"{name}, data wait", 100 * waited, "%", turn)
    return waits


def training_step(model: torch.nn.Module) -> Callable[[Batch], None]:
    """Return a function that trains the model on one batch: forward, backward and AdamW."""
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: Batch) -> None:
        images, labels, *_ = batch  # our batches hold the samples' numbers too
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()

    return step


def measure_wait(loader: Loader, epoch: int, train: Callable[[Batch], None]) -> tuple[float, float]:
    """Return the share of time waited for data and the milliseconds a step, over ``STEPS`` steps after the first."""
    waited, steps = 0.0, 0
    with closing(loader.at(epoch)) as batches:
        train(next(batches))
        start = requested = time.perf_counter()
        for batch in islice(batches, STEPS):
            waited += time.perf_counter() - requested
            train(batch)
            requested = time.perf_counter()
            steps += 1
    return waited / (requested - start), 1e3 * (requested - start) / steps


def print_turn(turn: int, runs: int) -> None:
    """Print the number of the round to stderr."""
    print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)


def rate_table(rates: Mapping[str, Sequence[float]], unit: str) -> list[str]:
    """Format rates, and the ratio of medians to the bound on the same beton."""
    lines = [f"{unit:<46}{'median':>8}{'min':>8}{'max':>8}{'of the bound':>14}"]
    for title, values in rates.items():
        median, bound = statistics.median(values), rates.get(f"{BOUND}, {title.rpartition(', ')[2]}")
        share = f"{median / statistics.median(bound):>14.2f}" if bound else ""
        lines.append(f"{title:<46}{median:>8.0f}{min(values):>8.0f}{max(values):>8.0f}{share}")
    return lines


def ratios(rates: Mapping[str, Sequence[float]]) -> list[tuple[str, float, str]]:
    """Return (name, ratio of medians, requirement and whether it is missed)."""
    rows = []
    for name, (one, other, least) in TARGETS.items():
        for data in (SOURCE, HALF):
            ours, theirs = rates.get(f"{one}, {data}"), rates.get(f"{other}, {data}")
            if ours and theirs:
                ratio = statistics.median(ours) / statistics.median(theirs)
                wanted = f"   required: {least}{'' if ratio >= least else ', missed'}" if least else ""
                rows.append((f"{name}, {data}", ratio, wanted))
    return rows


def swap_table(swaps: Mapping[str, Swaps]) -> list[str]:
    """Format the times to the first batch after a swap, in batch times."""
    lines = [f"{'first batch after a swap, in batch times':<46}{'median':>8}{'min':>8}{'max':>8}{'from last batch':>18}"]
    for name, times in swaps.items():
        median = statistics.median(times.first)
        wanted = f"   required: at most {FIRST_BATCH}{'' if median <= FIRST_BATCH else ', missed'}" if name in OURS else ""
        numbers = f"{median:>8.2f}{min(times.first):>8.2f}{max(times.first):>8.2f}{statistics.median(times.between):>18.2f}"
        lines.append(f"{name:<46}{numbers}{wanted}")
    return lines


def wait_table(waits: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Format the shares of the step's time that are spent waiting."""
    lines = [f"{f'data wait, {MODEL} at {MODEL_SIZE}':<46}{'median':>8}{'min':>8}{'max':>8}{'ms a step':>14}"]
    for name, values in waits.items():
        shares, steps = zip(*values, strict=True)
        numbers = f"{statistics.median(shares):>8.1%}{min(shares):>8.1%}{max(shares):>8.1%}{statistics.median(steps):>14.0f}"
        lines.append(f"{name:<46}{numbers}")
    return lines


def describe(betons: Mapping[str, Beton], options: Options, runs: int) -> str:
    """Return a line with the betons' contents and the options."""
    source = betons[SOURCE]
    megapixels = (source.widths.astype(int) * source.heights).mean() / 1e6
    sizes = " and ".join(f"{beton.sizes.mean() / 1e3:.0f}" for beton in betons.values())
    images = f"{len(source)} images of {megapixels:.2f} megapixels, {sizes} kB"
    return f"{images}, size {options.size}, batch {options.batch}, {options.workers} workers, {runs} runs after one warm-up"


def main() -> None:
    """Measure all loaders and print their rates, swaps and waits."""
    parser = bench_parser(__doc__, workers=2, runs=5)
    parser.add_argument("clean", type=Path, help="beton of the source images, written by jpegcurr")
    parser.add_argument("half", type=Path, help="beton of the same images at quality 50")
    parser.add_argument("--size", type=positive, default=224, help="pixels a side (224)")
    parser.add_argument("--batch", type=positive, default=64, help="images a batch (64)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a contender, CompiledLoader for one; no swaps, no waits"
    )
    filters = get_args(Interpolation)
    parser.add_argument(
        "--filter", action="append", choices=filters, help="of our loaders; may be repeated (area and bilinear)"
    )
    parser.add_argument("--interpolation", choices=filters, default="area", help="filter of our loaders in swaps (area)")
    arguments = parser.parse_args()
    if arguments.workers > available_cpus():
        parser.error(f"--workers is at most {available_cpus()}, the number of processors: FFCV has no more")
    options, measurements = Options(arguments.size, arguments.batch, arguments.workers), Measurements(arguments.lines)
    keep_freed_memory()  # as jpegcurr's commands and FFCV's process do
    try:
        betons = {SOURCE: Beton(arguments.clean), HALF: Beton(arguments.half)}
        if any((beton.modes != MODE_JPEG).any() for beton in betons.values()):
            raise SystemExit(
                "A beton holds images that are not JPEGs, so decoding cannot be compared. Give betons of JPEGs only."
            )
        with ExitStack() as stack:
            process = open_process(stack)
            contenders = [
                contender
                for data, beton in betons.items()
                for contender in open_contenders(data, beton, options, process, stack, arguments.filter or FILTERS)
                if not arguments.only or contender.name.partition(",")[0] in arguments.only
            ]
            if not contenders:
                raise SystemExit(f"No contender has one of these names: {', '.join(arguments.only)}.")
            (rates, costs), count = measure(contenders, arguments.runs, measurements), 2 * arguments.runs
            sampler = create_sampler(betons, options, arguments.interpolation, count + 1)
            swaps = {} if arguments.only else measure_swaps(sampler, count)
            for name, times in swaps.items():
                measurements.add(f"{name}, first batch after a swap", statistics.median(times.first), "batch times")
            if process is not None and not arguments.only:
                paths = [beton.path for beton in betons.values()]
                swaps |= process.submit(stock_swaps, paths, options, count).result()
        waits = {} if arguments.only else measure_waits(betons, options, arguments.runs, measurements)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    counts = describe(betons, options, arguments.runs)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    ratio_rows = [*ratios(rates), *((f"{name}, processor time", ratio, wanted) for name, ratio, wanted in ratios(costs))]
    tables = [
        *(*rate_table(rates, "images/s"), ""),
        *(*rate_table(costs, "images per second of processor time"), ""),
        *(*(f"{name:<64}{ratio:>8.2f}{wanted}" for name, ratio, wanted in ratio_rows), ""),
        *([*swap_table(swaps), ""] if swaps else []),
        *([*wait_table(waits), ""] if waits else []),
    ]
    print("\n".join([*tables, counts, *(f"{name}: {value}" for name, value in circumstances().items()), versions]))
    metrics = {
        "counts": counts,
        "loading_versions": versions,
        "images_per_second": {title: round(statistics.median(values)) for title, values in rates.items()},
        "images_per_processor_second": {title: round(statistics.median(values)) for title, values in costs.items()},
        "ratios": {name: round(ratio, 3) for name, ratio, _ in ratio_rows},
        "first_batch_after_swap": {name: round(statistics.median(times.first), 2) for name, times in swaps.items()},
        "last_batch_to_first": {name: round(statistics.median(times.between), 2) for name, times in swaps.items()},
        "data_wait": {name: round(statistics.median(share for share, _ in values), 3) for name, values in waits.items()},
    }
    record(arguments.json, "loader", metrics)


if __name__ == "__main__":
    main()
