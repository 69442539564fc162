"""Fixtures: the data set and a run, created once, and an empty folder for every test."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forked import python_at
from samples import encode_all, tiny_recipe, write_photos

from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.data.loaders import choose_kind
from jpegcurr.training.train import train


def pytest_configure(config: pytest.Config) -> None:
    """Provide ``forked.PYTHON``, one for all processes of pytest-xdist; let Ctrl-C reach the processes that tests start.

    Commands that a shell starts in the background ignore SIGINT, and their children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "JPEGCURR_FORKED_PYTHON" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="forked-"))
        os.environ["JPEGCURR_FORKED_PYTHON"] = str(python_at(folder))
        config.add_cleanup(lambda: shutil.rmtree(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    have = {
        "compiled": choose_kind("auto")[0] == "compiled",
        "ffcv": find_spec("ffcv") is not None,
        "gpu": torch.cuda.is_available(),
    }
    for item in items:
        for mark, there in have.items():
            if item.get_closest_marker(mark) and not there:
                item.add_marker(pytest.mark.skip(reason=f"no {mark} here"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test in a folder of its own, and return the package's log to pytest after it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    logger = logging.getLogger("jpegcurr")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the photographs once; see ``samples.write_photos``."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root)
    return root


@pytest.fixture(scope="session")
def betons(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode both splits of the photographs at source and quality 50."""
    folder = tmp_path_factory.mktemp("betons")
    encode_all(photos, folder, ["source", 50])
    return folder


@pytest.fixture(scope="session")
def cpu() -> Runtime:
    return resolve_runtime("cpu")


@pytest.fixture(scope="session")
def trained(betons: Path, cpu: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the tiny recipe to its end; tests must not change the run."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_recipe(betons, folder), folder / "run", runtime=cpu)
    return folder / "run"


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    """Copy that run for a test that changes it."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))
