"""Which images a run sees, in which epochs, and what is made of them: the sections of a recipe about data."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Positive = Annotated[int, Field(ge=1)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]
Interpolation = Literal["area", "bilinear", "bicubic"]


class Section(BaseModel):
    """A part of a recipe: no field that is not known, nothing changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Ramp(Section):
    """A number that goes in a line from ``start`` in the first epoch of a phase to ``end`` in its last, another one."""

    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]

    def at(self, progress: float) -> float:
        """The value at ``progress``, 0 (the phase's first epoch) to 1 (its last)."""
        return self.start + (self.end - self.start) * progress


# What a value is meant to be is told by its YAML type, so that an error is about that one.
def _shape(value: object) -> str:
    if isinstance(value, dict | BaseModel):
        return "a map"
    return "a list" if isinstance(value, list | tuple) else "one value"


_SHAPE = Discriminator(_shape)
Weight = Annotated[Annotated[float, Field(ge=0), Tag("one value")] | Annotated[Ramp, Tag("a map")], _SHAPE]
AnyQuality = Annotated[
    Annotated[JpegQuality, Tag("one value")]
    | Annotated[tuple[JpegQuality, JpegQuality], Tag("a list")]
    | Annotated[Ramp, Tag("a map")],
    _SHAPE,
]


class Reencoded(Section):
    """The images of ``beton``, encoded again at JPEG ``quality`` (4:2:0) whenever they are loaded.

    ``quality`` is a number, ``[low, high]`` (drawn anew for each image and epoch, both included) or a ramp over a phase.
    ``where: stored`` does it to the whole image before the crop, which gives the pixels of a beton encoded at that quality;
    ``view`` to what the model sees, after the resize, which is another and much stronger treatment: a stored quality 50 looks
    about like a view at 85, because resizing averages away much of what was lost.
    """

    beton: Path
    quality: AnyQuality
    where: Literal["stored", "view"] = "stored"

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if isinstance(self.quality, Ramp) and not all(1 <= end <= 100 for end in (self.quality.start, self.quality.end)):
            raise ValueError(f"{self.describe()}, leaves the range of JPEG qualities, 1 to 100")
        if isinstance(self.quality, tuple) and self.quality[0] > self.quality[1]:
            raise ValueError(f"quality {list(self.quality)} is not a range, the smaller first")
        return self

    @property
    def fixed(self) -> bool:
        """Whether every image has the same quality in every epoch."""
        return isinstance(self.quality, int)

    def describe(self) -> str:
        """``quality 50 at load, stored``."""
        if isinstance(self.quality, Ramp):
            quality = f"{self.quality.start:g} to {self.quality.end:g} over the phase"
        else:
            quality = str(self.quality) if isinstance(self.quality, int) else "{} to {} at random".format(*self.quality)
        return f"quality {quality}, at load, {self.where}"


PathOrReencoded = Annotated[Annotated[Path, Tag("one value")] | Annotated[Reencoded, Tag("a map")], _SHAPE]


def split_treatment(used: Path | Reencoded) -> tuple[Path, Reencoded | None]:
    """The file, and what is done to its images when they are loaded, if anything."""
    return (used.beton, used) if isinstance(used, Reencoded) else (used, None)


class DataSection(Section):
    """One data set: its betons, and the quality that their manifests must say (left out: not checked, not made).

    Instead of a path, ``{beton: PATH, quality: 50}`` is that beton at another quality, made as it is loaded.
    """

    train: PathOrReencoded
    val: PathOrReencoded | None = None
    quality: JpegQuality | Literal["source"] | None = None

    @model_validator(mode="after")
    def _steady(self) -> Self:
        if isinstance(self.val, Reencoded) and not self.val.fixed:
            raise ValueError("val.quality is not one number: a validation set has to be the same in every epoch")
        return self


class AugmentSection(Section):
    """What is done to training images on the device, after crop and flip and before they are mixed.

    ``policy`` is timm's RandAugment (``rand-m9-mstd0.5-inc1``) or ``trivial``, torchvision's TrivialAugmentWide; without one,
    ``color_jitter`` is the strength of brightness, contrast and saturation. ``erase`` is the probability of random erasing, by
    ``erase_fill``: timm's ``pixel`` noise, or torchvision's ``const`` 0, the mean colour.
    """

    policy: str | None = None
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    erase_fill: Literal["pixel", "const"] = "pixel"

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.policy is not None and self.color_jitter:
            raise ValueError("color_jitter does nothing beside a policy, as in timm: leave one away")
        return self


class Phase(Section):
    """Train on ``data`` until ``until_epoch`` (exclusive; epochs count from 0).

    ``data`` is the name of a data set, or a mixture: names with weights, from which each sample's data set is drawn in every
    epoch. A weight may be a ramp. ``size`` is what training sees in this phase instead of ``image.size``, pixels a side,
    ``batch`` the images of a step instead of ``batch.size``, ``lr`` the peak rate instead of ``schedule.lr`` (a batch does not
    scale it), and ``augment`` the whole section instead of the recipe's.
    """

    data: Annotated[Annotated[str, Tag("one value")] | Annotated[dict[str, Weight], Field(min_length=1), Tag("a map")], _SHAPE]
    until_epoch: Positive
    size: Annotated[int, Field(ge=32)] | None = None
    batch: Positive | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    augment: AugmentSection | None = None

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        for progress in (0.0, 1.0):
            if sum(self.weights(progress).values()) <= 0:
                raise ValueError("data: the weights of a mixture must not all be 0")
        return self

    def weights(self, progress: float) -> dict[str, float]:
        """The data sets' shares at ``progress`` (0 to 1) of the phase, not normalised."""
        if isinstance(self.data, str):
            return {self.data: 1.0}
        return {name: each.at(progress) if isinstance(each, Ramp) else each for name, each in self.data.items()}


class ImageSection(Section):
    """What the model sees.

    ``size`` pixels a side; training crops by torchvision's random-resized rule (``scale`` of the area, aspect ``ratio``)
    and flips with probability ``hflip``; validation takes the centre square of ``val_crop`` times the shorter side; or, with
    ``val_crop: squash`` (timm's crop mode), the whole image whatever its shape, as ConvNeXt's authors do from 384 pixels on.
    """

    size: Annotated[int, Field(ge=32)] = 224
    interpolation: Interpolation = "bicubic"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    val_crop: Annotated[float, Field(gt=0, le=1)] | Literal["squash"] = 224 / 256

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} is not two shares of the area, the smaller first, above 0 and up to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {list(self.ratio)} is not two aspect ratios, the smaller first, above 0")
        return self


class MixSection(Section):
    """Mixup and CutMix, by the ``alpha`` of the beta distribution that shares are drawn from (0: none).

    One share for a chunk of ``chunk`` images, each mixed with its mirror in the chunk, as published (32 shares in a step of
    4096); a micro-batch that is smaller is one chunk. With ``prob`` a chunk is mixed at all; with both, it is cut with
    ``switch_prob``.
    """

    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    prob: Annotated[float, Field(ge=0, le=1)] = 1.0
    switch_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    chunk: Annotated[int, Field(ge=2)] = 128
