"""The run of the GPU check's steps: each in a process that ends in time, its output on the screen and in a log as it comes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from gpu.steps import TOOLS, Metrics, Step

PASSED, FAILED, LATE, LEFT_OUT = "passed", "failed", "out of time", "left out"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a step; ``why`` it did not pass, if it did not."""

    name: str
    outcome: str
    seconds: float
    figures: Metrics
    why: str = ""


def check(steps: Sequence[Step], out: Path, minutes: float, head: dict[str, Any]) -> list[Result]:
    """Run the steps in order, and keep the summary up to date."""
    end, results = time.monotonic() + 60 * minutes, list[Result]()
    with TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        for number, step in enumerate(steps):
            seconds = (end - time.monotonic()) * step.share / sum(later.share for later in steps[number:])
            print(f"{step.name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
            results.append(run_step(step, seconds, Path(folder), out / step.name.replace(" ", "_").replace("'", "")))
            print(line_of(results[-1]), flush=True)
            write_summary(out, {**head, "minutes": minutes, "steps": [asdict(result) for result in results]})
    return results


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Replace the summary, so that it is whole at every moment."""
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (out / "summary.json.part").write_text(text, "utf-8")
    (out / "summary.json.part").replace(out / "summary.json")


def run_step(step: Step, seconds: float, folder: Path, place: Path) -> Result:
    """Run a step for at most ``seconds``; its output goes to ``place`` with the suffix .log, measurements to .jsonl."""
    if absent := [Path(name).name for name in step.files if not (folder / name).exists()]:
        return Result(step.name, LEFT_OUT, 0, {}, "; ".join(f"{name} does not exist" for name in absent))
    log, lines = place.with_suffix(".log"), place.with_suffix(".jsonl")
    start = time.monotonic()
    code = run_command([sys.executable, *step.command, *(["--lines", str(lines)] if step.lines else [])], seconds, folder, log)
    took, output = round(time.monotonic() - start, 1), log.read_text("utf-8", "replace")
    metrics = read_lines(lines) if step.lines else step.read_metrics(output)
    if code is None:
        return Result(step.name, LATE, took, metrics, f"killed after {took:.0f} s")
    if code:
        return Result(step.name, FAILED, took, metrics, f"exit code {code}: {output.rstrip().rpartition(chr(10))[2]}")
    return Result(step.name, PASSED, took, metrics)


def read_lines(file: Path) -> Metrics:
    """Return the measurements of a benchmark by name and unit; of several rounds the median. None yet: nothing."""
    values: dict[str, list[float]] = {}
    if file.exists():
        for line in file.read_text("utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # the last one of a process that was killed
                entry = json.loads(line)
                values.setdefault(f"{entry['name']} ({entry['unit']})", []).append(float(entry["value"]))
    return {name: round(median(rounds), 6) for name, rounds in values.items()}


def run_command(command: Sequence[str], seconds: float, folder: Path, log: Path) -> int | None:
    """Run a command and return its exit code; None if it took too long. Its child processes end with it."""
    path = os.pathsep.join([str(TOOLS.parent), str(TOOLS / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    copying = Thread(target=copy_output, args=(process, log), daemon=True)
    copying.start()
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        copying.join(5)


def copy_output(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Copy every line of a process to its log and to the screen, as it comes."""
    assert process.stdout is not None  # noqa: S101
    with log.open("wb") as file, process.stdout as output:
        for line in output:
            file.write(line)
            file.flush()
            print("  " + line.decode("utf-8", "replace").rstrip(), flush=True)


def line_of(result: Result) -> str:
    """Return a result in one line, without its metrics, which were printed as they came."""
    return f"{result.name}: {result.outcome} after {result.seconds:.0f} s{f', {result.why}' if result.why else ''}"


def table(results: Sequence[Result]) -> str:
    """Return a line for each step, and one below it for each of its metrics."""
    lines = [f"{'step':<19}{'outcome':<13}{'seconds':>7}"]
    for result in results:
        lines.append(f"{result.name:<19}{result.outcome:<13}{result.seconds:>7.0f}  {result.why}".rstrip())
        lines += [f"    {name:<66}{value:>14,.6g}" for name, value in result.figures.items()]
    return "\n".join(lines)
