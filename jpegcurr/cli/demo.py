"""The command ``demo``: a page with a quality slider, for one model or two."""

import json
import os
import webbrowser
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from jpegcurr.cli.completion import complete_model
from jpegcurr.cli.options import (
    MAX_PIXELS,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    FactoryOption,
    JsonOption,
    MaxPixelsOption,
    MeanOption,
    ModelArgument,
    QuietOption,
    SizeOption,
    StdOption,
    WeightsOption,
    parse_settings,
)
from jpegcurr.cli.terminal import err, out
from jpegcurr.errors import Interrupted, UsageError
from jpegcurr.text import escape_json


def demo(
    run: ModelArgument,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL2", help="A second model, to compare with the first.", autocompletion=complete_model),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of pictures to choose from; the first is shown at once.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port of 127.0.0.1; 0 for any free one.")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layer whose maps are shown; the last stage if not given.")
    ] = None,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    class_names: ClassNamesOption = None,
    factory: FactoryOption = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a page on this machine: drop a picture, move a quality slider, and see what changes.

    It shows the picture as `jpegcurr encode` would store it, the error, the bytes, the likeliest classes, and Grad-CAM maps.
    Nothing leaves the machine. Ctrl-C ends it.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when the hub's client is imported, which timm does
    from jpegcurr.analysis.demo.app import bind_port, build_page, check_installed, list_pictures, serve
    from jpegcurr.analysis.demo.comparison import explain_models
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_classifiers

    check_installed()
    names = [run] if other is None else [run, other]
    if len({name.resolve() for name in names}) < len(names):
        raise UsageError(f"{run} is given twice, and a model cannot be compared with itself. Give each once.")
    pictures = list_pictures(images)
    with bind_port(port) as bound:
        runtime = resolve_runtime(device)
        runs = load_classifiers(names, runtime, weights, parse_settings(checkpoint, mean, std, size, class_names, factory))
        models = explain_models(runs, layer, runtime)

        def on_ready(address: str) -> None:
            if as_json:  # one line, so that a program can read it while the command runs
                values = {"address": address, "models": [str(name) for name in names], "pictures": pictures.total}
                out.print(escape_json(json.dumps(values)), markup=False)
            else:
                out.print(address, markup=False)
            if not quiet:
                err.print("Ctrl-C ends it.", markup=False)
            if open_browser:
                Thread(target=_open_page, args=[address], daemon=True).start()  # a browser in a terminal would stop the server

        try:
            serve(lambda: build_page(models, pictures, runtime, max_pixels=max_pixels), bound, on_ready)
        except KeyboardInterrupt:
            raise Interrupted("stopped. The demo has ended, and what was uploaded is removed.") from None


def _open_page(address: str) -> None:
    if not webbrowser.open(address):
        err.print("There is no browser to open.", markup=False)
