"""Imports between packages, which go one way, and the few imports of quick commands."""

import ast
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from samples import SMALL

import jpegcurr

PACKAGE = Path(jpegcurr.__file__).parent
# A package may import itself and those before it.
LAYERS = (
    ("__init__",),
    ("errors",),
    ("text", "system"),
    ("descriptors", "files", "json_files", "progress"),
    ("recipe", "slurm", "runtime"),
    ("encoding",),
    ("training",),
    ("analysis",),
    ("study",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
COMMANDS = (
    "encode",
    "audit",
    "inspect",
    "preview",
    "train",
    "study",
    "evaluate",
    "budget",
    "predict",
    "cam",
    "channels",
    "demo",
    "models",
    "export",
    "runs",
    "board",
    "push",
    "recipe",
)
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, inside functions too, except for types only."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for node in typed for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "jpegcurr" else {str(node.module)}
            )
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_one_way(module: Path) -> None:
    own = RANK[module.parts[0]]
    for name in imports(PACKAGE / module.with_suffix(".py")):
        if name.startswith("jpegcurr."):
            assert RANK[name.split(".")[1]] <= own, f"{module} imports {name}"


@pytest.mark.parametrize("module", ["create", "listing", "normalisation"])
def test_who_asks_timm_for_models_has_registered_ours(module: str) -> None:
    """A test of the function cannot see it: another test's import has registered them in the same process."""
    own = {f"jpegcurr.training.models.{name}" for name in ("isotropic", "roadmap")}
    assert own <= imports(PACKAGE / f"training/models/{module}.py")


def test_there_are_no_circular_imports() -> None:
    """Check imports inside functions too."""
    names = {".".join(["jpegcurr", *module.parts]): module for module in MODULES}
    TopologicalSorter(
        {name: imports(PACKAGE / module.with_suffix(".py")) & names.keys() for name, module in names.items()}
    ).prepare()


def test_encoding_stands_alone() -> None:
    """Check that it needs no torch, and imports optional packages, SciPy and YAML only where they are used."""
    allowed = {"cv2", "numpy", "PIL", "pydantic", "simplejpeg", "jpegcurr", *sys.stdlib_module_names}
    optional = {"distributed", "datasets", "pyarrow", "scipy", "yaml"}
    for path in PACKAGE.glob("encoding/**/*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed | optional, path
        top = ast.parse(path.read_text(encoding="utf-8")).body
        for node in [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]:
            assert not any(f" {name}" in ast.unparse(node) for name in optional), f"{path}: at the top"


@pytest.mark.parametrize(
    ("package", "owners"),
    [
        ("datasets", {"encoding/sources/huggingface.py"}),
        ("pyarrow", {"encoding/outputs/parquet.py", "encoding/sources/huggingface.py"}),
        ("huggingface_hub", {"analysis/hub/push.py"}),
        ("distributed", {"encoding/workers.py"}),
        ("scipy.io", {"encoding/sources/imagenet_labels.py"}),
        ("ffcv", {"training/data/ffcv_kernel.py", "training/data/ffcv_loader.py", "training/data/loaders.py"}),
        (
            "numba",
            {
                "training/data/decode_kernel.py",
                "training/data/ffcv_kernel.py",
                "training/data/ffcv_loader.py",
                "training/data/loaders.py",
                "training/data/resample_kernel.py",
            },
        ),
        ("gradio", {"analysis/demo/app.py"}),
        ("uvicorn", {"analysis/demo/app.py"}),
        ("fastapi", {"analysis/demo/app.py"}),
        ("starlette", {"analysis/demo/app.py"}),
        ("submitit", {"slurm/task.py", "slurm/jobs.py"}),
        ("sklearn", {"analysis/audit/label_prediction.py"}),
        ("tensorboard", {"analysis/runs/event_files.py"}),
        ("wandb", set()),
    ],
)
def test_an_optional_package_is_imported_by_the_file_that_owns_it(package: str, owners: set[str]) -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(f"{name}.".startswith(f"{package}.") for name in imports(path))
    }
    assert importers == owners


def test_cuda_is_asked_for_in_one_place() -> None:
    askers = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "cuda.is_available" in path.read_text()}
    assert askers == {"runtime.py"}


def imported_by(command: str) -> set[str]:
    """Return the modules that a process has imported when its command has ended."""
    code = f"""
import sys
from jpegcurr.cli import main
try:
    main({shlex.split(command)!r})
except SystemExit as left:
    print(left.code, *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, *modules = done.stdout.splitlines()[-1].split()
    assert exit_code == "0", done.stderr
    return set(modules)


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        *(f"{name} --help" for name in COMMANDS),
        "--versions",
        "recipe --show two_phase --resolved",
        "encode images --quality 50 --dry-run",
        "encode images --quality 50 --output others",
        "audit images --sample 8 --permutations 0 -o audit.html",
        "preview images -o page.html",
        "inspect betons/val-q50.beton",
        "inspect betons/val-q50.beton --verify",
        f"train --recipe two_phase.yaml --plan {SMALL}",
        "runs run",
    ],
)
def test_a_quick_command_imports_few_modules_and_no_torch(command: str, photos: Path, betons: Path) -> None:
    Path("images").symlink_to(photos)
    Path("betons").symlink_to(betons)
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text('{"epoch": 0, "train/loss": 1.0}\n')
    modules = imported_by(command)
    assert not {"torch", "torchvision", "timm", "ffcv", "numba", "wandb"} & modules
    scientific = command.startswith(("audit", "preview"))  # SciPy has a thousand modules, some versions more
    assert len(modules) < (400 if command.endswith("--help") else 1400 if scientific else 1200)


def test_every_public_name_is_there() -> None:
    for name in jpegcurr.__all__:
        assert getattr(jpegcurr, name) is not None
    assert set(jpegcurr.__all__) == set(dir(jpegcurr))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jpegcurr.nonsense
