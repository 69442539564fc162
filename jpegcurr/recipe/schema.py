"""What a run is: every field of a recipe, its default and what it may not be. ``recipe_file`` reads one."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from jpegcurr.errors import did_you_mean, warn_renamed

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


Stage = Literal["before_crop", "after_resize"]
_STAGES_BEFORE: dict[str, Stage] = {"stored": "before_crop", "view": "after_resize"}


class OnTheFlyJpeg(Section):
    """The images of ``beton``, encoded again at JPEG ``quality`` (4:2:0) whenever they are loaded.

    ``quality`` is a number, ``[low, high]`` (drawn anew for each image and epoch, both included) or a ramp over a phase.
    ``stage: before_crop`` encodes the whole image, which gives the pixels of a beton encoded at that quality. ``after_resize``
    encodes what the model sees, which degrades it much more: quality 50 before the crop looks about like 85 after the resize,
    because resizing averages away much of the loss.
    """

    beton: Path
    quality: AnyQuality
    stage: Stage = "before_crop"

    @model_validator(mode="before")
    @classmethod
    def _accept_where(cls, values: Any) -> Any:
        """Read the names that version 0.1 had: ``where: stored`` and ``where: view``."""
        if not isinstance(values, dict) or values.get("where") not in _STAGES_BEFORE or "stage" in values:
            return values
        stage = _STAGES_BEFORE[values["where"]]
        warn_renamed(f"where: {values['where']}", f"stage: {stage}")
        return {name: value for name, value in values.items() if name != "where"} | {"stage": stage}

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
        """Return the quality and the stage in words: ``quality 50, on the fly, before the crop``."""
        if isinstance(self.quality, Ramp):
            quality = f"{self.quality.start:g} to {self.quality.end:g} over the phase"
        else:
            quality = str(self.quality) if isinstance(self.quality, int) else "{} to {} at random".format(*self.quality)
        return f"quality {quality}, on the fly, {self.stage.replace('_', ' the ')}"


PathOrOnTheFly = Annotated[Annotated[Path, Tag("one value")] | Annotated[OnTheFlyJpeg, Tag("a map")], _SHAPE]


def split_on_the_fly(used: Path | OnTheFlyJpeg) -> tuple[Path, OnTheFlyJpeg | None]:
    """The file, and what is done to its images when they are loaded, if anything."""
    return (used.beton, used) if isinstance(used, OnTheFlyJpeg) else (used, None)


class DataSection(Section):
    """One data set: its betons, and the quality that their manifests must say (left out: not checked, not made).

    Instead of a path, ``{beton: PATH, quality: 50}`` is that beton at another quality, made as it is loaded.
    """

    train: PathOrOnTheFly
    val: PathOrOnTheFly | None = None
    quality: JpegQuality | Literal["source"] | None = None

    @model_validator(mode="after")
    def _steady(self) -> Self:
        if isinstance(self.val, OnTheFlyJpeg) and not self.val.fixed:
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


Fraction = Annotated[float, Field(ge=0, lt=1)]
Order = Literal["random", "quasi_random"]


class ModelSection(Section):
    """``name`` is any timm ConvNeXt's (or other timm model's) name; ``drop_path`` its stochastic depth.

    It starts from random weights; or from those that timm has for that name (``pretrained``); or from ``checkpoint``: a file of
    timm's, of the ConvNeXt authors' or a run's folder. A head for another number of classes is begun anew. ``head_init_scale``
    multiplies the head's initial weights, ``layer_scale`` is what ConvNeXt's residual branches are multiplied by at first; left
    out, they are timm's.
    """

    name: str
    drop_path: Fraction = 0.0
    pretrained: bool = False
    checkpoint: Path | None = None
    head_init_scale: Annotated[float, Field(gt=0)] | None = None
    layer_scale: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _starts_once(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained and checkpoint both say where to start: leave one away")
        return self


class BatchSection(Section):
    """``size`` images an optimiser step over all devices, in micro-batches of ``per_device`` (gradients are accumulated).

    With ``repeats`` an epoch takes that share fewer images, each so many times in the same step, cropped and augmented anew
    each time (repeated augmentation, Hoffer et al. 2020): as many steps, and about as many images seen.
    ``order``: ``random`` is any permutation; ``quasi_random`` keeps runs of 128 neighbouring samples close together, so that
    a file larger than the memory is read in long pieces.
    """

    size: Positive = 4096
    per_device: Positive = 128
    repeats: Positive = 1
    order: Order = "random"


class StepDecay(Section):
    """The rate is multiplied by ``factor`` every ``every`` epochs."""

    every: Positive
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class ScheduleSection(Section):
    """Linear warm-up to ``lr``, then a cosine to ``min_lr``; ``lr`` belongs to ``batch.size`` and is not scaled.

    ``horizon`` says where the cosine ends: ``whole`` at the last epoch; ``phase`` at the end of the phase under way, so
    that every swap to a longer plan lifts the learning rate again (a warm restart). ``decay`` takes steps instead of the
    cosine, never below ``min_lr``, counted from epoch 0. Warm-up begins at ``start_factor`` times ``lr``. ``per: epoch`` leaves
    the rate alone within an epoch.
    """

    lr: Annotated[float, Field(gt=0)] = 4e-3
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    start_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    decay: StepDecay | None = None
    per: Literal["step", "epoch"] = "step"
    horizon: Literal["phase", "whole"] = "whole"

    @model_validator(mode="after")
    def _horizon_matters(self) -> Self:
        if self.decay is not None and self.horizon == "phase":
            raise ValueError("horizon: phase is for the cosine; with decay the rate does not depend on where phases end")
        return self


class OptimSection(Section):
    """timm's AdamW, SGD (with momentum, as torch's; ``nesterov`` is Nesterov's) or LAMB.

    ``betas`` (0.9, 0.999) and ``eps`` (1e-8; LAMB 1e-6) are AdamW's and LAMB's, ``momentum`` (0.9) is SGD's. Biases, norms,
    layer scale and GRN are not decayed, unless ``decay_all``. ``layer_decay`` multiplies the rate once for every layer between
    a parameter and the head, layers counted as in the ConvNeXt authors' fine-tuning. ``clip_grad`` is the largest norm of the
    gradient (left out: any; with LAMB 1, as published). ``loss`` is of soft targets: cross-entropy, or binary cross-entropy,
    the mean over images and classes; with ``bce_threshold`` a class whose share is above it counts as wholly there, and any
    other not at all. A loss that is not finite ends the run; with ``on_nan: skip`` a step whose loss or gradient is not is left
    out and counted, for which the device is waited for at every step.
    """

    name: Literal["adamw", "sgd", "nesterov", "lamb"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    decay_all: bool = False
    betas: tuple[Fraction, Fraction] | None = None
    eps: Annotated[float, Field(gt=0)] | None = None
    momentum: Fraction | None = None
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    label_smoothing: Fraction = 0.1
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    bce_threshold: Fraction | None = None
    on_nan: Literal["raise", "skip"] = "raise"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        adaptive = self.name in ("adamw", "lamb")
        idle = ("momentum",) if adaptive else ("betas", "eps")
        for field in idle:
            if getattr(self, field) is not None:
                raise ValueError(f"{field} does nothing with {self.name}: leave it away")
        if self.bce_threshold is not None and self.loss != "bce":
            raise ValueError("bce_threshold does nothing with loss: cross_entropy: leave it away")
        return self


class EmaSection(Section):
    """An average of the weights, updated after every optimiser step from the first on.

    ``decay`` is what it keeps at a step; it then holds about ``1 / (1 - decay)`` steps. Or ``half_life``, in epochs: after so
    many a step's weights have half of their share left. The authors' 0.9999 at batch 4096 of ImageNet is 22 epochs.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    half_life: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.decay is not None and self.half_life is not None:
            raise ValueError("decay and half_life both say how fast it forgets: leave one away")
        return self

    def per_step(self, steps: int) -> float:
        """The decay at a step, of ``steps`` an epoch; 0.9999 where nothing is said."""
        return 0.5 ** (1 / (self.half_life * steps)) if self.half_life else self.decay or 0.9999


class LoaderSection(Section):
    """How samples are read; none of this changes what a run learns, unless samples are broken.

    ``kind``: ``auto`` takes FFCV where it can be imported. ``workers``: threads; 0 is none besides the one that asks (plain) or
    one (FFCV, which takes no more than there are processors).
    ``os_cache``: whether what was read is left to the system's cache; ``false`` reads ahead and gives back, for files larger
    than the memory (with ``batch.order: quasi_random``); ``auto`` decides by the free memory. ``on_error``: a training sample
    that does not decode ends the run, or is replaced by another and counted.
    """

    kind: Literal["auto", "ffcv", "plain"] = "auto"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    os_cache: bool | Literal["auto"] = "auto"
    on_error: Literal["raise", "skip"] = "raise"


class SaveSection(Section):
    """What is kept of a run beside its last state.

    ``last``: the states after so many epochs, in ``checkpoints/``. ``best``: the column of ``metrics.jsonl`` by which an epoch
    is the best so far, whose weights are then in ``best/``: top-1 of the first set in ``evaluate`` if left out.
    """

    last: Positive = 3
    best: str | None = None


class Recipe(Section):
    """A whole run."""

    model: ModelSection
    data: Annotated[dict[str, DataSection], Field(min_length=1)]
    curriculum: Annotated[tuple[Phase, ...], Field(min_length=1)]
    evaluate: tuple[str, ...] = ()
    image: ImageSection = ImageSection()
    augment: AugmentSection = AugmentSection()
    mix: MixSection = MixSection()
    batch: BatchSection = BatchSection()
    schedule: ScheduleSection = ScheduleSection()
    optim: OptimSection = OptimSection()
    ema: EmaSection = EmaSection()
    loader: LoaderSection = LoaderSection()
    tracking: tuple[Literal["tensorboard", "wandb"], ...] = ()
    save: SaveSection = SaveSection()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        previous = 0
        self.micro()
        for number, phase in enumerate(self.curriculum):
            for name in phase.weights(0):
                _known(f"curriculum.{number}.data", name, self.data)
            if phase.until_epoch <= previous:
                raise ValueError(f"curriculum.{number}.until_epoch {phase.until_epoch} is not after epoch {previous}")
            if phase.until_epoch == previous + 1 and self._ramps(phase):
                raise ValueError(f"curriculum.{number} is one epoch long, which holds no ramp: give one number, or more epochs")
            if (phase.lr or self.schedule.lr) < self.schedule.min_lr:
                where = f"curriculum.{number}.lr {phase.lr}" if phase.lr else f"schedule.lr {self.schedule.lr}"
                raise ValueError(f"{where} is less than schedule.min_lr {self.schedule.min_lr}")
            previous = phase.until_epoch
        for number, name in enumerate(self.evaluate):
            _known(f"evaluate.{number}", name, self.data)
            if self.data[name].val is None:
                raise ValueError(f"evaluate.{number} is {name!r}, but data.{name}.val is not given")
        for name in set(self.data) - set(self.trained) - set(self.evaluate):
            raise ValueError(f"data.{name} is trained on in no phase and not in evaluate: name it there, or leave it away")
        if self.save.best is not None and self.save.best not in self.measured:
            hint = did_you_mean(self.save.best, self.measured)
            raise ValueError(f"save.best: {self.save.best!r} is not measured.{hint} evaluate gives: {', '.join(self.measured)}")
        if self.schedule.warmup_epochs >= self.epochs and self.schedule.warmup_epochs > 0:
            raise ValueError(f"schedule.warmup_epochs {self.schedule.warmup_epochs} leaves nothing of {self.epochs} epochs")
        return self

    def _ramps(self, phase: Phase) -> bool:
        weights = [] if isinstance(phase.data, str) else list(phase.data.values())
        treatments = (split_on_the_fly(self.data[name].train)[1] for name in phase.weights(0))
        return any(isinstance(each, Ramp) for each in (*weights, *(each.quality for each in treatments if each)))

    def micro(self, ranks: int = 1) -> int:
        """Images a forward pass on each of ``ranks`` devices; raises ValueError if a step does not divide into such."""
        sizes = {"batch.size": self.batch.size} | {
            f"curriculum.{number}.batch": phase.batch for number, phase in enumerate(self.curriculum) if phase.batch
        }
        micro = min(self.batch.per_device, *(size // ranks for size in sizes.values()))
        for where, size in sizes.items():
            if not micro or size % (micro * ranks):
                devices = f" on each of {ranks} devices" if ranks > 1 else ""
                raise ValueError(f"{where} {size} is not a multiple of batch.per_device {self.batch.per_device}{devices}")
        return micro

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns of ``metrics.jsonl`` that validation gives."""
        kinds = [f"{weights}{score}" for weights in ("", "ema_") for score in ("top1", "top5", "loss")]
        return tuple(f"val/{name}/{kind}" for name in self.evaluate for kind in kinds)

    @property
    def trained(self) -> tuple[str, ...]:
        """The data sets that any phase trains on, in the order of their first."""
        return tuple(dict.fromkeys(name for phase in self.curriculum for name in phase.weights(0)))

    @property
    def epochs(self) -> int:
        """Where the last phase ends."""
        return self.curriculum[-1].until_epoch


def _known(where: str, name: str, data: dict[str, DataSection]) -> None:
    if name not in data:
        raise ValueError(f"{where}: no data set {name!r}.{did_you_mean(name, list(data))} data has: {', '.join(data)}")
