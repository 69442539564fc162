"""The command ``export``: a model's weights for other programs."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from jpegcurr.cli.options import (
    CheckpointOption,
    ClassNamesOption,
    FactoryOption,
    ForceOption,
    JsonOption,
    MeanOption,
    ModelArgument,
    SizeOption,
    StdOption,
    WeightsOption,
    lock_outputs,
    parse_settings,
)
from jpegcurr.cli.terminal import out
from jpegcurr.system import keep_freed_memory


def export(
    context: typer.Context,
    model: ModelArgument,
    to: Annotated[
        Literal["authors", "torchvision", "mmpretrain", "transformers", "onnx"],
        typer.Option("--to", help="The program that will load it; see above."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="The file; for transformers, the folder.")],
    weights: WeightsOption = "raw",
    no_head: Annotated[bool, typer.Option("--no-head", help="Omit the classifier, for use as a backbone.")] = False,
    checkpoint: CheckpointOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    class_names: ClassNamesOption = None,
    factory: FactoryOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model's weights in the format of another program, and print the line of code that loads them there.

    \b
    authors       facebookresearch/ConvNeXt, and their code for mmdet 2 and
                  mmseg 0: model.load_state_dict(torch.load(PATH)["model"])
    torchvision   model = torchvision.models.convnext_tiny()
                  model.load_state_dict(torch.load(PATH))
    mmpretrain    for mmdet 3 and mmseg 1:
                  dict(type="mmpretrain.ConvNeXt", arch="tiny", init_cfg=
                  dict(type="Pretrained", checkpoint=PATH,
                  prefix="backbone."), ...)
    transformers  transformers.AutoModelForImageClassification
                  .from_pretrained(PATH)
    onnx          onnxruntime.InferenceSession(PATH)
                  .run(None, {"images": images})

    The first four take ConvNeXts; onnx takes every network. timm and transformers also load the folder of a run as it is:
    timm.create_model("local-dir:RUN", pretrained=True). `model.checkpoint` in a recipe reads the first four back.
    """
    lock_outputs(context, {output: "-o"})
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.export import check_output, export_model
    from jpegcurr.training.models.load import load_classifier

    keep_freed_memory()
    check_output(to, output, force=force)
    settings = parse_settings(checkpoint, mean, std, size, class_names, factory)
    classifier = load_classifier(model, resolve_runtime("cpu"), weights, settings=settings)
    line = export_model(classifier, to, output, head=not no_head)
    if as_json:
        out.print_json(json.dumps({"path": str(output), "load": line}))
        return
    out.print(f"{output}", markup=False)
    out.print(line, markup=False)
