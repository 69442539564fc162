"""The wheel: what it holds, and the quick start from one that is installed, far from this repository."""

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from forked import PYTHON
from samples import SMALL

import jpegcurr

ROOT = Path(__file__).parent.parent
# Runs commands, from the JSON that it is given, with the package that is installed in a folder: through its entry point, in one
# process, which may have been forked from one that had jpegcurr from elsewhere.
INSTALLED = """
import json, sys, warnings
for name in [name for name in sys.modules if name.split(".")[0] == "jpegcurr"]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
warnings.filterwarnings("ignore", "Overwriting (convnext_isotropic|roadmap)")
from importlib.metadata import distribution
(entry,) = distribution("jpegcurr").entry_points
main = entry.load()
for command in json.loads(sys.argv[2]):
    try:
        main(command)
    except SystemExit as left:
        if left.code:
            sys.exit(f"{command}: exit code {left.code}")
import jpegcurr
print(jpegcurr.__file__, *(module.__file__ for name, module in sys.modules.items() if name.startswith("jpegcurr.")))
"""


def uv(*words: str) -> None:
    """Run uv without a network; skip the test where it is missing, or has never built this package."""
    program = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    if not Path(program).is_file():
        pytest.skip("no uv here")
    done = subprocess.run([program, *words, "--offline", "--no-config"], capture_output=True, text=True, check=False)
    if "network was disabled" in done.stderr and "hatchling" in done.stderr:
        pytest.skip("uv has no hatchling in its cache: run tools/test once")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and from it alone the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", str(ROOT), "--out-dir", str(folder), "--quiet")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    package, recipes = (
        {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        for folder in ("jpegcurr", "recipes")
    )
    recipes = {Path("jpegcurr") / path for path in recipes}
    with zipfile.ZipFile(wheel) as content:
        names = {Path(name) for name in content.namelist()}
        (about,) = {name.parent for name in names if name.name == "METADATA"}
        metadata = message_from_bytes(content.read(str(about / "METADATA")))
    rest = {about / name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert names == package | recipes | rest
    assert metadata["Version"] == jpegcurr.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "hub" in metadata.get_all("Provides-Extra")
    assert not [
        need
        for need in metadata.get_all("Requires-Dist")
        if re.match(r"huggingface|datasets|ffcv", need) and "extra" not in need
    ]


def test_the_quick_start_runs_from_an_installed_wheel(wheel: Path, photos: Path) -> None:
    """The environment has nothing but the wheel; a path file lends it the tests' packages, jpegcurr's own not being among them.

    The console script runs what imports no torch, its entry point the rest.
    """
    shutil.copytree(photos, "data/imagenet")
    uv("venv", "fresh", "--python", sys.executable, "--quiet")
    uv("pip", "install", "--python", "fresh/bin/python", "--no-deps", "--quiet", str(wheel))
    (packages,) = Path("fresh/lib").resolve().glob("python*/site-packages")
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()))
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for words, line in (
        ("--version", f"jpegcurr {jpegcurr.__version__}"),
        ("encode --quality 50 --quiet", "betons/val-q50.beton"),
    ):
        command = ["fresh/bin/jpegcurr", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
        assert line in done.stdout
    rest = [
        f"train --recipe two_phase.yaml {SMALL} --quiet",
        "cam runs/two_phase data/imagenet/val --qualities source,50 --device cpu",
    ]
    Path("installed.py").write_text(INSTALLED)
    words = [PYTHON, "installed.py", str(packages), json.dumps([shlex.split(command) for command in rest])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stderr
    modules = [Path(name) for name in done.stdout.splitlines()[-1].split()]
    assert len(modules) > 50
    assert all(module.is_relative_to(packages / "jpegcurr") for module in modules)
    assert "<html" in Path("report.html").read_text()
