"""The folder that the Hugging Face hub gets of a run: weights, configuration, recipe and card, and no path of a machine."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import yaml

from jpegcurr.analysis.hub.card import Publication, epochs_trained, public_name, write_card
from jpegcurr.errors import UsageError
from jpegcurr.files import staged, write_text
from jpegcurr.recipe.loading import load_resolved
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import Run, Weights
from jpegcurr.training.models.load import load_run
from jpegcurr.training.run_head import read_head

FILES = ("README.md", "config.json", "model.safetensors", "recipe.yaml")
_ABSOLUTE = re.compile(r"(?:^|[\s\"'=:(])(/(?!/)[\w.@+-]+(?:/[\w.@+-]+)+|[A-Za-z]:\\[^\s\"']+)", re.MULTILINE)


def refuse_folder(folder: Path, *, force: bool) -> None:
    """Raise UsageError unless ``folder`` can be created, or ``force`` is given and it holds nothing but ``FILES``."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"-o {folder} is not a folder. Give the name of a new one.")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in names if name not in FILES]:
        raise UsageError(f"-o {folder} holds more than a model for the hub: {others[0]}. Choose another folder.")
    if names and not force:
        raise UsageError(f"{folder} exists. Choose another place with -o, or replace it with --force.")


def load_for_hub(path: Path, runtime: Runtime, weights: Weights) -> Run:
    """Load the run in ``path`` as ``load_run`` does; raise UsageError also if its network is code that the hub does not get."""
    recipe = path / "recipe.yaml"
    if recipe.is_file() and (factory := load_resolved(recipe).model.factory):
        raise UsageError(
            f"{path} is of a network of your own, {factory}, which timm and transformers could not load from the hub. Push its "
            "model.safetensors yourself, with the code."
        )
    return load_run(path, runtime, weights)


def check_finished(run: Run, *, allow_unfinished: bool) -> None:
    """Raise UsageError if epochs of ``run`` are left to train and ``allow_unfinished`` is not set."""
    done, epochs = epochs_trained(run), run.recipe.epochs
    if done < epochs and not allow_unfinished:
        raise UsageError(
            f"{run.path} is unfinished: {done} of {epochs} epochs are trained. Resume it with jpegcurr train --resume, or push "
            "it as it is with --allow-unfinished, which its card will say."
        )


def write_folder(run: Run, publication: Publication, folder: Path) -> None:
    """Write ``FILES`` of ``run`` into ``folder``; timm and transformers load it.

    Raises:
        UsageError: the run's files are damaged, or one of the texts holds an absolute path.
    """
    weights = run.path if run.weights == "raw" else run.path / run.weights
    texts = {
        "README.md": write_card(run, publication),
        "config.json": (weights / "config.json").read_text(encoding="utf-8"),
        "recipe.yaml": yaml.safe_dump(cut_paths(run.recipe), sort_keys=False),
    }
    for name, text in texts.items():
        _refuse_paths(run, name, text)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    with staged(folder / "model.safetensors") as partial:
        shutil.copyfile(weights / "model.safetensors", partial)


def cut_paths(recipe: Recipe) -> Any:
    """Return a recipe as plain values, with only the last part of every path: folders tell of people and machines."""
    tree = _cut(recipe.model_dump(), recipe.model_dump(mode="json"))
    tree["model"]["name"] = public_name(recipe)
    return tree


def _cut(value: Any, plain: Any) -> Any:
    if isinstance(value, PurePath):
        return value.name
    if isinstance(plain, dict):
        return {key: _cut(inner, plain[str(key)]) for key, inner in value.items()}
    if isinstance(plain, list):
        return [_cut(inner, of_plain) for inner, of_plain in zip(value, plain, strict=True)]
    return plain


def _refuse_paths(run: Run, name: str, text: str) -> None:
    """Raise UsageError if a text names a folder of this machine, or of the one that trained ``run``."""
    inside = next((folder for folder in _private_folders(run) if folder in text), None)
    match = _ABSOLUTE.search(_without_class_names(text)) if name == "config.json" else None
    if path := inside or (match and match[1]):
        raise UsageError(
            f"{name} would tell the hub of {path}, a path of a machine, so nothing was sent. Remove it from the files of "
            f"{run.path}."
        )


def _without_class_names(config: str) -> str:
    """Return a model's configuration without its class names, which may look like paths: ``/m/0dgw9r``."""
    return json.dumps({key: value for key, value in json.loads(config).items() if key != "label_names"})


def _private_folders(run: Run) -> Iterator[str]:
    """Yield the folders of the user, the run and its data, as they would stand in a text; none of one part, such as /data."""
    data = [Path(facts.path).parent for facts in read_head(run.path, "Copy the run's folder again.").data.values()]
    for folder in (Path.home(), run.path.absolute().parent, *data):
        if folder.is_absolute() and len(folder.parts) > 2:
            yield from {str(folder), json.dumps(str(folder))[1:-1]}
