"""Kinds of values in a recipe: numbers with their limits, words, ramps, JPEG on the fly; and the base of every section."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from jpegcurr.errors import warn_renamed


def _without_nul(path: Path) -> Path:
    if "\0" in str(path):  # the system's calls raise ValueError for it
        raise ValueError("a path cannot contain the character NUL")
    return path


# Every number has a maximum, so that a recipe of anyone's costs no memory and no time before it is refused.
MOST_EPOCHS = 20_000  # the plan and metrics.jsonl have a row for each, and the latter is written whole after each
MOST_PHASES = 1000
MOST_OUTPUTS = 65_536  # with a name each; ImageNet-22k has 21,841 classes
MOST_SETS = 255  # the samplers number data sets in a byte
LARGEST_SIDE = 4096  # pixels: more than photographs have, from which crops are taken
LARGEST_COUNT = 1 << 20  # of images in a step and the like: more than ImageNet has
LARGEST = 1e30  # of rates, strengths, weights and factors: float32 has no room for much more
MOST_WORKERS = 1024
USUAL_PER_DEVICE = 128  # images per forward pass

Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Side = Annotated[int, Field(ge=32, le=LARGEST_SIDE)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
AboveZero = Annotated[float, Field(gt=0, le=LARGEST)]
FilePath = Annotated[Path, AfterValidator(_without_nul)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]
Interpolation = Literal["area", "bilinear", "bicubic"]
ValResize = Literal["shorter_side", "squash", "box"]
Order = Literal["random", "quasi_random"]
Balance = Literal["sqrt", "equal"]
Stage = Literal["before_crop", "after_resize"]
TrainedWeights = Literal["raw", "ema"]


HUBS = ("hf-hub:", "hf_hub:", "local-dir:")


def is_factory(name: str) -> bool:
    """Return whether a model's name has the form ``module:function`` or ``file.py:function``; hubs' have another prefix."""
    where, _, attribute = name.rpartition(":")
    return bool(where) and attribute.isidentifier() and not name.startswith(HUBS)


def _split_words(value: object) -> object:
    return tuple(filter(None, (word.strip() for word in value.split(",")))) if isinstance(value, str) else value


Tracker = Literal["tensorboard", "wandb"]
Trackers = Annotated[tuple[Tracker, ...], BeforeValidator(_split_words)]  # one may be given without a list


class Section(BaseModel):
    """A part of a recipe. Unknown fields are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Ramp(Section):
    """A number that changes linearly over a phase: ``start`` in its first epoch, ``end`` in its last."""

    start: NotNegative
    end: NotNegative

    def at(self, progress: float) -> float:
        """Return the value at ``progress``, from 0 (the phase's first epoch) to 1 (its last)."""
        return self.start + (self.end - self.start) * progress


def _yaml_kind(value: object) -> str:
    if isinstance(value, dict | BaseModel):
        return "a map"
    return "a list" if isinstance(value, list | tuple) else "one value"


# The YAML type of a value decides which member of a union it is, so that an error message is about that member alone.
BY_YAML_KIND = Discriminator(_yaml_kind)
Weight = Annotated[Annotated[NotNegative, Tag("one value")] | Annotated[Ramp, Tag("a map")], BY_YAML_KIND]
Mixture = Annotated[dict[str, Weight], Field(min_length=1, max_length=MOST_SETS)]
AnyQuality = Annotated[
    Annotated[JpegQuality, Tag("one value")]
    | Annotated[tuple[JpegQuality, JpegQuality], Tag("a list")]
    | Annotated[Ramp, Tag("a map")],
    BY_YAML_KIND,
]

_FORMER_STAGES: dict[str, Stage] = {"stored": "before_crop", "view": "after_resize"}


class OnTheFlyJpeg(Section):
    """A beton whose images are encoded again as JPEG, with 4:2:0 chroma, whenever they are loaded.

    ``before_crop`` and ``after_resize`` are different treatments: quality 50 before the crop looks about like quality 85 after
    the resize, because resizing averages away much of the loss.

    Attributes:
        beton: the file.
        quality: JPEG quality, 1 to 100; or ``[low, high]``, from which a quality is drawn for every image and epoch, both ends
            included; or a ramp over the phase.
        stage: ``before_crop`` encodes the whole stored image, which gives the pixels of a beton encoded at that quality.
            ``after_resize`` encodes the small image that the model gets, which degrades it much more.
    """

    beton: FilePath
    quality: AnyQuality
    stage: Stage = "before_crop"

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        """Read ``where: stored`` and ``where: view``, as version 0.1 called the stages; anything else is an unknown key."""
        former = values.get("where") if isinstance(values, dict) and "stage" not in values else None
        if not isinstance(former, str) or former not in _FORMER_STAGES:
            return values
        stage = _FORMER_STAGES[former]
        warn_renamed(f"where: {former}", f"stage: {stage}")
        return {name: value for name, value in values.items() if name != "where"} | {"stage": stage}

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if isinstance(self.quality, Ramp) and not all(1 <= end <= 100 for end in (self.quality.start, self.quality.end)):
            raise ValueError(f"{self.describe()}, leaves the range of JPEG qualities, 1 to 100")
        if isinstance(self.quality, tuple) and self.quality[0] > self.quality[1]:
            raise ValueError(f"quality {list(self.quality)} is not a range: give the smaller number first")
        return self

    @property
    def fixed(self) -> bool:
        """Whether every image has the same quality in every epoch."""
        return isinstance(self.quality, int)

    def describe(self) -> str:
        """Return the quality and the stage in words: ``quality 50, on the fly, before the crop``."""
        if isinstance(self.quality, Ramp):
            quality = f"{self.quality.start:g} to {self.quality.end:g} over the phase"
        else:
            quality = str(self.quality) if isinstance(self.quality, int) else "{} to {} at random".format(*self.quality)
        return f"quality {quality}, on the fly, {self.stage.replace('_', ' the ')}"


ClassWeights = Annotated[
    Annotated[Literal["balanced", "sqrt"], Tag("one value")]
    | Annotated[dict[str, AboveZero], Field(min_length=1), Tag("a map")],
    BY_YAML_KIND,
]
PathOrOnTheFly = Annotated[Annotated[FilePath, Tag("one value")] | Annotated[OnTheFlyJpeg, Tag("a map")], BY_YAML_KIND]


def split_on_the_fly(data: Path | OnTheFlyJpeg) -> tuple[Path, OnTheFlyJpeg | None]:
    """Return the file, and how its images are encoded again when they are loaded; None if they are not."""
    return (data.beton, data) if isinstance(data, OnTheFlyJpeg) else (data, None)
