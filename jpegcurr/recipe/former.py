"""Fields that recipes of earlier versions lack, and the values that such a recipe stands for."""

from collections.abc import Callable, Mapping
from typing import Any

from jpegcurr.recipe.schema import Recipe

# By section and field: what the earlier version did, given the section. A run keeps it when it is resumed.
_FORMER: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], Any]] = {
    ("model", "freeze_until"): lambda _model: 0,
    ("image", "padding"): lambda _image: 0,
    ("batch", "balance"): lambda _batch: None,
    ("optim", "class_weights"): lambda _optim: None,
    ("image", "mean"): lambda _image: None,
    ("image", "std"): lambda _image: None,
    ("image", "val_resize"): lambda _image: "box",
    ("optim", "layer_ids"): lambda optim: "contiguous" if optim.get("layer_decay") else "authors",
}

# What follows from the run where a recipe omits it (``fit``), and was the same for every run before. A resumed run keeps the
# values that it was started with.
_FITTED = (("schedule", ("lr",)), ("schedule", ("warmup_epochs",)), ("ema", ("decay", "half_life")))
_FORMER_DECAY = 0.9999  # of an average without decay and half_life

_FORMER_ABSENT = {"targets": None, "evaluate_every": 1}  # what did not exist at all, with what earlier versions did


def former_values(tree: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return the value of every field that the resolved recipe ``tree`` lacks because an earlier version wrote it."""
    return {
        (section, field): value(tree.get(section) or {})
        for (section, field), value in _FORMER.items()
        if field not in (tree.get(section) or {})
    }


def fill_former(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved recipe with the fields that it lacks, at their former values."""
    whole = dict(tree)
    for (section, field), value in former_values(tree).items():
        whole[section] = {**(whole.get(section) or {}), field: value}
    if isinstance(ema := whole.get("ema"), Mapping) and ema.get("decay") is None and ema.get("half_life") is None:
        whole["ema"] = {**ema, "decay": _FORMER_DECAY}
    return whole


def omit_former(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved recipe as the earlier version wrote it: without newer fields that have their former values."""
    whole = dict(tree)
    for (section, field), value in _FORMER.items():
        if isinstance(fields := whole.get(section), Mapping) and field in fields and fields[field] == value(fields):
            whole[section] = {name: other for name, other in fields.items() if name != field}
    return {name: value for name, value in whole.items() if name not in _FORMER_ABSENT or value != _FORMER_ABSENT[name]}


def keep_former(recipe: Recipe, tree: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """Return ``recipe`` with what the run of ``tree`` has where ``recipe`` sets nothing itself; and the texts of what was kept.

    ``tree`` is the resolved recipe of a run that ``recipe`` resumes. Kept are former values of fields that it lacks, or states
    because the run was resumed before; and values that follow from a run, which would be others for one that is now longer. The
    texts are such as ``optim.layer_ids=contiguous``.
    """
    kept = []
    for (section, field), former in _FORMER.items():
        fields, own = tree.get(section) or {}, getattr(recipe, section)
        value = former(fields)
        if fields.get(field, value) == value and field not in own.model_fields_set and getattr(own, field) != value:
            recipe = recipe.model_copy(update={section: own.model_copy(update={field: value})})
            kept.append(f"{section}.{field}={value}")
    return _keep_fitted(recipe, fill_former(tree), kept)


def _keep_fitted(recipe: Recipe, tree: Mapping[str, Any], kept: list[str]) -> tuple[Recipe, list[str]]:
    """Return ``recipe`` with the values of ``tree`` for the fields of ``_FITTED`` that it omits."""
    for section, fields in _FITTED:
        own, theirs = getattr(recipe, section), tree.get(section)
        if own is None or not theirs or own.model_fields_set.intersection(fields):
            continue
        if changed := {field: theirs[field] for field in fields if field in theirs and theirs[field] != getattr(own, field)}:
            recipe = recipe.model_copy(update={section: own.model_copy(update=changed)})
            kept += [f"{section}.{field}={value}" for field, value in changed.items() if value is not None]
    return recipe, kept
