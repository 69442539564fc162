"""Completion in the shell of shipped recipes and studies, runs and models, and fields; none of it imports torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes, YAML files and folders that begin so."""
    from jpegcurr.recipe.loading import shipped_recipes

    return [*_beginning(incomplete, shipped_recipes()), *_files(incomplete)]


def complete_shipped(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin so."""
    from jpegcurr.recipe.loading import shipped_recipes

    return _beginning(incomplete, shipped_recipes())


def complete_study(incomplete: str) -> list[str]:
    """Return the shipped studies, YAML files and folders that begin so."""
    from jpegcurr.recipe.loading import shipped_studies

    return [*_beginning(incomplete, shipped_studies()), *_files(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the files and folders, runs among them, and the models that begin so; no model as long as nothing is typed."""
    from jpegcurr.training.models.names import model_names

    names = _beginning(incomplete, sorted(model_names())) if incomplete else []
    return [*_files(incomplete, suffix=""), *names]


def complete_place(incomplete: str) -> list[str]:
    """Return the sections and fields of a recipe that begin so."""
    from jpegcurr.recipe.fields import all_fields, section_meanings

    return _beginning(incomplete, [*section_meanings(), *(field.place for field in all_fields())])


def complete_override(incomplete: str) -> list[str]:
    """Return the fields of a recipe that begin so, as ``--set`` takes them."""
    from jpegcurr.recipe.fields import all_fields

    return _beginning(incomplete, [f"{field.place}=" for field in all_fields()])


def complete_tracker(incomplete: str) -> list[str]:
    """Return the trackers that begin so."""
    return _beginning(incomplete, ("tensorboard", "wandb"))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str, suffix: str = ".yaml") -> Iterator[str]:
    """Yield the folders, and the files with ``suffix``, that begin so; hidden ones only if a dot is typed."""
    head, slash, tail = incomplete.rpartition("/")
    folder = Path(head + slash or ".")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(tail) and (tail.startswith(".") or not path.name.startswith(".")):
            if path.is_dir():
                yield f"{head}{slash}{path.name}/"
            elif path.name.endswith(suffix):
                yield f"{head}{slash}{path.name}"
