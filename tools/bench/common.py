"""Shared parts of the benchmarks: their options, their circumstances, and the file that collects their metrics."""

import json
import platform
import shlex
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jpegcurr.system import available_cpus, library_versions

LIBRARIES = ("jpegcurr", "numpy", "opencv-python-headless", "opencv-python", "pillow", "simplejpeg", "ffcv", "distributed")


def bench_parser(about: str | None, *, folder: bool = False, workers: int = 0, runs: int = 0) -> ArgumentParser:
    """Return a parser with ``--json`` and with the options that are given, whose values are their defaults."""
    parser = ArgumentParser(description=(about or "").partition("\n")[0])
    if folder:
        parser.add_argument("folder", type=Path, help="labelled images: <class>/*, or {train,val}/<class>/*")
    if workers:
        parser.add_argument(
            "--workers", type=positive, default=workers, help=f"threads or processes of every contender ({workers})"
        )
    if runs:
        parser.add_argument("--runs", type=positive, default=runs, help=f"timed rounds ({runs})")
    parser.add_argument("--json", type=Path, help="append the metrics to this file, as a line of JSON")
    parser.add_argument("--lines", type=Path, help="append every measurement to this file as it comes, as a line of JSON")
    return parser


@dataclass(frozen=True, slots=True)
class Measurements:
    """The measurements of a benchmark as they come, so that one that is killed leaves those before.

    ``file`` gets a line of JSON for each; None: they are only printed.
    """

    file: Path | None = None

    def add(self, name: str, value: float, unit: str, turn: int | None = None) -> None:
        """Print a measurement, of round ``turn`` if there are several, and append it to the file."""
        print(f"{name}{f', round {turn}' if turn else ''}: {value:,.6g} {unit}", flush=True)
        if self.file is not None:
            line = {"name": name, "value": value, "unit": unit}
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def positive(text: str) -> int:
    """Parse an option that must be 1 or more."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def circumstances() -> dict[str, str]:
    """Return machine, versions, commit and command line, by name; the command omits this machine's folders."""
    versions = [f"{name} {version}" for name, version in library_versions(LIBRARIES).items() if version != "absent"]
    command = [Path(word).name if Path(word).is_dir() or Path(word).is_absolute() else word for word in sys.orig_argv]
    return {
        "machine": f"{cpu_model()}, {available_cpus()} cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, {', '.join(versions)}",
        "commit": commit(),
        "command": shlex.join(command),
    }


def record(file: Path | None, kind: str, metrics: dict[str, Any]) -> None:
    """Append one line of JSON to ``file``, unless that is None."""
    if file is not None:
        line = {"kind": kind, "date": datetime.now(UTC).date().isoformat(), **circumstances(), "figures": metrics}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def commit() -> str:
    """Return the checkout's commit, with a plus if the checkout has changed since."""
    root = Path(__file__).parent.parent.parent
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_model() -> str:
    """Return the processor's name, from /proc/cpuinfo if it exists."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
