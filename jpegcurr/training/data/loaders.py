"""Opening the loaders of a recipe, of one of three kinds, on its training and validation sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime, resolve_runtime, torch_threads_kept
from jpegcurr.system import available_cpus, available_memory
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import Datasets, open_datasets
from jpegcurr.training.data.iteration import TrainLoader, ValLoader
from jpegcurr.training.data.sampling import EpochSampler, Loader, Variant

MOST_WORKERS = 16  # unless a recipe asks for more
_AHEAD = 3  # batches in memory, in all loaders
CACHE_SHARE = 0.8  # of the free memory: training files up to this size are left to the system's cache


@dataclass(frozen=True, slots=True)
class Loaders:
    """Open loaders: ``train`` on all training sets of the curriculum, ``val`` by data set name.

    ``classes`` are the names of the labels in both. ``kind`` is ``compiled``, ``ffcv`` or ``plain``; ``reasons`` are sentences
    for the log: why this loader, and how files are read.
    """

    train: TrainLoader
    val: dict[str, ValLoader]
    classes: tuple[str, ...]
    kind: str
    reasons: tuple[str, ...]


def open_loaders(recipe: Recipe, datasets: Datasets | None = None, runtime: Runtime | None = None) -> Loaders:
    """Open one loader on all training sets of ``recipe``, so that a swap opens nothing, and one on each validation set.

    Without ``datasets`` the recipe's betons are opened here, and missing ones encoded: see ``open_datasets``. Without
    ``runtime`` batches are put on a GPU if there is one.

    Raises:
        RecipeError: the requested loader is not available, or cannot read as requested.
        BetonError: as ``open_datasets`` does.
    """
    datasets = open_datasets(recipe) if datasets is None else datasets
    runtime = resolve_runtime() if runtime is None else runtime
    world = runtime.world
    workers = loading_workers(world.local_ranks) if recipe.loader.workers == "auto" else recipe.loader.workers
    kind, reason = choose_kind(recipe.loader.kind)
    variants = {name: dataset.variant for name, dataset in datasets.train.items()}
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
        balance=recipe.batch.balance,
        os_cache=os_cache,
        skip_broken=recipe.loader.on_error == "skip",
        rank=world.rank,
        ranks=world.ranks,
    )
    sampler_of = partial(EpochSampler.of, image=recipe.image, batch=train.batch, workers=workers, os_cache=os_cache)
    val = {
        name: ValLoader(open_loader(kind, replace(sampler_of(dataset.variant), rank=world.rank, ranks=world.ranks), runtime))
        for name, dataset in datasets.val.items()
    }
    loader = TrainLoader(open_loader(kind, train, runtime), train)
    return Loaders(loader, val, datasets.classes.names, kind, (reason, *cache_reason))


def open_loader(kind: str, sampler: EpochSampler, runtime: Runtime) -> Loader:
    """Open one loader of a kind that ``choose_kind`` returned. Raises RecipeError if its batches do not fit into the memory."""
    _check_memory(sampler)
    sampler = replace(sampler, jpeg_on_device=runtime.jpeg_on_device)
    openers: dict[str, Callable[[EpochSampler, Runtime], Loader]] = {
        "compiled": _open_compiled,
        "ffcv": _open_ffcv,
        "plain": _open_plain,
    }
    return openers[kind](sampler, runtime)


def _check_memory(sampler: EpochSampler) -> None:
    side = max((sampler.size(plan.epoch) for plan in sampler.plans), default=sampler.image.size)
    batch, free = min(sampler.batch, len(sampler.beton)), available_memory()
    needed = 3 * side * side * batch * _AHEAD
    if needed > free:
        raise RecipeError(
            f"image.size: {_AHEAD} batches of {batch} images of {side} x {side} pixels take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of memory are free. Set a smaller batch.per_device or size in the recipe."
        )


def loading_workers(processes: int = 1) -> int:
    """Return the number of loading threads: one per processor, at most 16, divided among the processes on this machine."""
    return max(1, min(available_cpus() // processes, MOST_WORKERS))


def choose_kind(requested: str) -> tuple[str, str]:
    """Return ``compiled``, ``ffcv`` or ``plain``, and the reason: ``auto`` is compiled code wherever that can be had.

    Raises:
        RecipeError: the loader that is asked for by name cannot be used here.
    """
    if requested == "plain":
        return "plain", "loader: plain (asked for)"
    kind = "ffcv" if requested == "ffcv" else "compiled"
    obstacle = _obstacle_to_ffcv() if kind == "ffcv" else _obstacle_to_compiled()
    if obstacle is None:
        return kind, f"loader: {kind} ({'asked for' if requested == kind else 'numba and libturbojpeg are here'})"
    if requested == kind:
        raise RecipeError(f"loader.kind: {kind} cannot be used: {obstacle}. Set loader.kind=auto, or plain.")
    return "plain", f"loader: plain, which is slower ({obstacle})"


def _obstacle_to_compiled() -> str | None:
    if find_spec("numba") is None:
        return "numba is not installed"
    try:
        import jpegcurr.training.data.decode_kernel  # noqa: F401  (which loads libturbojpeg)
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    except OSError as error:  # no libturbojpeg
        return str(error)
    except RuntimeError as error:
        return f"numba has no folder to cache compiled code in: set NUMBA_CACHE_DIR ({error})"
    return None


def _obstacle_to_ffcv() -> str | None:
    if find_spec("ffcv") is None:
        return "ffcv is not installed"
    obstacle = _obstacle_to_compiled()
    if obstacle is not None:
        return obstacle
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
    """Return whether two threads may enter numba's threading layer; ``default`` is the first that can be imported."""
    safe = {"tbb": ("tbbpool",), "omp": ("omppool",), "workqueue": ()}.get(layer, ("tbbpool", "omppool"))
    return any(_imports(f"numba.np.ufunc.{name}") for name in safe)


def _imports(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def choose_cache(recipe: Recipe, variants: Mapping[str, Variant]) -> tuple[bool, tuple[str, ...]]:
    """Return whether to leave files to the system's cache, and the sentences for the log that say why.

    Raises:
        RecipeError: the recipe refuses the cache, but its random order would then read the files again for every batch.
    """
    requested, quasi = recipe.loader.os_cache, recipe.batch.order == "quasi_random"
    if requested is True:
        return True, ()
    if requested is False and not quasi:
        raise RecipeError(
            "loader.os_cache: false would read the files again for every batch in random order. Set batch.order: quasi_random, "
            "or omit loader.os_cache."
        )
    size, free = (
        sum({variant.beton.path: variant.beton.file_size for variant in variants.values()}.values()),
        available_memory(),
    )
    sizes = f"{size / 1e9:.0f} GB of training files, {free / 1e9:.0f} GB of free memory"
    if requested is False:
        return False, (f"files are read ahead, and their pages released ({sizes})",)
    if size <= CACHE_SHARE * free:
        return True, ()
    if quasi:
        return False, (f"files are read ahead, and their pages released: they do not fit into the cache ({sizes})",)
    return True, (f"{sizes}: if reading is slow, try batch.order=quasi_random, which reads long pieces",)


def _open_compiled(sampler: EpochSampler, runtime: Runtime) -> Loader:
    from jpegcurr.training.data.decode_kernel import compile_now, make_compiled
    from jpegcurr.training.data.thread_loader import ThreadLoader, piece_of

    compile_now()
    return ThreadLoader(sampler, runtime, make_compiled, piece_of(sampler))


def _open_ffcv(sampler: EpochSampler, runtime: Runtime) -> Loader:
    with torch_threads_kept():
        from jpegcurr.training.data.ffcv_loader import FfcvLoader

    return FfcvLoader(sampler, runtime)


def _open_plain(sampler: EpochSampler, runtime: Runtime) -> Loader:
    from jpegcurr.training.data.thread_loader import ThreadLoader

    return ThreadLoader(sampler, runtime)
