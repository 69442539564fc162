#!/usr/bin/env python3
"""Images/s of every way to make a JPEG quality 50 data set, side by side on one folder and one machine.

All contenders take the same files with as many workers, in chunks of 16, turn by turn: A B C D, A B C D, after one
round that does not count and leaves the files in the page cache. Give a folder that fits into memory, since one
contender holds it all, and leave the machine to the benchmark: a load that comes and goes moves the ratios too. Each
run writes into a fresh temporary folder (TMPDIR says where), made and removed while the clock stands.

What the clock sees differs. Against jpegcurr: its time includes listing the folder and flushing to disk (fsync); the
others get a ready list of files and do not flush. Against FFCV: the fork of its workers and the 0.1 s between two looks
at their progress weigh on a small folder, so give 2000 images or more to compare with it. Against Pillow: it alone
makes a file for each image, which costs what the disk makes it cost; with TMPDIR in memory it is nearly free.
"""

import argparse
import os
import platform
import shlex
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import simplejpeg
from PIL import Image

from jpegcurr.encoding.codec import EncodeSpec
from jpegcurr.encoding.encode import CHUNK, encode_dataset
from jpegcurr.encoding.executors import available_cpus, open_executor
from jpegcurr.encoding.manifest import library_versions
from jpegcurr.encoding.sources import Item, open_splits
from jpegcurr.errors import JpegcurrError

QUALITY = 50
OURS, FLOOR, FFCV = "jpegcurr, q50", "floor: same C calls, in memory", "FFCV DatasetWriter, q50"
LIBRARIES = ("jpegcurr", "numpy", "opencv-python-headless", "opencv-python", "pillow", "simplejpeg", "ffcv")
# The other libraries' processes start afresh: a fork of this one would inherit the locks that its threads hold.
spawn = get_context("spawn")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to encode: ``run`` does ``images`` images and writes into the empty folder that it is given."""

    name: str
    images: int
    run: Callable[[Path], object]


def jpegcurr(name: str, folder: Path, images: int, workers: int, qualities: Sequence[EncodeSpec]) -> Contender:
    """Folder to betons and their manifests, one for each split and quality."""

    def run(out: Path) -> None:
        with open_executor(workers) as (executor, _):
            for source in open_splits(folder):
                outputs = {out / f"{source.split}-{spec.name}.beton": spec for spec in qualities}
                encode_dataset(source, outputs, executor=executor, workers=workers)

    return Contender(name, images, run)


def floor(items: Sequence[Item], workers: int, stack: ExitStack) -> Contender:
    """What jpegcurr cannot beat: its codec's C calls in as many threads, from memory, with the results dropped."""
    jpegs, largest = load_jpegs(items)
    chunks = [jpegs[start : start + CHUNK] for start in range(0, len(jpegs), CHUNK)]
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling]
    scratch = threading.local()

    def prepare() -> None:
        scratch.buffer = bytearray(largest)

    def encode(chunk: Sequence[bytes]) -> None:
        for data in chunk:
            cv2.imencode(".jpg", simplejpeg.decode_jpeg(data, "BGR", buffer=scratch.buffer), options)

    threads = stack.enter_context(ThreadPoolExecutor(workers, initializer=prepare))
    return Contender(FLOOR, len(jpegs), lambda _: list(threads.map(encode, chunks)))


def load_jpegs(items: Sequence[Item]) -> tuple[list[bytes], int]:
    """The files that simplejpeg decodes to BGR, and the bytes of pixels in the largest one."""
    jpegs, largest = [], 0
    for item in items:
        data = item.path.read_bytes()
        with suppress(ValueError):
            largest = max(largest, simplejpeg.decode_jpeg(data, "BGR").nbytes)
            jpegs.append(data)
    if not jpegs:
        raise JpegcurrError("The folder holds no JPEG, so there is nothing to compare.")
    return jpegs, largest


def pillow(items: Sequence[Item], workers: int, stack: ExitStack) -> Contender:
    """The loop that people write, file to file, in processes that are there before the clock starts."""
    pool = stack.enter_context(spawn.Pool(workers))

    def run(out: Path) -> None:
        pool.starmap(save_with_pillow, [(item.path, out / f"{i}.jpg") for i, item in enumerate(items)], CHUNK)

    return Contender("Pillow open + save, q50", len(items), run)


def save_with_pillow(source: Path, target: Path) -> None:
    """Re-encode one file."""
    Image.open(source).convert("RGB").save(target, quality=QUALITY)


def ffcv(items: Sequence[Item], workers: int, stack: ExitStack) -> list[Contender]:
    """FFCV's own writer, in a process of its own; none where ffcv cannot be imported."""
    process = ProcessPoolExecutor(1, mp_context=spawn)
    stack.callback(process.shutdown, wait=False)
    try:
        group = process.submit(start_ffcv).result()
    except ImportError as error:
        print(f"{FFCV} is left out: {error}.")
        return []
    stack.callback(kill_group, group)

    def run(out: Path) -> None:
        try:
            process.submit(write_ffcv, out / "ffcv.beton", items, workers).result(60 + len(items) / 10)
        except TimeoutError:  # FFCV waits for ever if one of its workers dies, and the others spin
            kill_group(group)
            raise

    return [Contender(FFCV, len(items), run)]


def start_ffcv() -> int:
    """Import FFCV, and make this process the head of a group of its own; returns the group's id."""
    os.setsid()
    os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
    set_start_method("fork", force=True)  # Linux's default up to Python 3.13; any other imports torch in every worker
    import ffcv.writer  # noqa: F401

    return os.getpid()


def kill_group(group: int) -> None:
    """End FFCV's process and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def write_ffcv(path: Path, items: Sequence[Item], workers: int) -> None:
    """Write one beton as FFCV's documentation shows, but in smaller chunks, which share a small folder out evenly."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=workers).from_indexed_dataset(PillowDataset(items), chunksize=CHUNK)


@dataclass(frozen=True, slots=True)
class PillowDataset:
    """(RGB image, label) pairs for FFCV's writer."""

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.items[index].path).convert("RGB"), self.items[index].label


def open_contenders(folder: Path, workers: int, stack: ExitStack) -> list[Contender]:
    """All contenders that can run here; ``stack`` closes their processes and threads."""
    items = [item for source in open_splits(folder) for item in source.items]
    ladder = [EncodeSpec(quality) for quality in (75, 50, 30, 10)]
    return [
        jpegcurr(OURS, folder, len(items), workers, [EncodeSpec(QUALITY)]),
        jpegcurr("jpegcurr, source", folder, len(items), workers, [EncodeSpec("source")]),
        jpegcurr("jpegcurr, q75 q50 q30 q10 in one pass", folder, len(items), workers, ladder),
        floor(items, workers, stack),
        pillow(items, workers, stack),
        *ffcv(items, workers, stack),
    ]


def measure(contenders: Sequence[Contender], runs: int) -> dict[str, list[float]]:
    """Images/s of ``runs`` rounds by contender; one that does not finish is left out."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for contender in [contender for contender in contenders if contender.name in rates]:
            try:
                rate = images_per_second(contender)
            except TimeoutError:
                print(f"{contender.name} is left out: it did not finish.")
                del rates[contender.name]
            else:
                rates[contender.name] += [rate] if turn else []
    return rates


def images_per_second(contender: Contender) -> float:
    """By the wall clock, over one run."""
    with TemporaryDirectory(prefix="bench-encode-") as out:
        start = time.perf_counter()
        contender.run(Path(out))
        return contender.images / (time.perf_counter() - start)


def table(rates: dict[str, list[float]]) -> list[str]:
    """Images/s; ``ratio`` is of medians, to jpegcurr's."""
    ours = statistics.median(rates[OURS])
    lines = [f"{'images/s':<38}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}"]
    for name, values in rates.items():
        median = statistics.median(values)
        lines.append(f"{name:<38}{median:>8.0f}{min(values):>8.0f}{max(values):>8.0f}{median / ours:>8.2f}")
    return [*lines, f"of the floor: {ours / statistics.median(rates[FLOOR]):.2f}"]


def circumstances() -> list[str]:
    """Machine, versions and command line: what it takes to run this again."""
    versions = [f"{name} {version}" for name, version in library_versions(LIBRARIES).items() if version != "absent"]
    return [
        f"machine: {cpu_model()}, {available_cpus()} cores, {platform.system()}",
        f"versions: Python {platform.python_version()}, {', '.join(versions)}",
        f"command: {shlex.join(sys.orig_argv)}",
    ]


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="labelled images: <class>/*, or {train,val}/<class>/*")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each contender (2)")
    parser.add_argument("--runs", type=int, default=5, help="timed rounds (5)")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.runs) < 1:
        parser.error("--workers and --runs are 1 or more")
    try:
        with ExitStack() as stack:
            contenders = open_contenders(arguments.folder, arguments.workers, stack)
            rates = measure(contenders, arguments.runs)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    counts = f"{contenders[0].images} images, {arguments.workers} workers, {arguments.runs} runs after one warm-up"
    print("\n".join([*table(rates), counts, *circumstances()]))


if __name__ == "__main__":
    main()
