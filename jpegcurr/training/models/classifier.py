"""Models that are analysed, with their preprocessing: a run, or any other; and the options for those that are no runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from jpegcurr.errors import UsageError
from jpegcurr.recipe.schema import ImageSection, Recipe
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.data.targets import Targets
from jpegcurr.training.metrics import Normaliser

BATCH = 64  # images at a time, for models that were not trained here

Channels = tuple[float, float, float]
Weights = Literal["raw", "ema", "best"]


class Classifier(Protocol):
    """A model and its preprocessing: a ``Run``, or a ``LoadedModel``."""

    @property
    def path(self) -> Path:
        """The run's folder, or the model's name as it was given."""

    @property
    def weights(self) -> str:
        """The kind of a run's weights, or ``own`` for any other model."""

    @property
    def model(self) -> torch.nn.Module:
        """The network, in evaluation mode, on the runtime's device."""

    @property
    def normalise(self) -> Normaliser:
        """The normalisation of the model's inputs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs."""

    @property
    def names_known(self) -> bool:
        """True if ``classes`` are names, not only the numbers of the outputs."""

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them."""

    @property
    def image(self) -> ImageSection:
        """The crop, size and interpolation of the model's inputs."""

    @property
    def loader(self) -> str:
        """The kind of loader that the model was trained with (see ``choose_kind``); ``auto`` if it was not trained here."""

    @property
    def batch(self) -> int:
        """The number of images that are given to the model at a time."""


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model in evaluation mode on the runtime's device, with its recipe, normalisation and class names.

    ``loader`` is the kind of loader that it was trained with. ``names_known`` is False for a run that
    was trained on a beton without a manifest: ``classes`` are then the numbers of the outputs.
    """

    path: Path
    weights: Weights
    recipe: Recipe
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    loader: str
    names_known: bool = True

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them: by the targets of the recipe, if it has any."""
        targets = Targets.of(self.recipe.targets, self.classes)
        return Classes(self.classes, self.names_known, owner=str(self.path), targets=targets)

    @property
    def image(self) -> ImageSection:
        """The crop, size and interpolation that the run was trained with."""
        return self.recipe.image

    @property
    def batch(self) -> int:
        """The number of images of a micro-batch of its training."""
        return self.recipe.micro()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is no run, in evaluation mode on the runtime's device: timm's, a hub's, or one's own.

    ``path`` is its name as it was given. Its preprocessing is what timm's configuration of it says, or the settings, with the
    pixels of timm's transform.
    """

    path: Path
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    image: ImageSection
    names_known: bool = True
    weights: str = "own"
    loader: str = "auto"
    batch: int = BATCH

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them."""
        return Classes(self.classes, self.names_known, owner=str(self.path))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Options for models that are no runs; None where the model itself states the value.

    Attributes:
        checkpoint: a file of weights for timm's model, instead of those that timm downloads.
        mean, std: of the inputs by channel, on the scale 0 to 1.
        size: the side length of the inputs in pixels.
        class_names: the names of the outputs, or a file with one a line.
        factory: ``module:function`` of a run that was trained on a network of one's own. A run names it too, but files alone,
            which may be anyone's, start no code.

    Raises:
        UsageError: ``mean``, ``std`` or ``size`` is impossible.
    """

    checkpoint: Path | None = None
    mean: Channels | None = None
    std: Channels | None = None
    size: int | None = None
    class_names: Path | tuple[str, ...] | None = None
    factory: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers; on the scale 0 to 255, say, a mean would only make a model guess."""
        for name, values, lowest in (("mean", self.mean, 0.0), ("std", self.std, 1e-6)):
            if values is not None and not (len(values) == 3 and all(lowest <= value <= 1 for value in values)):
                shown = ",".join(f"{value:g}" for value in values)
                raise UsageError(f"--{name} {shown}: give three numbers on the scale 0 to 1, such as 0.485,0.456,0.406.")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size} is no side length. Give one in pixels, such as 224.")

    def describe(self) -> str:
        """Return the options for models that are no runs, as they are typed; empty if none is set."""
        names = [name for name in self.__slots__ if name != "factory" and getattr(self, name) is not None]
        return ", ".join(f"--{name.replace('_', '-')}" for name in names)
