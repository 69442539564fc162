"""Fixtures: the data set and a run, created once, and an empty folder for every test."""

import gc
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forked import python_at
from samples import digests, encode_all, tiny_recipe, write_photos

if TYPE_CHECKING:  # imports of torch take seconds, and neither pytest-xdist's controller nor many a file of tests needs it
    from jpegcurr.runtime import Runtime


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
    needs = {"compiled": _compiled, "ffcv": lambda: find_spec("ffcv") is not None, "gpu": _cuda}
    for mark, there in needs.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and not there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"no {mark} here"))


def pytest_collection_finish() -> None:
    """Exempt what is imported from garbage collection, which would go through a million objects of torch again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or libraries report their own modules as leaked at exit


def _compiled() -> bool:
    from jpegcurr.training.data.loaders import choose_kind

    return choose_kind("auto")[0] == "compiled"


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


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
def betons(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Encode both splits of the photographs at source and quality 50; a test that changes them would change others."""
    folder = tmp_path_factory.mktemp("betons")
    encode_all(photos, folder, ["source", 50])
    before = digests(folder)
    yield folder
    assert digests(folder) == before, "a test has written into the folder that all tests share"


@pytest.fixture(scope="session")
def cpu() -> "Runtime":
    from jpegcurr.runtime import resolve_runtime

    return resolve_runtime("cpu")


@pytest.fixture(scope="session")
def trained(betons: Path, cpu: "Runtime", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the tiny recipe to its end; tests must not change the run."""
    from jpegcurr.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    train(tiny_recipe(betons, folder), folder / "run", runtime=cpu)
    return folder / "run"


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    """Copy that run for a test that changes it."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))
