"""Choosing between the two loaders, and opening them on the data sets of a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime, torch_threads_kept
from jpegcurr.system import available_cpus, available_memory
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import Datasets
from jpegcurr.training.data.sampling import EpochSampler, Indices, Loader, Variant

MOST_WORKERS = 16  # unless a recipe names more
CACHE_SHARE = 0.8  # of the memory that is free, for the operating system to keep files in


@dataclass(frozen=True, slots=True)
class Loaders:
    """Open loaders: ``train`` on all training sets of the curriculum at once, ``val`` by data set name.

    ``batches`` gives the samples of every training batch of an epoch. ``kind`` is ``ffcv`` or ``plain``; ``reasons`` are the
    sentences that say why, and how files are read.
    """

    train: Loader
    batches: Callable[[int], list[Indices]]
    val: dict[str, Loader]
    kind: str
    reasons: tuple[str, ...]


def open_loaders(recipe: Recipe, datasets: Datasets, runtime: Runtime) -> Loaders:
    """Open one loader on all training sets of ``recipe`` and one on each validation set, so that a swap opens nothing.

    Raises:
        RecipeError: the loader asked for cannot do what is asked.
    """
    world = runtime.world
    workers = loading_workers(world.local_ranks) if recipe.loader.workers == "auto" else recipe.loader.workers
    kind, reason = choose_kind(recipe.loader.kind)
    variants = {name: each.variant for name, each in datasets.train.items()}
    os_cache, cache_reason = choose_cache(recipe, variants)
    train = EpochSampler(
        variants,
        recipe.image,
        train=True,
        batch=recipe.micro(world.ranks),
        step=recipe.batch.size,
        repeats=recipe.batch.repeats,
        seed=recipe.seed,
        workers=workers,
        plans=plan_epochs(recipe),
        order_by=recipe.batch.order,
        os_cache=os_cache,
        skip_broken=recipe.loader.on_error == "skip",
        rank=world.rank,
        ranks=world.ranks,
    )
    seen = partial(EpochSampler.of, image=recipe.image, batch=train.batch, workers=workers, os_cache=os_cache)
    val = {
        name: open_loader(kind, replace(seen(each.variant), rank=world.rank, ranks=world.ranks), runtime)
        for name, each in datasets.val.items()
    }
    return Loaders(open_loader(kind, train, runtime), train.batches, val, kind, (reason, *cache_reason))


def open_loader(kind: str, sampler: EpochSampler, runtime: Runtime) -> Loader:
    """Open one loader of ``kind`` ``ffcv`` or ``plain``."""
    opener: dict[str, Callable[[EpochSampler, Runtime], Loader]] = {"ffcv": _open_ffcv, "plain": _open_plain}
    return opener[kind](sampler, runtime)


def loading_workers(processes: int = 1) -> int:
    """One for every processor, within reason, shared by the processes on this machine."""
    return max(1, min(available_cpus() // processes, MOST_WORKERS))


def choose_kind(asked: str) -> tuple[str, str]:
    """Return ``ffcv`` or ``plain`` and why; raises RecipeError where ``asked`` cannot be had."""
    if asked == "plain":
        return "plain", "loader: plain (asked for)"
    obstacle = _obstacle_to_ffcv()
    if obstacle is None:
        return "ffcv", f"loader: ffcv ({'asked for' if asked == 'ffcv' else 'installed'})"
    if asked == "ffcv":
        raise RecipeError(f"loader.kind: ffcv cannot be used: {obstacle}. Set loader.kind=plain or auto.")
    return "plain", f"loader: plain ({obstacle})"


def _obstacle_to_ffcv() -> str | None:
    if find_spec("ffcv") is None:
        return "ffcv is not installed"
    try:
        with torch_threads_kept():
            import ffcv.libffcv  # noqa: F401  (the part that is compiled)
            import numba
    except (ImportError, OSError) as error:
        return f"ffcv cannot be imported: {error}"
    if not _threads_are_safe(numba.config.THREADING_LAYER):  # type: ignore[attr-defined]
        return "numba has neither TBB nor OpenMP here, and its own threads abort when two loaders are at work"
    return None


def _threads_are_safe(layer: str) -> bool:
    """Whether numba's threading layer may be entered from two threads; ``default`` is the first that can be imported."""
    safe = {"tbb": ("tbbpool",), "omp": ("omppool",), "workqueue": ()}.get(layer, ("tbbpool", "omppool"))
    return any(_imports(f"numba.np.ufunc.{name}") for name in safe)


def _imports(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def choose_cache(recipe: Recipe, variants: Mapping[str, Variant]) -> tuple[bool, tuple[str, ...]]:
    """Whether the system's cache keeps what is read, and the sentence that says why if there is one.

    Raises:
        RecipeError: it should not, and the order would then read everything anew for each batch.
    """
    asked, quasi = recipe.loader.os_cache, recipe.batch.order == "quasi_random"
    if asked is True:
        return True, ()
    if asked is False and not quasi:
        raise RecipeError("loader.os_cache: false needs batch.order: quasi_random; in random order every batch is everywhere.")
    size, free = sum({each.beton.path: each.beton.file_size for each in variants.values()}.values()), available_memory()
    sizes = f"{size / 1e9:.0f} GB of training files, {free / 1e9:.0f} GB of free memory"
    if asked is False:
        return False, (f"files are read ahead and given back ({sizes})",)
    if size <= CACHE_SHARE * free:
        return True, ()
    if quasi:
        return False, (f"files are read ahead and given back: they do not fit ({sizes})",)
    return True, (f"{sizes}: if reading is slow, batch.order=quasi_random reads in long pieces",)


def _open_ffcv(sampler: EpochSampler, runtime: Runtime) -> Loader:
    with torch_threads_kept():
        from jpegcurr.training.data.ffcv_loader import FfcvLoader

    return FfcvLoader(sampler, runtime)


def _open_plain(sampler: EpochSampler, runtime: Runtime) -> Loader:
    from jpegcurr.training.data.thread_loader import PlainLoader

    return PlainLoader(sampler, runtime)
