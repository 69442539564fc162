"""The command ``preview``: images and a set's rate and distortion at JPEG qualities, before anything is encoded."""

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr.cli.encode import interruptible, parse_resize
from jpegcurr.cli.options import (
    MAX_PIXELS,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    QualitiesOption,
    QuietOption,
    lock_outputs,
    parse_specs,
)
from jpegcurr.cli.terminal import err, out, print_table, progress_bar, show_log
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.preview.curve import RatePoint
    from jpegcurr.analysis.preview.results import Preview

MOST_UNREAD = 20  # images that are printed one by one


def preview(
    context: typer.Context,
    where: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES|SRC", help="Image files, or a data set in any form that jpegcurr encode takes."),
    ],
    qualities: QualitiesOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page, an HTML file.")] = Path(
        "preview.html"
    ),
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write a row for every measured image and quality.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=200, metavar="N", help="Pictures on the page, of a data set; 12 if not given.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images to measure, at least those shown; 200 if not given."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="NAME", help="Take only this split; repeatable.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the order from which images are taken.")
    ] = 0,
    subsampling: Annotated[
        Literal["420", "422", "444", "keep"] | None,
        typer.Option(help="Chroma subsampling of encoded images; keep: as in the source. 420 if not given."),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, max=65500, metavar="PIXELS", help="Shrink images whose longer side exceeds this.")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(min=1, max=65500, metavar="PIXELS", help="Shrink images whose shorter side exceeds this.")
    ] = None,
    resize_filter: Annotated[
        Literal["box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
        typer.Option("--filter", help="Pillow's filter for shrinking; bicubic if not given."),
    ] = None,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show images at JPEG qualities, and what each quality costs, before anything is encoded.

    The page, one offline file, has pictures of the source and of every
    quality with a divider to drag, and their error; the set's mean PSNR and
    SSIM over bits a pixel; and the bytes of the whole set at each quality,
    estimated from a sample. The qualities are 95,75,50,30,10 if not given.
    """
    lock_outputs(context, {output: "-o", csv: "--csv"})
    from jpegcurr.analysis.preview.preview import QUALITIES
    from jpegcurr.analysis.preview.preview import preview as measure_set
    from jpegcurr.analysis.preview.results import write_csv
    from jpegcurr.files import refuse_existing

    show_log(quiet=quiet)
    if csv is not None:
        refuse_existing([csv], force=force, option="--csv")
    specs = parse_specs(qualities or [",".join(map(str, QUALITIES))], subsampling)
    keep_freed_memory()
    with interruptible("stopped. Nothing was written."), progress_bar(quiet=quiet) as bar:
        result = measure_set(
            where,
            [spec.quality for spec in specs],
            output,
            images=images,
            sample=sample,
            splits=split or (),
            subsampling=subsampling or "420",
            resize=parse_resize(max_side, short_side, resize_filter),
            seed=seed,
            max_pixels=max_pixels,
            force=force,
            progress=bar.update,
        )
    written = [output]
    if csv is not None:
        write_csv(result, csv)
        written.append(csv)
    if as_json:
        out.print_json(json.dumps({**result.as_dict(), "written": list(map(str, written))}))
    else:
        print_preview(result, written)
    _print_unread(result)


def print_preview(result: "Preview", written: list[Path]) -> None:
    """Print the set at every quality, what was measured, and the files written; intervals of means are on the page alone."""
    from jpegcurr.analysis.preview.results import summarise

    unit, unit_bytes = result.unit
    about = "" if result.source_bytes is not None else "about "
    rate = "" if result.converted else f"{result.points[0].bits_per_pixel.mean:.2f}"
    rows = [["files", rate, "", "", f"{about}{result.file_bytes / unit_bytes:,.1f}", "100 %"]]
    rows += [_row(point, result.file_bytes, unit_bytes) for point in result.rows]
    print_table(["quality", "bits a pixel", "PSNR, dB", "SSIM", f"whole set, {unit}", "of its files"], rows)
    for sentence in summarise(result):
        out.print(sentence, markup=False)
    for path in written:
        out.print(f"{path}", markup=False)


def _row(point: "RatePoint", files: float, unit_bytes: int) -> list[str]:
    total = point.total
    size = f"{total.estimate / unit_bytes:,.1f}"
    if isfinite(total.low) and round(total.low) < round(total.high):
        size += f" ({total.low / unit_bytes:,.1f} to {total.high / unit_bytes:,.1f})"
    share = f"{100 * total.estimate / files:.1f} %" if files else "-"
    means = ((point.bits_per_pixel.mean, 2), (point.psnr.mean, 2), (point.ssim.mean, 4))
    return [point.quality, *(f"{mean:.{digits}f}" if isfinite(mean) else "-" for mean, digits in means), size, share]


def _print_unread(result: "Preview") -> None:
    for failure in result.failures[:MOST_UNREAD]:
        err.print(f"not read: {failure.picture.place}: {failure.reason}", markup=False)
    if len(result.failures) > MOST_UNREAD:
        err.print(f"not read: {len(result.failures) - MOST_UNREAD:,} more; --csv lists them", markup=False)
