"""Choosing between the two loaders, and opening one on every data set of a recipe."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from jpegcurr.encoding.beton import Beton
from jpegcurr.encoding.executors import available_cpus
from jpegcurr.errors import RecipeError
from jpegcurr.recipe import ImageSection, Recipe
from jpegcurr.runtime import Runtime, torch_threads_kept
from jpegcurr.training.contract import Loader, View
from jpegcurr.training.datasets import Datasets

MOST_WORKERS = 16  # unless a recipe names more
SCRATCH_SHARE = 0.25  # of this machine's memory


@dataclass(frozen=True, slots=True)
class Loaders:
    """Open loaders by data set name; ``kind`` is ``ffcv`` or ``plain`` and ``reason`` the sentence that says why."""

    train: dict[str, Loader]
    val: dict[str, Loader]
    kind: str
    reason: str


def open_loaders(recipe: Recipe, datasets: Datasets, runtime: Runtime) -> Loaders:
    """Open a loader on every data set of ``recipe``, so that a swap between epochs opens nothing.

    Raises:
        RecipeError: the loader asked for cannot do what is asked.
    """
    scratch = max(ffcv_scratch(each.beton, recipe.batch.micro) for each in [*datasets.train.values(), *datasets.val.values()])
    kind, reason = choose_kind(recipe.loader.kind, recipe.image, scratch)
    workers = loading_workers() if recipe.loader.workers == "auto" else recipe.loader.workers

    def view(beton: Beton, train: bool) -> View:
        batch = recipe.batch
        return View(beton, recipe.image, train, batch.micro, batch.size if train else 1, recipe.seed, workers)

    train = {name: open_loader(kind, view(dataset.beton, True), runtime) for name, dataset in datasets.train.items()}
    val = {name: open_loader(kind, view(dataset.beton, False), runtime) for name, dataset in datasets.val.items()}
    return Loaders(train, val, kind, reason)


def open_loader(kind: str, view: View, runtime: Runtime) -> Loader:
    """Open one loader of ``kind`` ``ffcv`` or ``plain``."""
    opener: dict[str, Callable[[View, Runtime], Loader]] = {"ffcv": _open_ffcv, "plain": _open_plain}
    return opener[kind](view, runtime)


def loading_workers() -> int:
    """One for every processor, within reason."""
    return min(available_cpus(), MOST_WORKERS)


def ffcv_scratch(beton: Beton, batch: int) -> int:
    """Bytes that stock FFCV sets aside to decode into: five batches of the file's largest width times largest height."""
    return 5 * batch * 3 * int(beton.widths.max()) * int(beton.heights.max())


def choose_kind(asked: str, image: ImageSection, scratch: int) -> tuple[str, str]:
    """Return ``ffcv`` or ``plain`` and why; raises RecipeError where ``asked`` cannot be had."""
    if asked == "plain":
        return "plain", "loader: plain (asked for)"
    obstacle = _obstacle_to_ffcv(image, scratch)
    if obstacle is None:
        return "ffcv", f"loader: ffcv ({'asked for' if asked == 'ffcv' else 'installed'})"
    if asked == "ffcv":
        raise RecipeError(f"loader.kind: ffcv cannot be used: {obstacle}. Set loader.kind=plain or auto.")
    return "plain", f"loader: plain ({obstacle})"


def _obstacle_to_ffcv(image: ImageSection, scratch: int) -> str | None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if scratch > memory * SCRATCH_SHARE:
        return f"ffcv would need {scratch / 1e9:.0f} GB to decode into, for the largest image; {memory / 1e9:.0f} GB are there"
    if find_spec("ffcv") is None:
        return "ffcv is not installed"
    if image.interpolation != "area":
        return f"ffcv resizes by area only, image.interpolation is {image.interpolation}"
    try:
        with torch_threads_kept():
            import ffcv.libffcv  # noqa: F401  (the part that is compiled)
    except (ImportError, OSError) as error:
        return f"ffcv cannot be imported: {error}"
    return None


def _open_ffcv(view: View, runtime: Runtime) -> Loader:
    with torch_threads_kept():
        from jpegcurr.training.ffcv_loader import FfcvLoader

    return FfcvLoader(view, runtime)


def _open_plain(view: View, runtime: Runtime) -> Loader:
    from jpegcurr.training.plain_loader import PlainLoader

    return PlainLoader(view, runtime)
