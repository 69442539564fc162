"""The package that travels to a GPU machine without a network: wheels for its Python, images of native size, and how to start.

The wheels are those that jpegcurr and the check's steps need, in the versions of tools/requirements.lock, less what the machine
has (``--have``) and what only that needs. uv resolves for the target's Python and platform, whatever this machine's are.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu.needs import ROOT, TESTS, requirements

LIMIT = 60_000_000  # bytes
IMAGES = 150
# What machines for deep learning have, and what is large: less would not fit into the limit.
HAVE = "torch,torchvision,numpy,numba,llvmlite,scipy,opencv-python-headless,scikit-image,scikit-learn,pytest,hypothesis"
PLATFORMS = (28, 27, 24, 17)  # of manylinux, by glibc's minor version, newest first
TURBOJPEG = "turbojpeg"  # the wheel with libturbojpeg, for a machine without it

START = """\
#!/usr/bin/env bash
# Check jpegcurr on this machine's GPU: bash {name}/start.sh [TREE [OPTIONS OF tools/gpu_check]]
# TREE is a checkout of jpegcurr, the current folder if not given. Nothing is installed into this machine's Python: the wheels
# are unpacked to a temporary folder. PYTHON is the Python that has torch (python3).
set -euo pipefail
pack=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python3}}
tree=${{1:-.}}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
options=(-q --disable-pip-version-check --root-user-action ignore --no-index --no-deps --no-compile)
"$python" -m pip install "${{options[@]}}" --target "$site" "$pack"/wheels/*.whl
PYTHONPATH="$site${{PYTHONPATH:+:$PYTHONPATH}}" "$python" "$tree/tools/gpu_check" "$pack/images" "${{@:2}}"
"""


class PackError(Exception):
    """A package that cannot be made, with the reason and the way out."""


def write_pack(out: Path, folder: Path | None, have: Sequence[str], python: str) -> Iterator[str]:
    """Write ``out`` whole or not at all, and yield what is done; ``folder`` holds the images, None: those that packages ship.

    Raises:
        PackError: uv is missing, a wheel cannot be had, there are no JPEGs, or it is larger than ``LIMIT``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        pack = Path(temporary) / out.name
        (pack / "wheels").mkdir(parents=True)
        yield f"resolving for Python {python} on Linux x86-64, without {', '.join(have)}"
        pinned = resolve(have, python)
        yield " ".join(pinned)
        download(pinned, pack / "wheels", python)
        count = copy_jpegs(folder, pack / "images") if folder else make_photographs(pack / "images")
        (pack / "start.sh").write_text(START.format(name=out.name), "utf-8")
        size = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
        for file in sorted((pack / "wheels").iterdir(), key=lambda file: -file.stat().st_size):
            yield f"{file.stat().st_size / 1e6:>8.2f} MB  {file.name}"
        images = sum(file.stat().st_size for file in (pack / "images").rglob("*") if file.is_file())
        yield f"{images / 1e6:>8.2f} MB  {count} images"
        if size > LIMIT:
            raise PackError(
                f"{size / 1e6:.1f} MB are more than {LIMIT / 1e6:.0f}. Name the large packages that the machine has in --have, "
                "or give a folder of smaller images."
            )
        pack.rename(out)
    yield f"{size / 1e6:.1f} MB in {out}. On the machine, beside a checkout: bash {out.name}/start.sh CHECKOUT --out gpu-check"


def resolve(have: Sequence[str], python: str) -> list[str]:
    """Return ``name==version`` of every package that has to travel."""
    needs = [line for line in [*requirements(), *TESTS, TURBOJPEG] if line not in have]
    with TemporaryDirectory() as name:
        wanted, absent = Path(name, "requirements.in"), Path(name, "overrides.txt")
        wanted.write_text("\n".join(needs) + "\n", "utf-8")
        absent.write_text("".join(f"{package} ; sys_platform == 'never'\n" for package in have), "utf-8")
        command = [find_uv(), "pip", "compile", "-q", str(wanted), "--override", str(absent)]
        command += ["--constraints", str(ROOT / "tools/requirements.lock"), "--python-version", python]
        command += ["--python-platform", "x86_64-manylinux_2_28", "--no-header", "--no-annotate", "--no-emit-index-url"]
        output = run(command, "The packages cannot be resolved")
    return [line.partition(" ")[0] for line in output.splitlines() if "==" in line and not line.startswith(("#", " "))]


def download(pinned: Sequence[str], wheels: Path, python: str) -> None:
    """Download the wheels for the target, which need not be this machine's."""
    platforms = [part for minor in PLATFORMS for part in ("--platform", f"manylinux_2_{minor}_x86_64")]
    platforms += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    command = [find_uv(), "tool", "run", "-q", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp", *platforms]
    run([*command, "-d", str(wheels), *pinned], "A wheel cannot be had")


def find_uv() -> str:
    """Return the path of uv: that of tools/setup.sh, or the user's own."""
    own = ROOT / ".uv/bin/uv"
    uv = shutil.which("uv") or (str(own) if own.is_file() else None)
    if uv is None:
        raise PackError("uv is not installed. tools/setup.sh installs it, as tools/test does; or: pip install uv.")
    return uv


def run(command: Sequence[str], complaint: str) -> str:
    """Run a command and return its output; raise PackError with its last lines if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "UV_NO_PROGRESS": "1"})
    if result.returncode:
        reason = " ".join(" ".join(result.stderr.split("\n")[-8:]).split())
        raise PackError(f"{complaint}: {reason[:600]}")
    return result.stdout


def copy_jpegs(folder: Path, out: Path) -> int:
    """Copy up to ``IMAGES`` JPEGs of a folder, evenly over its classes, to ``<class>/*``; return their number."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise PackError(f"{folder} has no JPEGs. Give a folder with <class>/*.jpg of their native size.")
    chosen = [files[number * len(files) // min(IMAGES, len(files))] for number in range(min(IMAGES, len(files)))]
    for file in chosen:
        target = out / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return len(chosen)


def make_photographs(out: Path) -> int:
    """Write the photographs that scikit-image and scikit-learn ship."""
    run([sys.executable, str(ROOT / "tools/gpu/photographs.py"), str(out)], "The photographs cannot be written")
    return len(list(out.rglob("*.jpg")))
