"""Options that more than one command accepts, and how they are parsed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr.cli.completion import complete_model
from jpegcurr.errors import UsageError

if TYPE_CHECKING:
    from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality, Resize, Subsampling
    from jpegcurr.encoding.outputs.paths import Format
    from jpegcurr.encoding.sources.base import SplitDraw
    from jpegcurr.training.models.classifier import ModelSettings

Weights = Literal["raw", "ema", "best"]
WeightsOption = Annotated[
    Weights, typer.Option(help="Trained weights (raw), their moving average (ema), or those of the best epoch.")
]
MODEL_HELP = (
    "A run's folder; a model that `jpegcurr models` lists; hf-hub:NAME or local-dir:FOLDER; or your own, module:function."
)
CheckpointOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights for a timm model; downloaded if not given.")
]
MeanOption = Annotated[str | None, typer.Option(metavar="R,G,B", help="Mean of the inputs of a model that does not state it.")]
StdOption = Annotated[str | None, typer.Option(metavar="R,G,B", help="Deviation of the inputs of such a model.")]
SizeOption = Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the inputs of a model that is no run.")]
ClassNamesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Names of the outputs, one a line, of a model that does not state them.")
]
FactoryOption = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="The code of runs whose network is your own, as their recipe names it."),
]
ImageLabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="A table of path,label, as for encode; the class is the image's folder if not given."
    ),
]
PlannedImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, metavar="N", help="For --plan: training images, before any is encoded.")
]
LabelFromOption = Annotated[
    Literal["parent", "grandparent"] | None,
    typer.Option(
        "--label-from", help="Where --labels is a list of bare paths: the folder that is the class; parent if not given."
    ),
]
FlatClassesOption = Annotated[
    bool,
    typer.Option(
        "--flat-classes", help="Take every folder in SRC as a class, also one that is named like a split: bus, car, train."
    ),
]
ValShareOption = Annotated[
    float | None, typer.Option("--val", metavar="SHARE", help="Draw this share of every class for val: 0.2.")
]
TestShareOption = Annotated[
    float | None, typer.Option("--test", metavar="SHARE", help="Draw this share of every class for test.")
]
MergeOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS=OUTPUT,OUTPUT;...",
        help="Judge by fewer classes: the probabilities of a model's outputs in each are added. Name every output once: "
        "'negative=amb_neg,negative;positive=amb_pos,positive'.",
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto: bfloat16 on a GPU that supports it.")
]
CompileOption = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the model with torch.compile; on a GPU that is the default."),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")]
ToOption = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="FORMAT", help="beton (if not given), folder, webdataset or parquet; repeatable."),
]
ShardSizeOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="MB", help="Maximum of JPEGs in a shard of webdataset or parquet; 256 if not given."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress; print only results and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="BETON", help="Validation .beton file; repeatable. The first run's own if not given."),
]
ValidationOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="BETON|IMAGES",
        help="Validation .beton, or labelled images as for encode; repeatable. The first run's own sets if not given.",
    ),
]
QualitiesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--qualities",
        "--quality",
        metavar="Q,Q,...",
        help="JPEG qualities, 1 to 100, or source for the original: source,90,50; or one at a time, repeatable.",
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option(min=1, max=178_956_970, metavar="N", help="Images with more pixels are not read, and count as failures.")
]
MAX_PIXELS = 128_000_000  # that of encoding/jpeg/limits.py, which takes Pillow to import
OnTheFlyOption = Annotated[
    bool,
    typer.Option("--on-the-fly", help="Re-encode after the resize, at the size the model receives: a stronger degradation."),
]
LoaderOption = Annotated[
    Literal["auto", "compiled", "ffcv", "plain"], typer.Option(help="Decoder of the images; auto: as in training.")
]


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=complete_model)]


def lock_outputs(context: typer.Context, outputs: "Mapping[Path | None, str]") -> None:
    """Lock the files and folders that a command will write, by the options that name them, until the command ends.

    Commands call it before they import torch, so that of two of them the later is refused, and not the faster.
    """
    from jpegcurr.files import locked_outputs

    if os.environ.get("RANK", "0") != "0":  # of several processes of one command the main one writes
        return
    context.with_resource(locked_outputs({path: option for path, option in outputs.items() if path is not None}))


def parse_settings(
    checkpoint: Path | None, mean: str | None, std: str | None, size: int | None, class_names: Path | None, factory: str | None
) -> "ModelSettings":
    """Parse the options of models that are no runs; raise UsageError for a mean or deviation that is not three numbers."""
    from jpegcurr.training.models.classifier import ModelSettings

    return ModelSettings(checkpoint, _parse_channels("--mean", mean), _parse_channels("--std", std), size, class_names, factory)


def _parse_channels(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give three numbers on the scale 0 to 1, such as 0.485,0.456,0.406.") from None
    return red, green, blue


def parse_draw(val: float | None, test: float | None, seed: int) -> "SplitDraw | None":
    """Parse ``--val`` and ``--test``; None if neither is given. Raise UsageError for shares that leave nothing to train on."""
    from jpegcurr.encoding.sources.base import SplitDraw
    from jpegcurr.encoding.splits import check_draw

    return None if val is None and test is None else check_draw(SplitDraw(val or 0.0, test or 0.0, seed))


def parse_specs(
    qualities: Sequence[str], subsampling: "Subsampling | None" = None, resize: "Resize | None" = None
) -> "list[EncodeSpec]":
    """Parse qualities as typed, one or more at a time (``source,90``), without duplicates, in order.

    Raises:
        UsageError: there is none, one is no quality, or ``subsampling`` would have no effect.
    """
    from jpegcurr.encoding.jpeg.codec import EncodeSpec, parse_quality

    if not qualities:
        raise UsageError("Which quality? Give --quality 50, or --quality source for the original bytes, or both.")
    parsed = list(dict.fromkeys(parse_quality(text.strip()) for given in qualities for text in given.split(",")))
    if subsampling is not None and parsed == ["source"]:
        raise UsageError(
            f"--subsampling {subsampling} does nothing at --quality source, which keeps the chroma. Omit it, or give a quality "
            "of 1 to 100 too."
        )
    return [EncodeSpec(quality, subsampling or "420", resize) for quality in parsed]


def parse_shard_size(megabytes: int | None, kinds: "Sequence[Format]") -> int:
    """Return --shard-size in bytes; raise UsageError if none of the formats has shards."""
    from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
    from jpegcurr.encoding.outputs.shards import SHARD_BYTES

    if megabytes is None:
        return SHARD_BYTES
    if not any(OUTPUT_FORMATS[kind].sharded for kind in kinds):
        raise UsageError(f"--shard-size {megabytes} does nothing without --to webdataset or --to parquet. Omit it.")
    return megabytes * 1_000_000


def parse_qualities(qualities: Sequence[str] | None, *, on_the_fly: bool) -> "list[Quality] | None":
    """Parse ``--qualities``; None if it is not given. Raise UsageError for a wrong quality, or --on-the-fly without any."""
    if qualities:
        return [spec.quality for spec in parse_specs(qualities)]
    if on_the_fly:
        raise UsageError("--on-the-fly says when --qualities are encoded. Give them too: --qualities source,50.")
    return None
