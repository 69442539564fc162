"""The command ``inspect``: the contents of a .beton or of another output, and whether every byte of it is right."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from jpegcurr.cli.options import JsonOption, QuietOption
from jpegcurr.cli.terminal import out, progress_bar
from jpegcurr.errors import JpegcurrError
from jpegcurr.text import join_words, megabytes, sanitize

if TYPE_CHECKING:
    from jpegcurr.encoding.beton.manifest import Manifest
    from jpegcurr.encoding.beton.verify import Inspection
    from jpegcurr.encoding.box_windows import BoxOptions


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .beton, or a folder that encode wrote in another format.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every byte and decode every sample; exit with code 1 if any is wrong.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Describe a .beton or another output of encode: samples, classes, quality, chroma, sizes, failures, versions."""
    from jpegcurr.encoding.beton.verify import inspect_beton, verify_beton
    from jpegcurr.encoding.outputs.verify import inspect_output, is_other_output, verify_output

    other = is_other_output(file)
    inspection = inspect_output(file) if other else inspect_beton(file)
    complaints = None
    if verify:
        with progress_bar(quiet=quiet) as bar:
            verified = verify_output if other else verify_beton
            complaints = list(verified(file, lambda done, total: bar.update(f"verifying {file.name}", done, total)))
    print_inspection(inspection, complaints, as_json=as_json)
    if complaints:
        first = "\n".join(f"  {complaint}" for complaint in complaints[:5])
        raise JpegcurrError(f"{file} has {_count_errors(complaints)}. Encode it again with --force:\n{first}")


def print_inspection(inspection: "Inspection", complaints: list[str] | None, *, as_json: bool) -> None:
    """Print everything about a file; ``complaints`` are those of a verification, None without one."""
    manifest = inspection.manifest
    if as_json:
        facts = {
            "path": str(inspection.path),
            "samples": inspection.samples,
            "labels": inspection.labels,
            "highest_label": inspection.highest_label,
            "subsampling": inspection.subsampling,
            "qualities_of_tables": inspection.qualities,
            "page_size": inspection.page_size,
            "widths": inspection.widths,
            "heights": inspection.heights,
            "sample_bytes": inspection.sample_bytes,
            "manifest": manifest.model_dump() if manifest else None,
            "wrong": complaints,
        }
        out.print_json(json.dumps(facts))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    verdict = {} if complaints is None else {"verified": _describe_verdict(inspection, complaints)}
    for name, value in (_describe_file(inspection) | verdict).items():
        table.add_row(name, escape(sanitize(value)))
    out.print(table, soft_wrap=False)


def _count_errors(complaints: list[str]) -> str:
    return "1 error" if len(complaints) == 1 else f"{len(complaints):,} errors"


def _describe_verdict(inspection: "Inspection", complaints: list[str]) -> str:
    if complaints:
        return _count_errors(complaints)
    checked = "and every byte is as it was written" if inspection.manifest else "(no manifest, so no checksums to compare with)"
    return f"every sample decodes {checked}"


def _describe_file(inspection: "Inspection") -> dict[str, str]:
    """Return the facts about a file in words, by name."""
    manifest = inspection.manifest
    unknown = "not recorded: there is no manifest beside the file"
    spread = "smallest {:,}, median {:,}, largest {:,}".format
    layouts = ", ".join(f"{name} {100 * count / inspection.samples:.1f} %" for name, count in inspection.subsampling.items())
    labels = f"{inspection.labels:,}"
    if manifest is None:
        classes = f"{labels} labels, up to {inspection.highest_label}"
        many = inspection.highest_label >= inspection.samples
        classes += f": a model would have {inspection.highest_label + 1:,} classes, more than there are samples" if many else ""
    else:
        classes = (
            f"{len(manifest.classes):,}, {labels} with samples{', and shares of each image' * bool(manifest.shares_sha256)}"
        )
    facts = {
        "file": str(inspection.path),
        "samples": f"{inspection.samples:,}",
        "classes": classes,
        "quality": str(manifest.quality) if manifest else unknown,
        "quality by the tables": _describe_qualities(inspection),
        "subsampling": layouts,
        "width, pixels": spread(*inspection.widths),
        "height, pixels": spread(*inspection.heights),
        "bytes per sample": spread(*inspection.sample_bytes),
        "page size": megabytes(inspection.page_size),
    }
    if manifest and manifest.format != "beton":
        facts["format"] = manifest.format
        del facts["page size"]
    if manifest:
        order = f"shuffle, seed {manifest.seed}" if manifest.order == "shuffle" else "folder"
        facts |= {
            "failures": f"{manifest.failures:,}",
            "other files skipped": f"{manifest.ignored:,}",
            "original bytes kept": _describe_copies(manifest),
            "split and source": f"{manifest.split} of {join_words([manifest.source, *manifest.more_sources])}",
            "splits drawn": _describe_draw(manifest),
            "labels from": manifest.labels or "the source itself",
            "samples are": _describe_boxes(manifest.boxes) if manifest.boxes else "whole images",
            "limit": f"{manifest.limit:,} images" if manifest.limit else "none",
            "resize": _describe_resize(manifest),
            "order": order,
            "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        }
    return facts


def _describe_qualities(inspection: "Inspection") -> str:
    """Return the qualities of the JPEGs' tables; at ``source`` they are those of the data set's own encoders."""
    total = sum(inspection.qualities.values())
    if not total:
        return "no JPEGs"
    first = list(inspection.qualities.items())[:6]
    words = ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in first)
    rest = len(inspection.qualities) - len(first)
    of = f" of {total:,} samples" if total < inspection.samples else ""
    return f"{words}{f', {rest} more' if rest else ''}{of}"


def _describe_boxes(boxes: "BoxOptions") -> str:
    inside = ", moved inside the image" if boxes.keep_inside else ""
    padding = f"padded by {boxes.pad}{inside}" if boxes.pad else "not padded"
    classes = f", those of the classes {join_words(boxes.classes)}" if boxes.classes else ""
    return f"boxes annotated in the format of {boxes.format}, {padding}, labelled by {boxes.label}{classes}"


def _describe_draw(manifest: "Manifest") -> str:
    draw = manifest.draw
    return f"val {draw.val:g}, test {draw.test:g} of every class, seed {draw.seed}" if draw else "no"


def _describe_copies(manifest: "Manifest") -> str:
    converted = manifest.images - manifest.copied if manifest.quality == "source" else 0
    others = f"; {converted:,} converted, to quality 95 and 4:4:4" if converted else ""
    return f"{manifest.copied:,}{others}"


def _describe_resize(manifest: "Manifest") -> str:
    resize = manifest.spec.resize
    if resize is None:
        return "none"
    side = "longer" if resize.side == "max" else "shorter"
    scaled = f"; {manifest.scaled:,} images decoded at a smaller scale" if manifest.scaled else ""
    return f"{side} side to {resize.pixels} pixels at most, {resize.filter}{scaled}"
