"""The command ``convert``: what encode wrote, in other formats."""

from pathlib import Path
from typing import Annotated

import typer

from jpegcurr.cli.encode import interruptible, print_manifests
from jpegcurr.cli.options import ForceOption, JsonOption, QuietOption, ShardSizeOption, ToOption, parse_shard_size
from jpegcurr.cli.terminal import progress_bar, show_log
from jpegcurr.errors import UsageError


def convert(
    src: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A .beton, or a folder that encode wrote in another format.")],
    to: ToOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the files; that of OUTPUT if not given.")
    ] = None,
    shard_size: ShardSizeOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted conversion; keep finished ones.")] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert what encode wrote into other formats, without decoding an image: .beton, folder, WebDataset, Parquet.

    The files are those that encode itself would have written with --to, and the way back ends in the same .beton. A folder
    that was converted from another format has no time stamps of the original images.
    """
    from jpegcurr.encoding.convert import convert_output
    from jpegcurr.encoding.outputs.paths import parse_formats

    if not to:
        raise UsageError("Which format? Give --to beton, folder, webdataset or parquet.")
    show_log(quiet=quiet)
    kinds = parse_formats(to)
    shard_bytes = parse_shard_size(shard_size, kinds)
    stopped = "stopped. Copied images are kept; to continue, give the same command with --resume."
    with interruptible(stopped), progress_bar(quiet=quiet) as bar:
        manifests = convert_output(
            src,
            kinds,
            output or src.parent,
            shard_bytes=shard_bytes,
            resume=resume,
            force=force,
            on_sample=lambda done, total: bar.update(f"converting {src.name}", done, total),
        )
    print_manifests(manifests, as_json=as_json)
