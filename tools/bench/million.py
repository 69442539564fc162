#!/usr/bin/env python3
"""Peak memory and time of encoding a million items, of resuming after a kill halfway, and of opening the result for training.

The items are hard links to a few tiny JPEGs in a temporary folder (below TMPDIR; a million names take some minutes and half
a gigabyte). Every step is a process of its own, whose peak resident memory the system reports.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import bench_parser, circumstances, record
from PIL import Image

from jpegcurr.encoding.beton.manifest import items_path

CLASSES = 1000
LINKS = 30_000  # to one file; ext4 allows 65,000
ENCODE = [sys.executable, "-m", "jpegcurr", "encode", "images", "--split", "train", "--quality", "50", "-q"]
OPEN = """
import sys, time, resource
from pathlib import Path
from jpegcurr.training.data.datasets import open_dataset
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
dataset = open_dataset(Path("betons/train-q50.beton"))
print(len(dataset.beton), time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def make_folder(root: Path, items: int) -> None:
    """Write ``root/<class>/<number>.jpg``: links to small JPEGs of noise."""
    random = np.random.default_rng(0)
    pictures = []
    for number in range(-(-items // LINKS)):
        pictures.append(root.parent / f"picture{number}.jpg")
        Image.fromarray(random.integers(0, 255, (24, 24, 3), np.uint8)).resize((32, 32)).save(pictures[-1], quality=75)
    for number in range(items):
        folder = root / f"n{number % CLASSES:08}"
        if number < CLASSES:
            folder.mkdir(parents=True)
        os.link(pictures[number // LINKS], folder / f"{folder.name}_{number}.JPEG")


def run(command: list[str], folder: Path, kill_after: float | None = None) -> tuple[float, float]:
    """Run a command, killed after ``kill_after`` seconds if given; return its seconds and peak resident megabytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    if kill_after is None and status:
        raise SystemExit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def sha256(path: Path) -> str:
    """Hash a file piece by piece: a child process would start with the memory of a whole read in its peak."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Measure all steps and print their metrics."""
    parser = bench_parser(__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="number of items (1000000)")
    arguments = parser.parse_args()
    if arguments.items < CLASSES:
        parser.error(f"--items is {CLASSES} or more")
    with TemporaryDirectory(prefix="bench-million-") as folder:
        root = Path(folder)
        make_folder(root / "images", arguments.items)
        seconds, megabytes = run(ENCODE, root)
        beton = root / "betons/train-q50.beton"
        whole = sha256(beton)
        items = items_path(beton).stat().st_size / 1e6
        opened = subprocess.run([sys.executable, "-c", OPEN], cwd=root, capture_output=True, text=True, check=True)
        count, opening, more = opened.stdout.split()
        beton.unlink()
        run([*ENCODE, "--force"], root, kill_after=seconds / 2)
        resume_seconds, resume_megabytes = run([*ENCODE, "--resume"], root)
        same = sha256(beton) == whole
    metrics = {
        "items": int(count),
        "encode_seconds": round(seconds, 1),
        "encode_peak_mb": round(megabytes),
        "items_jsonl_mb": round(items),
        "open_seconds": round(float(opening), 3),
        "open_peak_mb_more": round(float(more) / 1e3),
        "resume_after_kill_seconds": round(resume_seconds, 1),
        "resume_peak_mb": round(resume_megabytes),
        "resumed_file_is_the_same": same,
    }
    for name, value in (metrics | circumstances()).items():
        print(f"{name}: {value}")
    record(arguments.json, "million", metrics)


if __name__ == "__main__":
    main()
