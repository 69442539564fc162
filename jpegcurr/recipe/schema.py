"""The recipe: every field of a training run, its unit, its default and its limits.

``Recipe``, at the end, is the whole. Before it come its sections, in the order in which it names them. The kinds of values that
several sections share are in ``values``. ``loading`` reads a recipe from a YAML file. It is one long file because it is the
reference of all fields, which readers search in one place.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator

from jpegcurr.errors import did_you_mean
from jpegcurr.recipe.fit import fit_half_life, fit_rate, fit_warmup
from jpegcurr.recipe.shares import check_shares, largest_shares
from jpegcurr.recipe.values import (
    BY_YAML_KIND,
    LARGEST_COUNT,
    LARGEST_SIDE,
    MOST_EPOCHS,
    MOST_OUTPUTS,
    MOST_PHASES,
    MOST_SETS,
    MOST_WORKERS,
    USUAL_PER_DEVICE,
    AboveZero,
    Balance,
    ClassWeights,
    FilePath,
    Fraction,
    Interpolation,
    JpegQuality,
    Mixture,
    NotNegative,
    OnTheFlyJpeg,
    Order,
    PathOrOnTheFly,
    Positive,
    Probability,
    Ramp,
    Section,
    Side,
    Tracker,
    Trackers,
    TrainedWeights,
    ValResize,
    is_factory,
    split_on_the_fly,
)


class ModelSection(Section):
    """The network, and the weights that it starts from. The default is random weights.

    Attributes:
        name: any timm model, such as ``convnext_tiny``; one of ``convnext_isotropic_{small,base,large}``; a step from ResNet to
            ConvNeXt, such as ``roadmap50_5c``; ``hf-hub:NAME`` or ``local-dir:FOLDER``; or your own, ``module:function`` or
            ``file.py:function``, which returns an ``nn.Module`` and gets those of ``num_classes``, ``drop_path_rate`` and
            ``pretrained`` that it has parameters for.
        drop_path: stochastic depth: the probability of dropping the last residual branch. 0 disables it.
        pretrained: start from the weights that timm publishes under ``name``.
        checkpoint: start from this file of timm's, the ConvNeXt authors', torchvision's, mmpretrain's, transformers' or
            EfficientNet-Lite's weights, or from the folder of a run. A classifier for another number of classes is
            re-initialised.
        head_init_scale: factor on the initial weights of a new classifier, for any model of timm's. None keeps timm's
            initialisation, with which the loss of an EfficientNet starts far above that of guessing.
        layer_scale: initial factor on ConvNeXt's residual branches. None keeps timm's.
        freeze_until: the first epoch that trains all weights; before it, the classifier alone is trained. The rest then has no
            gradients and is in evaluation mode: batch norm uses and keeps the statistics that it came with, and no path is
            dropped. 0 freezes nothing; the number of epochs trains nothing but the classifier.
    """

    name: str
    drop_path: Fraction = 0.0
    pretrained: bool = False
    checkpoint: FilePath | None = None
    head_init_scale: AboveZero | None = None
    layer_scale: AboveZero | None = None
    freeze_until: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = 0

    @property
    def factory(self) -> str | None:
        """The user's own function that returns the network, ``module:function``; None if it is timm's or a hub's."""
        return self.name if is_factory(self.name) else None

    @property
    def is_trained(self) -> bool:
        """Whether the weights that it starts from are trained already, as far as the recipe says."""
        return self.pretrained or self.checkpoint is not None

    @model_validator(mode="after")
    def _check_one_start(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained and checkpoint both name initial weights: omit one of them")
        if self.freeze_until and not (self.is_trained or self.factory):
            raise ValueError("freeze_until would freeze random weights: set pretrained or checkpoint, or omit it")
        return self


class DataSection(Section):
    """One data set. Instead of a path, ``{beton: PATH, quality: 50}`` is that file, encoded again whenever it is loaded.

    Attributes:
        train: training images.
        val: validation images. None: this data set is not evaluated on.
        quality: JPEG quality that the manifests of ``train`` and ``val`` must state, 1 to 100 or ``source`` (the original
            bytes). A file that does not exist is encoded at this quality. None: nothing is checked or encoded.
    """

    train: PathOrOnTheFly
    val: PathOrOnTheFly | None = None
    quality: JpegQuality | Literal["source"] | None = None

    @model_validator(mode="after")
    def _check_val_is_fixed(self) -> Self:
        if isinstance(self.val, OnTheFlyJpeg) and not self.val.fixed:
            raise ValueError("val.quality is not one number: a validation set has to be the same in every epoch")
        return self


class AugmentSection(Section):
    """Augmentation of training images on the device, after crop and flip and before mixup.

    Attributes:
        policy: timm's RandAugment, such as ``rand-m9-mstd0.5-inc1``, or ``trivial`` for torchvision's TrivialAugmentWide. None
            disables it.
        color_jitter: strength of random brightness, contrast and saturation, as in torchvision. 0 disables it. Needs
            ``policy: null``.
        erase: probability of erasing a random rectangle. 0 disables it.
        erase_fill: content of the rectangle: timm's ``pixel`` noise, or torchvision's ``const``, the mean colour.
    """

    policy: str | None = None
    color_jitter: NotNegative = 0.0
    erase: Probability = 0.0
    erase_fill: Literal["pixel", "const"] = "pixel"

    @model_validator(mode="after")
    def _check_jitter_is_used(self) -> Self:
        if self.policy is not None and self.color_jitter:
            raise ValueError("color_jitter does nothing beside a policy, as in timm: omit one of them")
        return self


class Phase(Section):
    """A part of the curriculum: which data the epochs before ``until_epoch`` train on, and what else they change.

    Attributes:
        data: the name of a data set; or a mixture, ``{name: weight}``, from which a data set is drawn for every sample and
            epoch in proportion to the weights. A weight may be a ramp over the phase.
        until_epoch: the first epoch after this phase. Epochs count from 0.
        size: side of the training crops in pixels. None: ``image.size``.
        batch: images per optimiser step. None: ``batch.size``.
        lr: peak learning rate. None: ``schedule.lr``; it is not scaled with ``batch``.
        augment: replaces the whole ``augment`` section of the recipe. None: that section.
    """

    data: Annotated[Annotated[str, Tag("one value")] | Annotated[Mixture, Tag("a map")], BY_YAML_KIND]
    until_epoch: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    size: Side | None = None
    batch: Positive | None = None
    lr: AboveZero | None = None
    augment: AugmentSection | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        for progress in (0.0, 1.0):
            if sum(self.weights(progress).values()) <= 0:
                raise ValueError("data: the weights of a mixture must not all be 0")
        return self

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weight of every data set at ``progress`` (0 to 1) of the phase, not normalised."""
        if isinstance(self.data, str):
            return {self.data: 1.0}
        return {name: weight.at(progress) if isinstance(weight, Ramp) else weight for name, weight in self.data.items()}


class ImageSection(Section):
    """The images that the model gets: square crops.

    Attributes:
        size: side of the crops in pixels.
        interpolation: filter of the resize: OpenCV's ``area``, antialiased ``bilinear`` (in training torch's, in validation
            Pillow's) or Pillow's ``bicubic``.
        scale: smallest and largest area of a training crop (torchvision's RandomResizedCrop), as shares of the image.
        ratio: smallest and largest aspect ratio of a training crop, width by height.
        padding: training images are the centre square, resized to ``size`` and shifted at random by at most this many pixels
            each way, with black where nothing is: the crop of an image padded so, usual on CIFAR with 4 for 32 pixels. It takes
            the place of ``scale`` and ``ratio``. 0: crops by these.
        hflip: probability of mirroring a training image.
        val_crop: side of the centre square that validation takes, as a share of the shorter side; ``squash`` takes the whole
            image and changes its aspect ratio (timm's crop mode), as ConvNeXt's authors do from 384 pixels on.
        mean, std: mean and standard deviation by which inputs are normalised: red, green, blue, on the scale 0 to 1. None:
            those in timm's configuration of the model, which the log names.
        val_resize: what validation resizes. ``shorter_side``: the image, until its shorter side is ``size / val_crop`` pixels
            (rounded down); the centre square is then cut out of the result, with torchvision's and timm's pixels. ``squash``:
            the same with both sides, as timm does with ``squash`` and a crop. ``box``: only the centre square, cut out of the
            image in whole pixels, as FFCV does, and jpegcurr did before this field. ``area`` has no other way than ``box``.
    """

    size: Side = 224
    interpolation: Interpolation = "bicubic"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: Annotated[int, Field(ge=0, lt=LARGEST_SIDE)] = 0
    hflip: Probability = 0.5
    val_crop: Annotated[float, Field(gt=0, le=1)] | Literal["squash"] = 224 / 256
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    val_resize: ValResize = "shorter_side"

    @property
    def squashed(self) -> bool:
        """True if validation changes the aspect ratio."""
        return "squash" in (self.val_crop, self.val_resize)

    @property
    def val_share(self) -> float:
        """The side of the validation crop, as a share of what it is cut out of."""
        return 1.0 if self.val_crop == "squash" else self.val_crop

    @model_validator(mode="before")
    @classmethod
    def _take_the_box_by_area(cls, values: Any) -> Any:
        by_area = isinstance(values, dict) and values.get("interpolation") == "area" and "val_resize" not in values
        return values | {"val_resize": "box"} if by_area else values

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.interpolation == "area" and self.val_resize != "box":
            raise ValueError(f"val_resize: {self.val_resize} needs bilinear or bicubic, not area: omit it, or set it to box")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} is not two shares of the area: 0 < smaller <= larger <= 1")
        if not 0.001 <= self.ratio[0] <= self.ratio[1] <= 1000:
            raise ValueError(f"ratio {list(self.ratio)} is not two aspect ratios: 0.001 <= smaller <= larger <= 1000")
        return self

    @model_validator(mode="after")
    def _check_padding(self) -> Self:
        fields = type(self).model_fields
        for name in ("scale", "ratio"):  # a resolved recipe states both, at their defaults
            if self.padding and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} does nothing with padding, whose crop is another: omit one of them")
        if self.padding >= self.size:
            raise ValueError(f"padding {self.padding} could shift all of {self.size} pixels out of sight: 4 is usual for 32")
        return self

    @model_validator(mode="after")
    def _check_normalisation(self) -> Self:
        if (self.mean is None) != (self.std is None):
            given, other = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(
                f"{given} without {other}: inputs are normalised by both. Give both, or neither for the model's own"
            )
        for name, values in (("mean", self.mean or ()), ("std", self.std or ())):
            if max(values, default=0) > 1 and all(0 <= value <= 255 for value in values):
                scaled = ", ".join(f"{value / 255:.4g}" for value in values)
                raise ValueError(f"{name} {list(values)} is on the scale 0 to 255, and 0 to 1 is needed: [{scaled}]")
            if not all(0 <= value <= 1 for value in values) or (name == "std" and 0 in values):
                limits = "from 0 to 1" if name == "mean" else "above 0 and at most 1"
                raise ValueError(f"{name} {list(values)} is not three numbers {limits}")
        return self


class MixSection(Section):
    """Mixup and CutMix of training images, chunk by chunk: one share is drawn for all images of a chunk.

    Every image is mixed with its mirror position in the chunk, as in timm's batch mode.

    Attributes:
        mixup: alpha of the beta distribution of mixup's shares. 0 disables mixup.
        cutmix: alpha of the beta distribution of CutMix's shares. 0 disables CutMix.
        prob: probability that a chunk is mixed at all.
        switch_prob: probability of CutMix instead of mixup where both are enabled.
        chunk: images per chunk. The default of 128 gives 32 shares in a step of 4096, as published. A smaller micro-batch is
            one chunk.
    """

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    prob: Probability = 1.0
    switch_prob: Probability = 0.5
    chunk: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = 128


class BatchSection(Section):
    """The images of an optimiser step, and the order in which an epoch takes them.

    Attributes:
        size: images per optimiser step, over all devices.
        per_device: images per forward pass on one device (a micro-batch); their gradients are accumulated. ``auto``: 128, or on
            a GPU the double, fourfold and so on that its memory holds, as long as that divides the steps. The log says how
            many, and mixing stays that of 128 or of ``mix.chunk``. Networks with batch norm keep 128.
        repeats: repeated augmentation (Hoffer et al. 2020): every image occurs this many times in a step, each time cropped and
            augmented differently. An epoch then takes that many times fewer distinct images, in as many steps.
        order: ``random`` is any permutation. ``quasi_random`` keeps runs of 128 neighbouring samples close together, so that
            a file larger than memory is read in long pieces.
        balance: draw training images by their class: of every class about as many (``equal``), or in proportion to the root of
            its number of images (``sqrt``). An epoch stays as long: images of small classes come several times, cropped and
            augmented differently, and of large ones some are left out, others in every epoch. Validation is never balanced.
            None: every image once.
    """

    size: Positive = 4096
    per_device: Positive | Literal["auto"] = USUAL_PER_DEVICE
    repeats: Positive = 1
    order: Order = "random"
    balance: Balance | None = None


class StepDecay(Section):
    """Steps of the learning rate.

    Attributes:
        every: number of epochs between two steps, counted from epoch 0.
        factor: what a step multiplies the learning rate by.
    """

    every: Positive
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class ScheduleSection(Section):
    """The learning rate: linear warm-up to ``lr``, then a cosine down to ``min_lr``.

    Attributes:
        lr: peak learning rate. One that is given belongs to ``batch.size`` and is not scaled with it. Omitted, it fits: for
            AdamW 4e-3 for batches of 4096, or 1e-4 for 64 of weights that are trained already, scaled by the root of the batch.
        min_lr: lower limit of the learning rate after warm-up.
        warmup_epochs: length of the warm-up. 0 disables it. Omitted: a tenth of the epochs, at most 20.
        start_factor: the warm-up starts at this factor times ``lr``.
        decay: steps instead of the cosine. None: the cosine.
        per: update the rate at every ``step``, or only at every ``epoch``.
        horizon: where the cosine ends. ``whole``: at the last epoch. ``phase``: at the end of the current phase, so that every
            swap raises the learning rate again (a warm restart). A number: at this epoch, and from there on as with ``phase``,
            which trains a finished run for longer.
    """

    lr: AboveZero = 4e-3
    min_lr: NotNegative = 1e-6
    warmup_epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = 20
    start_factor: Probability = 0.0
    decay: StepDecay | None = None
    per: Literal["step", "epoch"] = "step"
    horizon: Literal["phase", "whole"] | Positive = "whole"

    @model_validator(mode="after")
    def _check_horizon_is_used(self) -> Self:
        if self.decay is not None and self.horizon != "whole":
            raise ValueError(
                f"horizon: {self.horizon} is for the cosine; with decay the rate does not depend on where phases end"
            )
        return self


class OptimSection(Section):
    """The optimiser and the loss. Optimisers are timm's.

    Attributes:
        name: ``adamw``; ``sgd`` with momentum as in torch; ``nesterov``, SGD with Nesterov momentum; or ``lamb``.
        weight_decay: coefficient of the weight decay. 0 disables it.
        decay_all: also decay biases, normalisation weights, layer scale and GRN, which are exempt by default.
        betas: of AdamW and LAMB. None: (0.9, 0.999).
        eps: of AdamW and LAMB. None: 1e-8 and 1e-6.
        momentum: of SGD. None: 0.9.
        layer_decay: factor on the learning rate for every layer between a parameter and the classifier, with layers counted as
            in the ConvNeXt authors' fine-tuning. None: one rate for all.
        layer_ids: number of ConvNeXt's last stage among these layers. ``authors``: 12, whatever the depth, as in the authors'
            code. ``contiguous``: the next one after those of the third stage, so that smaller ConvNeXts than S have fewer
            layers, whose rates are higher; S to XL have the same layers either way.
        clip_grad: maximum gradient norm. None disables clipping, except for LAMB, whose published default is 1.
        label_smoothing: share of every target that is spread over all classes. 0 disables it.
        loss: of the raw outputs against the targets: ``cross_entropy``, with softmax; ``bce``, binary cross-entropy, with
            sigmoid; ``l1`` and ``mse``, absolute and squared differences. All but the first are means over classes too.
        class_weights: what a class counts in the loss: ``balanced``, one over its number of training images; ``sqrt``, one over
            the root of that; or weights by name, 1 for classes that are not named. They are scaled so that their mean over the
            training images is 1. They multiply a target's shares where these meet the logarithm of the probability (torch's
            ``weight``; of ``bce``, ``pos_weight``), after smoothing and mixing; ``l1`` and ``mse`` have no place for it. Losses
            of validation have none.
        bce_threshold: a class whose share of a mixed target is above it counts as fully present, any other as absent. None:
            the shares themselves are the targets.
        on_nan: ``raise`` ends the run when the loss is not finite. ``skip`` omits and counts a step whose loss or gradient is
            not finite, at the price of waiting for the device at every step.
    """

    name: Literal["adamw", "sgd", "nesterov", "lamb"] = "adamw"
    weight_decay: NotNegative = 0.05
    decay_all: bool = False
    betas: tuple[Fraction, Fraction] | None = None
    eps: AboveZero | None = None
    momentum: Fraction | None = None
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    layer_ids: Literal["authors", "contiguous"] = "authors"
    clip_grad: AboveZero | None = None
    label_smoothing: Fraction = 0.1
    loss: Literal["cross_entropy", "bce", "l1", "mse"] = "cross_entropy"
    class_weights: ClassWeights | None = None
    bce_threshold: Fraction | None = None
    on_nan: Literal["raise", "skip"] = "raise"

    @model_validator(mode="after")
    def _check_fields_are_used(self) -> Self:
        adaptive = self.name in ("adamw", "lamb")
        for field in ("momentum",) if adaptive else ("betas", "eps"):
            if getattr(self, field) is not None:
                raise ValueError(f"{field} does nothing with {self.name}: omit it")
        if self.bce_threshold is not None and self.loss != "bce":
            raise ValueError(f"bce_threshold does nothing with loss: {self.loss}: omit it")
        if self.class_weights is not None and self.loss in ("l1", "mse"):
            raise ValueError(f"class_weights are for cross_entropy and bce, not for loss: {self.loss}: omit them")
        if self.layer_decay is None and self.layer_ids != "authors":
            raise ValueError(f"layer_ids: {self.layer_ids} does nothing without layer_decay: omit it")
        return self


def _require_text(values: object) -> object:
    """Refuse keys that YAML reads as numbers or as true and false, and not as names of classes."""
    if isinstance(values, dict) and (odd := [key for key in values if not isinstance(key, str)]):
        raise ValueError(f"{odd[0]!r} is no text in YAML: put the name of a class into quotes")
    return values


def _read_row(value: object) -> object:
    if not isinstance(value, str | dict):
        raise ValueError(f"{value!r} is neither the name of an output, in quotes if it is a number, nor a map of shares")
    return {value: 1.0} if isinstance(value, str) else _require_text(value)


def _check_row(row: dict[str, float]) -> dict[str, float]:
    row = check_shares(row)
    if len(tied := largest_shares(row)) > 1:
        raise ValueError(f"{tied[0]!r} and {tied[1]!r} have the same share: the truth is the largest one, so let one be larger")
    return row


TargetRow = Annotated[
    dict[str, float], BeforeValidator(_read_row), AfterValidator(_check_row), Field(min_length=1, max_length=MOST_OUTPUTS)
]


class TargetsSection(Section):
    """Targets other than the class of an image itself: distributions over the outputs, by class or by image.

    Attributes:
        outputs: the names of the model's outputs, in order. None: the classes of the data.
        map: for every class of the data a distribution over the outputs, ``{cat: 0.7, dog: 0.3}``, or the name of one of them,
            which merges classes. The largest share is the truth that accuracy counts.
        per_image: take the shares of every image from its beton, which has them where the table of labels had a column
            ``p_CLASS`` for every class. With ``map`` they are shares of its rows.
    """

    outputs: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_OUTPUTS)] | None = None
    map: Annotated[dict[str, TargetRow], BeforeValidator(_require_text), Field(max_length=MOST_OUTPUTS)] = {}  # noqa: RUF012  # pydantic copies it
    per_image: bool = False

    def check(self) -> None:
        """Raise ValueError, with the field, if outputs and rows do not belong together."""
        if not self.map and not self.per_image:
            raise ValueError("targets needs map, or per_image: true; without them the classes are the targets: omit it")
        if self.outputs is None:
            return
        if not self.map:
            raise ValueError("targets.outputs does nothing without map: omit it")
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("targets.outputs: an output is named twice. Every output needs a name of its own")
        for name, row in self.map.items():
            if unknown := [output for output in row if output not in self.outputs]:
                hint = did_you_mean(unknown[0], self.outputs)
                raise ValueError(f"targets.map.{name}: {unknown[0]!r} is not among targets.outputs.{hint}")
        self.check_reached(self.outputs)

    def check_reached(self, outputs: Iterable[str]) -> None:
        """Raise ValueError if no row gives one of ``outputs`` a share."""
        reached = {output for row in self.map.values() for output, share in row.items() if share > 0}
        if idle := [output for output in outputs if output not in reached]:
            raise ValueError(f"targets.outputs: no class has a share of {idle[0]!r}. Give it one in targets.map, or omit it")


class EmaSection(Section):
    """An exponential moving average of the weights, updated after every optimiser step.

    Without either field, half_life is a tenth of the epochs, at most 22, which is the authors' decay of 0.9999 at batch 4096 of
    ImageNet. ``ema: null`` keeps no average: the run then has no ``ema`` folder and no columns such as ``val/clean/ema_top1``.

    Attributes:
        decay: share that the average keeps at a step; it then covers about ``1 / (1 - decay)`` steps.
        half_life: epochs after which the weights of a step have lost half of their share.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    half_life: AboveZero | None = None

    @model_validator(mode="after")
    def _check_one_speed(self) -> Self:
        if self.decay is not None and self.half_life is not None:
            raise ValueError("decay and half_life both set the speed of the average: omit one of them")
        return self

    def per_step(self, steps: int) -> float:
        """Return the decay of one step, where an epoch has ``steps``."""
        return 0.5 ** (1 / (self.half_life * steps)) if self.half_life else self.decay or 0.9999


class LoaderSection(Section):
    """How samples are read. Nothing here changes what a run learns, unless samples are broken.

    Attributes:
        kind: ``compiled`` (threads that run compiled code: numba and libturbojpeg), ``plain`` (threads without a compiler),
            ``ffcv`` (the same compiled code in FFCV's loader), or ``auto``: ``compiled`` where it can be had, else ``plain``.
        workers: threads. ``auto`` divides the available processors among the processes on this machine. With 0, the calling
            thread decodes, except for ``ffcv``, which uses one; ``ffcv`` never uses more than there are processors.
        os_cache: ``true`` leaves caching to the system. ``false`` reads pages ahead and releases them after use, for files
            larger than memory (with ``batch.order: quasi_random``). ``auto`` decides by the free memory.
        on_error: ``raise`` ends the run at a training sample that does not decode. ``skip`` replaces it by another and counts
            it.
    """

    kind: Literal["auto", "compiled", "ffcv", "plain"] = "auto"
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] | Literal["auto"] = "auto"
    os_cache: bool | Literal["auto"] = "auto"
    on_error: Literal["raise", "skip"] = "raise"


class SaveSection(Section):
    """Checkpoints that are kept beside the last state.

    Attributes:
        last: number of most recent epochs whose states are kept in ``checkpoints/``.
        best: column of ``metrics.jsonl`` that decides which epoch's weights are kept in ``best/``. None: top-1 on the first
            data set of ``evaluate``.
    """

    last: Positive = 3
    best: str | None = None


class Recipe(Section):
    """A whole training run.

    Attributes:
        data: data sets by name.
        curriculum: phases, in order; the last ``until_epoch`` is the length of the run.
        targets: distributions in place of classes. None: the class of an image is its target.
        ema: speed of the average of the weights. None keeps no average.
        evaluate: names of the data sets whose ``val`` is evaluated.
        evaluate_every: number of epochs between two evaluations, counted from epoch 0; the last epochs of the run and of every
            phase are evaluated too. The weights of an epoch that is not are never the best ones.
        tracking: trackers that metrics are sent to, besides ``metrics.jsonl``: ``tensorboard``, ``wandb``, or both in a list.
        seed: of the initial weights and of everything that is drawn at random.
    """

    model: ModelSection
    data: Annotated[dict[str, DataSection], Field(min_length=1, max_length=MOST_SETS)]
    curriculum: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=MOST_PHASES)]
    evaluate: tuple[str, ...] = ()
    evaluate_every: Positive = 1
    image: ImageSection = ImageSection()
    augment: AugmentSection = AugmentSection()
    mix: MixSection = MixSection()
    batch: BatchSection = BatchSection()
    schedule: ScheduleSection = ScheduleSection()
    optim: OptimSection = OptimSection()
    targets: TargetsSection | None = None
    ema: EmaSection | None = EmaSection()
    loader: LoaderSection = LoaderSection()
    tracking: Trackers = ()
    save: SaveSection = SaveSection()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def epochs(self) -> int:
        """Length of the run."""
        return self.curriculum[-1].until_epoch

    @property
    def training_sets(self) -> tuple[str, ...]:
        """The data sets that any phase trains on, in the order of their first use."""
        return tuple(dict.fromkeys(name for phase in self.curriculum for name in phase.weights(0)))

    @property
    def weights(self) -> tuple[TrainedWeights, ...]:
        """The weights that the run ends with: ``raw``, and their average ``ema`` if it keeps one."""
        return ("raw",) if self.ema is None else ("raw", "ema")

    @property
    def validation_columns(self) -> tuple[str, ...]:
        """The columns of ``metrics.jsonl`` that validation writes, such as ``val/clean/ema_top1``."""
        prefixes = ["ema_" if weights == "ema" else "" for weights in self.weights]
        metrics = [f"{prefix}{metric}" for prefix in prefixes for metric in ("top1", "top5", "loss")]
        return tuple(f"val/{name}/{metric}" for name in self.evaluate for metric in metrics)

    def evaluates(self, epoch: int) -> bool:
        """Return whether the weights are evaluated after ``epoch``."""
        ends = epoch + 1
        return ends % self.evaluate_every == 0 or any(ends == phase.until_epoch for phase in self.curriculum)

    def freezes(self, epoch: int) -> bool:
        """Return whether ``epoch`` trains the classifier alone."""
        return epoch < self.model.freeze_until

    def validating_by(self, way: ValResize) -> "Recipe":
        """Return the recipe with ``image.val_resize`` set to ``way``, unless it sets the field itself."""
        if "val_resize" in self.image.model_fields_set:
            return self
        return self.model_copy(update={"image": self.image.model_copy(update={"val_resize": way})})

    def tracked_by(self, names: Iterable[Tracker]) -> "Recipe":
        """Return the recipe with more trackers; the same one if it has them all."""
        return self.model_copy(update={"tracking": tuple(dict.fromkeys([*self.tracking, *names]))})

    def micro(self, ranks: int = 1) -> int:
        """Return the images per forward pass on each of ``ranks`` devices.

        Raises:
            ValueError: a step cannot be divided into such micro-batches.
        """
        sizes = self._steps()
        per_device = USUAL_PER_DEVICE if self.batch.per_device == "auto" else self.batch.per_device
        micro = min(per_device, *(size // ranks for size in sizes.values()))
        for field, size in sizes.items():
            if not micro or size % (micro * ranks):
                devices = f" on each of {ranks} devices" if ranks > 1 else ""
                raise ValueError(f"{field} {size} is not a multiple of batch.per_device {per_device}{devices}")
        return micro

    def allows(self, micro: int, ranks: int = 1) -> bool:
        """Return whether every step can be divided into micro-batches of ``micro`` images on each of ``ranks`` devices."""
        return all(size % (micro * ranks) == 0 for size in self._steps().values())

    def _steps(self) -> dict[str, int]:
        """Return the images of the steps of all phases, by the field that sets them."""
        phases = {f"curriculum.{number}.batch": phase.batch for number, phase in enumerate(self.curriculum) if phase.batch}
        return {"batch.size": self.batch.size} | phases

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Fill what is omitted because it follows from the run."""
        values: dict[str, float] = {}
        if "lr" not in self.schedule.model_fields_set:
            values["lr"] = fit_rate(self.optim.name, self.batch.size, self.model.is_trained)
        if "warmup_epochs" not in self.schedule.model_fields_set:
            values["warmup_epochs"] = fit_warmup(self.epochs)
        self.__dict__["schedule"] = _with_defaults(self.schedule, values)
        if self.ema is not None and self.ema.decay is None and self.ema.half_life is None:
            self.__dict__["ema"] = _with_defaults(self.ema, {"half_life": fit_half_life(self.epochs)})
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.micro()
        self._check_curriculum()
        self._check_data()
        if self.targets is not None:
            self.targets.check()
        if self.save.best is not None and self.save.best not in self.validation_columns:
            columns = self.validation_columns
            hint = did_you_mean(self.save.best, columns)
            raise ValueError(f"save.best: {self.save.best!r} is not measured.{hint} evaluate gives: {', '.join(columns)}")
        self._check_lengths()
        return self

    def _check_lengths(self) -> None:
        warmup, frozen = self.schedule.warmup_epochs, self.model.freeze_until
        if 0 < warmup >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {warmup} leaves nothing of {self.epochs} epochs: a tenth of them, "
                f"{self.epochs // 10}, is usual"
            )
        if frozen > self.epochs:
            raise ValueError(f"model.freeze_until {frozen} is after the last epoch: {self.epochs} freezes all of them")
        if frozen and self.optim.name == "lamb":
            raise ValueError("model.freeze_until is not for optim.name: lamb, which counts frozen steps: set adamw")

    def _check_curriculum(self) -> None:
        previous = 0
        for number, phase in enumerate(self.curriculum):
            for name in phase.weights(0):
                _check_name(f"curriculum.{number}.data", name, self.data)
            if phase.until_epoch <= previous:
                raise ValueError(f"curriculum.{number}.until_epoch {phase.until_epoch} is not after epoch {previous}")
            if phase.until_epoch == previous + 1 and self._has_ramp(phase):
                raise ValueError(f"curriculum.{number} is one epoch long, too short for a ramp: give a number, or more epochs")
            if phase.size and self.image.padding >= phase.size:
                raise ValueError(f"curriculum.{number}.size {phase.size} is not more than image.padding {self.image.padding}")
            if (phase.lr or self.schedule.lr) < self.schedule.min_lr:
                field = f"curriculum.{number}.lr {phase.lr}" if phase.lr else f"schedule.lr {self.schedule.lr}"
                raise ValueError(f"{field} is less than schedule.min_lr {self.schedule.min_lr}")
            previous = phase.until_epoch

    def _has_ramp(self, phase: Phase) -> bool:
        weights = [] if isinstance(phase.data, str) else list(phase.data.values())
        on_the_fly = (split_on_the_fly(self.data[name].train)[1] for name in phase.weights(0))
        return any(isinstance(value, Ramp) for value in (*weights, *(jpeg.quality for jpeg in on_the_fly if jpeg)))

    def _check_data(self) -> None:
        for number, name in enumerate(self.evaluate):
            _check_name(f"evaluate.{number}", name, self.data)
            if self.data[name].val is None:
                raise ValueError(f"evaluate.{number} is {name!r}, but data.{name}.val is not given")
        used = {*self.training_sets, *self.evaluate}
        for name in (name for name in self.data if name not in used):  # in order: a set's is another in every process
            raise ValueError(f"data.{name} is trained on in no phase and not in evaluate: name it there, or omit it")


SectionType = TypeVar("SectionType", bound=Section)


def _with_defaults(section: SectionType, values: Mapping[str, object]) -> SectionType:
    """Return a copy of a section with other defaults: as with any default, its ``model_fields_set`` does not name them."""
    copy = section.model_copy()
    copy.__dict__.update(values)
    return copy


def _check_name(field: str, name: str, data: dict[str, DataSection]) -> None:
    if name not in data:
        raise ValueError(f"{field}: no data set {name!r}.{did_you_mean(name, list(data))} data has: {', '.join(data)}")
