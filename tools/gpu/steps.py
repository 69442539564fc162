"""The steps of the GPU check, in order: what each runs, its share of the time, and where its metrics come from."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
BETONS = ("betons/train-source.beton", "betons/train-q50.beton")

Metrics = dict[str, float]

# Options of the commands: on a GPU, and smaller ones on a CPU. Recipe "two_phase" is the main one.
RECIPE = "--recipe two_phase"
TINY = f"{RECIPE} --set model.name=test_convnext --set image.size=32"
OPTIONS = {
    "cuda": {
        "images": "--count 8192",
        "ceilings": "",
        "the recipe's step": f"{RECIPE} --micro 128 512 --variants eager compiled --steps 20 --runs 3",
        "levers": f"{RECIPE} --micro 128 512 --variants plain cast bare kernels --steps 20 --runs 3",
        "kernels": f"{RECIPE} --micro 128 --variants eager compiled --steps 5 --runs 1 --kernels 25",
        "loader": "--size 224 --batch 128 --runs 2 --filter bicubic --only CompiledLoader --only PlainLoader",
        "loader and step": f"{RECIPE} --batch 128 --steps 40 --runs 2 --only ours",
        "run": f"{RECIPE} --batch 512",
        "timm": f"{RECIPE} --batch 128 --steps 20 --runs 1 --only timm",
        "exact JPEG": "--limit 256 --batch 256 --runs 3",
    },
    "cpu": {
        "images": "--count 48",
        "ceilings": "--small",
        "the recipe's step": f"{TINY} --micro 8 16 --variants eager --steps 2 --runs 1",
        "levers": f"{TINY} --micro 8 --variants plain cast bare --steps 2 --runs 1",
        "kernels": f"{TINY} --micro 8 --variants eager --steps 1 --runs 1 --kernels 25",
        "loader": "--size 32 --batch 8 --runs 1 --filter bicubic --only CompiledLoader --only PlainLoader",
        "loader and step": f"{TINY} --batch 8 --steps 2 --runs 1 --only ours",
        "run": f"{TINY} --batch 16",
        "timm": f"{TINY} --batch 8 --steps 2 --runs 1 --only timm",
        "exact JPEG": "--limit 8 --batch 4 --runs 1 --no-compile",
    },
}


@dataclass(frozen=True, slots=True)
class Step:
    """A command that Python runs in the temporary folder, and its ``share`` of the time left for it and the steps after it.

    It needs ``files`` that earlier steps write. With ``lines`` it is a benchmark, whose measurements are its metrics, also
    when it is killed; else ``read_metrics`` reads them from its output.
    """

    name: str
    share: int
    command: Sequence[str]
    files: tuple[str, ...] = ()
    lines: bool = True
    read_metrics: Callable[[str], Metrics] = lambda _output: {}


def plan(folder: Path | None, device: str) -> list[Step]:
    """Return the steps; the shares are seconds of twelve minutes. ``folder`` None: photographs that packages ship."""
    from jpegcurr.system import available_cpus  # not before it is known that nothing lacks

    images, options = str(folder or "images"), {name: shlex.split(text) for name, text in OPTIONS[device].items()}
    on, workers = ["--device", device], ["--workers", str(min(16, available_cpus()))]

    def bench(name: str, share: int, program: str, *arguments: str, files: tuple[str, ...] = ()) -> Step:
        return Step(name, share, [str(TOOLS / "bench" / program), *arguments, *options[name]], files)

    tests = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-c", str(TOOLS.parent / "pyproject.toml")]
    photographs = Step("photographs", 5, [str(TOOLS / "gpu" / "photographs.py"), "images"], lines=False)
    source, q50 = BETONS
    return [
        *([] if folder else [photographs]),
        Step("images", 20, [str(TOOLS / "gpu" / "betons.py"), images, "betons", *options["images"]], (images,), lines=False),
        bench("ceilings", 20, "ceilings.py", *on),
        Step("tests", 60, [*tests, *gpu_tests()], lines=False, read_metrics=count_tests),
        bench("the recipe's step", 190, "step.py", images, *on, files=(images,)),
        bench("levers", 130, "step.py", images, *on, files=(images,)),
        bench("kernels", 60, "step.py", images, *on, files=(images,)),
        bench("loader", 45, "loader.py", source, q50, *workers, files=(source, q50)),
        bench("loader and step", 45, "train.py", images, *on, *workers, files=(images,)),
        bench("run", 60, "whole_run.py", source, source, *on, files=(source,)),
        bench("timm", 40, "train.py", images, *on, *workers, files=(images,)),
        bench("exact JPEG", 40, "jpeg.py", images, *on, files=(images,)),
    ]


def gpu_tests() -> list[str]:
    """Return the files with GPU tests."""
    files = sorted((TOOLS.parent / "tests").rglob("test_*.py"))
    return [str(path) for path in files if "pytest.mark.gpu" in path.read_text("utf-8") and "tools" not in path.parts[-2]]


def count_tests(output: str) -> Metrics:
    """Return the counts in pytest's last line, such as ``3 passed, 1 skipped``."""
    last = output.rstrip().rpartition("\n")[2]
    return {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", last)}
