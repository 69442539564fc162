#!/usr/bin/env python3
"""The ceilings of a device: memory bandwidth, matrix products, copies from the host, and the price of a launch.

The runtime is that of ``jpegcurr train`` with ``--device auto``, whose reason comes first. A GPU's figures are of CUDA events,
a CPU's of the clock; each is the best of several rounds, since these are limits. ``--small`` takes sizes for a CPU.
"""

import time
from collections.abc import Callable

import torch
from clock import wait_for
from common import Measurements, bench_parser, circumstances, record

from jpegcurr.errors import JpegcurrError
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.flops import peak_flops

ROUNDS = 5


def best_seconds(run: Callable[[], object], runtime: Runtime, repeats: int) -> float:
    """Return the shortest time of a call, of ``ROUNDS`` rounds of ``repeats`` calls after one that does not count."""
    times = list[float]()
    for _ in range(1 + ROUNDS):
        wait_for(runtime)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        wait_for(runtime)
        times.append((time.perf_counter() - start) / repeats)
    return min(times[1:])


def bandwidth(runtime: Runtime, megabytes: int) -> float:
    """Return GB/s read and written by a copy on the device."""
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=runtime.device)
    target = torch.empty_like(source)
    return 2 * source.numel() / best_seconds(lambda: target.copy_(source), runtime, 20) / 1e9


def products(runtime: Runtime, side: int) -> float:
    """Return TFLOP/s of square matrix products in the runtime's precision."""
    first, second = (torch.randn(side, side, dtype=runtime.dtype, device=runtime.device) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: first @ second, runtime, 10) / 1e12


def uploads(runtime: Runtime, megabytes: int) -> float:
    """Return GB/s from page-locked memory of the host to the device."""
    source = runtime.memory(megabytes << 20)
    return source.numel() / best_seconds(lambda: runtime.upload(source), runtime, 10) / 1e9


def launch(runtime: Runtime) -> float:
    """Return the microseconds that the host takes to start a small kernel."""
    small = torch.zeros(1, device=runtime.device)
    return 1e6 * best_seconds(lambda: small.add_(1), runtime, 1000)


def main() -> None:
    """Measure every ceiling, and print each as it comes."""
    parser = bench_parser(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU: 16 MB and 256 x 256")
    arguments = parser.parse_args()
    try:
        runtime = resolve_runtime(arguments.device)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    print(runtime.reason, flush=True)
    megabytes, side = (16, 256) if arguments.small else (1024, 8192)
    measuring: dict[str, tuple[Callable[[], float], str]] = {
        "memory bandwidth": (lambda: bandwidth(runtime, megabytes), "GB/s"),
        f"products in {str(runtime.dtype).removeprefix('torch.')}": (lambda: products(runtime, side), "TFLOP/s"),
        "a launch": (lambda: launch(runtime), "us"),
    }
    if runtime.device.type == "cuda":
        measuring["upload"] = lambda: uploads(runtime, megabytes // 4), "GB/s"
    measurements, results = Measurements(arguments.lines), dict[str, object]()
    for name, (measure, unit) in measuring.items():
        value = measure()
        measurements.add(name, value, unit)
        results[f"{name}, {unit}"] = round(value, 3)
    peak = peak_flops(runtime.name, runtime.dtype)
    print(f"the maker's peak: {peak / 1e12:.0f} TFLOP/s" if peak else f"the maker's peak of {runtime.name}: not known")
    print("\n".join(f"{name}: {value}" for name, value in circumstances().items()))
    record(arguments.json, "ceilings", {"runtime": runtime.reason, **results})


if __name__ == "__main__":
    main()
