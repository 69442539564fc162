"""What `jpegcurr cam` takes of memory, over more and more images: python memory.py RUN IMAGES, on Linux.

Prints the process's resident memory after 1,000 images and then after every 10,000; source and quality 50, the last stage.
"""

import sys
from pathlib import Path

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.cli.options import parse_specs
from jpegcurr.runtime import resolve_runtime
from jpegcurr.system import keep_freed_memory
from jpegcurr.training.models.load import load_run


def resident() -> str:
    """Of this process, as the kernel says it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("VmRSS"))


def main() -> None:
    """Print a line whenever so many more images are done, and one at the end."""
    run, images = map(Path, sys.argv[1:])
    due = 1000

    def on_images(done: int, of: int) -> None:
        nonlocal due
        if done >= min(due, of):
            print(f"{done:,} of {of:,} images: {resident()}", flush=True)
            due = done // 10_000 * 10_000 + 10_000

    keep_freed_memory()
    runtime = resolve_runtime("auto")
    compare_cams([load_run(run, runtime, "raw")], images, parse_specs(["source", "50"]), runtime, progress=on_images)


if __name__ == "__main__":
    main()
