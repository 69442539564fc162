#!/usr/bin/env python3
"""Images/s of every way to write a JPEG quality 50 data set, compared on one folder and one machine.

All contenders encode the same files with the same number of workers, in chunks of 16 and in turns: A B C D, A B C D, after
one warm-up round, which also fills the page cache. Give a folder that fits into memory, since one contender holds all of it,
and run nothing else: other load changes the ratios too. Every run writes into a fresh temporary folder (below TMPDIR), which
is created and removed outside of the measured time. ``--outputs`` compares the formats of ``encode --to`` instead, with Pillow
and with an img2dataset-like loop, which re-encodes with the same C calls and packs a tar (its own reader, an HTTP client, would
measure the network).

The measured times differ in what they include. jpegcurr lists the folder, reads the files and flushes to disk (fsync). The
floor has everything in memory and drops its results; the bare loop is the floor with files: it reads, writes and flushes, but
checks and records nothing. The others get a list of files and do not flush. FFCV forks its workers and polls their progress
every 0.1 s, which costs much on a small folder, so give at least 2000 images to compare with it. Pillow alone writes a file
per image, whose cost depends on the disk; with TMPDIR in memory it is nearly free.
"""

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import simplejpeg
from common import bench_parser, circumstances, record
from PIL import Image

from jpegcurr.encoding.convert import convert_output
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.outputs.paths import FORMATS, Format
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.base import Item, Store
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import CHUNK, Outcome, encode_chunk, open_executor
from jpegcurr.errors import JpegcurrError
from jpegcurr.system import keep_freed_memory

QUALITY = 50
LADDER = (75, 50, 30, 10)
OURS, ALONE = "jpegcurr, q50", "jpegcurr, q50, one thread"
COPY, ONE_PASS, FOUR_PASSES = "jpegcurr, source", "jpegcurr, q75 q50 q30 q10 in one pass", "jpegcurr, the same in four passes"
FLOOR, FLOOR_ALONE = "floor: same C calls, in memory", "floor, one thread"
BARE = "bare loop: the floor, file to file"
WRITER = "jpegcurr's writer alone, q50"
PILLOW, FFCV = "Pillow open + save, q50", "FFCV DatasetWriter, q50"
FOLDER, WDS, PARQUET = "jpegcurr, q50, to a folder", "jpegcurr, q50, to webdataset", "jpegcurr, q50, to parquet"
ALL_FORMATS, CONVERT = "jpegcurr, q50, all four in one pass", "jpegcurr convert, beton to folder"
TAR_LOOP = "img2dataset-like loop to a tar, q50"
OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
# Requirements of an encoder for a million images: (one, other, minimum of the ratio of their medians of images/s).
TARGETS = {
    "of the floor": (OURS, FLOOR, 0.95),
    "of the bare loop": (OURS, BARE, None),
    "the bare loop of the floor": (BARE, FLOOR, None),
    "two threads against one": (OURS, ALONE, 1.9),
    "the floor's own two against one": (FLOOR, FLOOR_ALONE, None),
    "four qualities, one pass against four": (ONE_PASS, FOUR_PASSES, 2.0),
    "against FFCV's writer": (OURS, FFCV, 1.8),
    "against the Pillow loop": (OURS, PILLOW, 1.15),
    "source against q50": (COPY, OURS, 5.0),
    "threads that the one writer keeps up with": (WRITER, ALONE, None),
    "a folder against a beton": (FOLDER, OURS, 0.8),
    "webdataset against a beton": (WDS, OURS, 0.8),
    "parquet against a beton": (PARQUET, OURS, 0.8),
    "four formats in one pass against a beton": (ALL_FORMATS, OURS, None),
    "a folder against the Pillow loop": (FOLDER, PILLOW, 1.15),
    "webdataset against the tar loop": (WDS, TAR_LOOP, 0.8),
    "converting to a folder against encoding": (CONVERT, FOLDER, None),
}
# Spawn the other libraries' processes: a fork of this one would inherit the locks that its threads hold.
spawn = get_context("spawn")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to encode: ``run`` encodes ``images`` images into the empty folder that is its argument."""

    name: str
    images: int
    run: Callable[[Path], object]


def jpegcurr(
    name: str,
    folder: Path,
    images: int,
    workers: int,
    *passes: Sequence[EncodeSpec],
    kinds: Sequence[Format] = ("beton",),
) -> Contender:
    """Return the contender that writes outputs and manifests, one per split, quality and format, in one or more passes."""

    def run(out: Path) -> None:
        for specs in passes:
            with open_executor(workers) as (executor, _):
                sources = open_sources(folder)
                encode_dataset(sources, plan_outputs(sources, specs, out, kinds), executor=executor, workers=workers)

    return Contender(name, images, run)


class Ready(Executor):
    """An executor that returns prepared outcomes at once, like infinitely many workers at no cost."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes

    def submit(self, _encode, items):
        """Return the outcomes of ``items``; see ``Executor``. The call is always ``encode_chunk``."""
        future = Future()
        future.set_result([self.outcomes[item.key] for item in items])
        return future


def writer_alone(name: str, folder: Path) -> Contender:
    """Return jpegcurr's one ordered writer, fed from memory: its limit for any number of workers."""
    sources, specs = open_sources(folder), [EncodeSpec(QUALITY)]
    outcomes = {}
    with open_executor() as (executor, _):
        for source in sources:
            outcomes |= {done.item.key: done for done in executor.map(partial(encode_one, source.store, specs), source.items)}
    ready = Ready(outcomes)

    def run(out: Path) -> None:
        encode_dataset(sources, plan_outputs(sources, specs, out), executor=ready, workers=1, max_failures=len(outcomes))

    return Contender(name, len(outcomes), run)


def encode_one(store: Store, specs: Sequence[EncodeSpec], item: Item) -> Outcome:
    """Encode one image."""
    return encode_chunk(store, [item], specs)[0]


def floor(name: str, jpegs: Sequence[bytes], largest: int, workers: int, stack: ExitStack) -> Contender:
    """Return the bound that jpegcurr cannot beat: its codec's C calls in as many threads, in memory, results dropped."""
    threads, scratch = scratch_threads(largest, workers, stack)

    def encode(chunk: Sequence[bytes]) -> None:
        for data in chunk:
            cv2.imencode(".jpg", simplejpeg.decode_jpeg(data, "BGR", buffer=scratch.buffer), OPTIONS)

    return Contender(name, len(jpegs), lambda _: list(threads.map(encode, chunked(jpegs))))


def bare_loop(paths: Sequence[Path], largest: int, workers: int, stack: ExitStack) -> Contender:
    """Return the floor with files: the least code that reads them, writes one file and flushes it."""
    threads, scratch = scratch_threads(largest, workers, stack)

    def encode(descriptor: int, chunk: Sequence[Path]) -> None:
        for path in chunk:
            data = path.read_bytes()
            with suppress(ValueError):
                jpeg = cv2.imencode(".jpg", simplejpeg.decode_jpeg(data, "BGR", buffer=scratch.buffer), OPTIONS)[1]
                os.write(descriptor, jpeg)

    def run(out: Path) -> None:
        with (out / "jpegs").open("wb") as file:
            list(threads.map(partial(encode, file.fileno()), chunked(paths)))
            os.fsync(file.fileno())

    return Contender(BARE, len(paths), run)


def scratch_threads(largest: int, workers: int, stack: ExitStack) -> tuple[ThreadPoolExecutor, threading.local]:
    """Return threads, each with a ``buffer`` for the pixels of the largest image."""
    scratch = threading.local()

    def prepare() -> None:
        scratch.buffer = bytearray(largest)

    return stack.enter_context(ThreadPoolExecutor(workers, initializer=prepare)), scratch


def chunked(values: Sequence) -> list[Sequence]:
    """Split values into chunks of jpegcurr's size."""
    return [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]


def load_jpegs(paths: Sequence[Path]) -> tuple[list[bytes], int]:
    """Return the files that simplejpeg decodes to BGR, and the bytes of pixels of the largest one."""
    jpegs, largest = [], 0
    for path in paths:
        data = path.read_bytes()
        with suppress(ValueError):
            largest = max(largest, simplejpeg.decode_jpeg(data, "BGR").nbytes)
            jpegs.append(data)
    if not jpegs:
        raise JpegcurrError("The folder holds no JPEG to compare. Give one that does.")
    return jpegs, largest


def pillow(paths: Sequence[Path], workers: int, stack: ExitStack) -> Contender:
    """Return the usual Pillow loop, file to file, in processes that are started before the measurement."""
    pool = stack.enter_context(spawn.Pool(workers))

    def run(out: Path) -> None:
        pool.starmap(save_with_pillow, [(path, out / f"{i}.jpg") for i, path in enumerate(paths)], CHUNK)

    return Contender(PILLOW, len(paths), run)


def save_with_pillow(source: Path, target: Path) -> None:
    """Re-encode one file."""
    Image.open(source).convert("RGB").save(target, quality=QUALITY)


def tar_loop(paths: Sequence[Path], largest: int, workers: int, stack: ExitStack) -> Contender:
    """Return the loop of img2dataset for files: threads re-encode, and each has a tar of its own, by the package webdataset."""
    import webdataset

    threads, scratch = scratch_threads(largest, workers, stack)

    def write(part: int, out: Path) -> None:
        with webdataset.TarWriter(str(out / f"{part:05}.tar")) as tar:
            for number, path in enumerate(paths[part::workers]):
                with suppress(ValueError):
                    pixels = simplejpeg.decode_jpeg(path.read_bytes(), "BGR", buffer=scratch.buffer)
                    jpeg = cv2.imencode(".jpg", pixels, OPTIONS)[1].tobytes()
                    tar.write({"__key__": f"{number:09}", "jpg": jpeg, "cls": 0, "json": {"key": str(path)}})

    return Contender(TAR_LOOP, len(paths), lambda out: list(threads.map(partial(write, out=out), range(workers))))


def converting(folder: Path, images: int, workers: int, stack: ExitStack) -> Contender:
    """Return the contender that copies betons, which are written before the measurement, into folders."""
    betons = Path(stack.enter_context(TemporaryDirectory(prefix="bench-convert-")))
    jpegcurr("", folder, images, workers, [EncodeSpec(QUALITY)]).run(betons)

    def run(out: Path) -> None:
        for beton in betons.glob("*.beton"):
            convert_output(beton, ["folder"], out)

    return Contender(CONVERT, images, run)


def open_output_contenders(folder: Path, workers: int, stack: ExitStack) -> list[Contender]:
    """Return the formats of ``encode --to``, and what writes folders and tars without jpegcurr."""
    paths = [Path(source.store.locate(item)) for source in open_sources(folder) for item in source.items]
    _, largest = load_jpegs(paths)
    half = [EncodeSpec(QUALITY)]
    kinds: dict[str, Sequence[Format]] = {OURS: ["beton"], FOLDER: ["folder"], WDS: ["webdataset"], PARQUET: ["parquet"]}
    kinds[ALL_FORMATS] = FORMATS
    return [
        *(jpegcurr(name, folder, len(paths), workers, half, kinds=formats) for name, formats in kinds.items()),
        converting(folder, len(paths), workers, stack),
        pillow(paths, workers, stack),
        tar_loop(paths, largest, workers, stack),
    ]


def ffcv(files: Sequence[tuple[Path, int]], workers: int, stack: ExitStack) -> list[Contender]:
    """Return FFCV's writer in a process of its own; nothing if ffcv cannot be imported."""
    process = ProcessPoolExecutor(1, mp_context=spawn)
    stack.callback(process.shutdown, wait=False)
    try:
        group = process.submit(start_ffcv).result()
    except ImportError as error:
        print(f"{FFCV} is skipped: {error}.")
        return []
    stack.callback(kill_group, group)

    def run(out: Path) -> None:
        try:
            process.submit(write_ffcv, out / "ffcv.beton", files, workers).result(60 + len(files) / 10)
        except TimeoutError:  # FFCV waits forever if one of its workers dies
            kill_group(group)
            raise

    return [Contender(FFCV, len(files), run)]


def start_ffcv() -> int:
    """Import FFCV and make this process the leader of a new process group; return the group's id."""
    os.setsid()
    os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it on import
    set_start_method("fork", force=True)  # Linux's default up to Python 3.13; any other imports torch in every worker
    import ffcv.writer  # noqa: F401

    return os.getpid()


def kill_group(group: int) -> None:
    """End FFCV's process and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def write_ffcv(path: Path, files: Sequence[tuple[Path, int]], workers: int) -> None:
    """Write one beton as FFCV's documentation shows, but in smaller chunks, which balance a small folder better."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=workers).from_indexed_dataset(PillowDataset(files), chunksize=CHUNK)


@dataclass(frozen=True, slots=True)
class PillowDataset:
    """(RGB image, label) pairs for FFCV's writer."""

    files: Sequence[tuple[Path, int]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.files[index]
        return Image.open(path).convert("RGB"), label


def open_contenders(folder: Path, workers: int, stack: ExitStack) -> list[Contender]:
    """Return all contenders that can run here; ``stack`` closes their processes and threads."""
    files = [(Path(source.store.locate(item)), item.label) for source in open_sources(folder) for item in source.items]
    paths = [path for path, _ in files]
    jpegs, largest = load_jpegs(paths)
    half, ladder = EncodeSpec(QUALITY), [EncodeSpec(quality) for quality in LADDER]
    return [
        jpegcurr(OURS, folder, len(files), workers, [half]),
        floor(FLOOR, jpegs, largest, workers, stack),
        bare_loop(paths, largest, workers, stack),
        jpegcurr(ALONE, folder, len(files), 1, [half]),
        floor(FLOOR_ALONE, jpegs, largest, 1, stack),
        jpegcurr(COPY, folder, len(files), workers, [EncodeSpec("source")]),
        jpegcurr(ONE_PASS, folder, len(files), workers, ladder),
        jpegcurr(FOUR_PASSES, folder, len(files), workers, *([spec] for spec in ladder)),
        writer_alone(WRITER, folder),
        pillow(paths, workers, stack),
        *ffcv(files, workers, stack),
    ]


def measure(contenders: Sequence[Contender], runs: int) -> dict[str, list[float]]:
    """Return images/s of ``runs`` rounds by contender, without contenders that do not finish."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for contender in [contender for contender in contenders if contender.name in rates]:
            try:
                rate = images_per_second(contender)
            except TimeoutError:
                print(f"{contender.name} is skipped: it did not finish.")
                del rates[contender.name]
            else:
                rates[contender.name] += [rate] if turn else []
    return rates


def images_per_second(contender: Contender) -> float:
    """Run a contender once; return images per second of wall-clock time."""
    with TemporaryDirectory(prefix="bench-encode-") as out:
        start = time.perf_counter()
        contender.run(Path(out))
        return contender.images / (time.perf_counter() - start)


def table(rates: dict[str, list[float]]) -> list[str]:
    """Format images/s by contender; ``ratio`` is that of its median to jpegcurr's."""
    ours = statistics.median(rates[OURS])
    lines = [f"{'images/s':<38}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}"]
    for name, values in rates.items():
        median = statistics.median(values)
        lines.append(f"{name:<38}{median:>8.0f}{min(values):>8.0f}{max(values):>8.0f}{median / ours:>8.2f}")
    return [*lines, "", *(f"{name:<38}{ratio:>8.2f}{wanted}" for name, ratio, wanted in ratios(rates))]


def ratios(rates: dict[str, list[float]]) -> list[tuple[str, float, str]]:
    """Return (name, ratio of medians, requirement and whether it is missed)."""
    rows = []
    for name, (one, other, least) in TARGETS.items():
        if one in rates and other in rates:
            ratio = statistics.median(rates[one]) / statistics.median(rates[other])
            wanted = f"   required: {least}{'' if ratio >= least else ', missed'}" if least else ""
            rows.append((name, ratio, wanted))
    return rows


def main() -> None:
    """Measure all contenders and print their rates and ratios."""
    parser = bench_parser(__doc__, folder=True, workers=2, runs=5)
    parser.add_argument("--outputs", action="store_true", help="compare the formats of encode --to")
    arguments = parser.parse_args()
    keep_freed_memory()
    try:
        with ExitStack() as stack:
            opener = open_output_contenders if arguments.outputs else open_contenders
            contenders = opener(arguments.folder, arguments.workers, stack)
            rates = measure(contenders, arguments.runs)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    counts = f"{contenders[0].images} images, {arguments.workers} workers, {arguments.runs} runs after one warm-up"
    print("\n".join([*table(rates), counts, *(f"{name}: {value}" for name, value in circumstances().items())]))
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    ratio_by_name = {name: round(ratio, 3) for name, ratio, _ in ratios(rates)}
    record(
        arguments.json,
        "encode --outputs" if arguments.outputs else "encode",
        {"counts": counts, "images_per_second": medians, "ratios": ratio_by_name},
    )


if __name__ == "__main__":
    main()
