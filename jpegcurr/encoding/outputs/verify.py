"""Inspection and verification of an output in another format than a beton, by its manifest, its items and its samples."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.encoding.beton.manifest import Manifest, Totals, items_path, read_items, read_manifest
from jpegcurr.encoding.beton.verify import Inspection, evenly_spaced, spread
from jpegcurr.encoding.jpeg.anatomy import name_quality
from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.encoding.jpeg.header import read_jpeg_header
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import format_of
from jpegcurr.encoding.outputs.sample_names import SampleNames
from jpegcurr.errors import BetonError, ImageError, UsageError


def is_other_output(path: Path) -> bool:
    """Return whether ``path`` is a folder with the name of an output of ``encode`` that is no beton."""
    return path.is_dir() and format_of(path) != "beton"


def require_manifest(path: Path) -> Manifest:
    """Return the manifest of an output; raise UsageError if there is none, BetonError if it is of another format."""
    if not path.exists():
        raise UsageError(f"{path} does not exist. Give a .beton, or a folder that jpegcurr encode wrote in another format.")
    manifest = read_manifest(path)
    if manifest is None and format_of(path) == "beton" and path.is_file():
        raise UsageError(
            f"{path} has no manifest of jpegcurr beside it. A .beton alone holds neither the keys of its images nor the "
            "names of its classes, which other formats need. Encode the images themselves: jpegcurr encode SRC --to ..."
        )
    if manifest is None:
        raise UsageError(
            f"{path} has no manifest of jpegcurr beside it, which holds its keys and classes. Images in any other form are "
            f"converted by an encode that keeps their bytes: jpegcurr encode {path} --quality source --to ..."
        )
    if manifest.format != format_of(path):
        raise BetonError(f"{path} was renamed: its manifest is of the format {manifest.format}. Give it back its usual name.")
    return manifest


def inspect_output(path: Path) -> Inspection:
    """Read the facts of an output, and the header of every JPEG in it; raises UsageError and BetonError."""
    manifest = require_manifest(path)
    layouts, qualities, labels = Counter[str](), Counter[str](), set[int]()
    some = evenly_spaced(manifest.images)
    sizes: list[tuple[int, int, int]] = []
    for row, data in _samples(path, manifest):
        header = read_jpeg_header(data)
        layouts[header.layout if header else "unreadable"] += 1
        if len(sizes) in some:
            qualities[name_quality(data)] += 1
        labels.add(row["label"])
        sizes.append((row["width"], row["height"], row["bytes"]))
    widths, heights, sample_bytes = np.array(sizes, np.int64).reshape(-1, 3).T
    return Inspection(
        path,
        manifest,
        len(sizes),
        len(labels),
        max(labels, default=-1),
        dict(layouts.most_common()),
        spread(widths),
        spread(heights),
        spread(sample_bytes),
        manifest.page_size,
        dict(qualities.most_common()),
    )


def verify_output(path: Path, on_sample: Callable[[int, int], None] = lambda _done, _total: None) -> Iterator[str]:
    """Yield a sentence for every sample that is wrong, and for every file in a folder that is no sample.

    Every sample is compared with its checksum and decoded. What lies between the samples of shards is not compared.

    Raises:
        BetonError: the items do not match the manifest.
    """
    manifest, totals = require_manifest(path), Totals()
    for row in read_items(path):
        totals.add(row)
    if not totals.as_dict().items() <= manifest.model_dump().items():
        raise BetonError(
            f"{items_path(path)} does not match its manifest, so {path} cannot be verified. Encode it again with --force."
        )
    for number, (row, data) in enumerate(_samples(path, manifest)):
        if problem := _check_sample(row, data):
            yield f"sample {number} ({row['key']}) of {path}: {problem}"
        on_sample(number + 1, manifest.images)
    if manifest.format == "folder":
        yield from _find_strangers(path, manifest)


def _check_sample(row: dict[str, Any], data: bytes) -> str:
    """Return what is wrong with one sample; empty if nothing is."""
    if not data:
        return "it is missing"
    if zlib.crc32(data) != row["crc32"]:
        return "its bytes have changed since they were written"
    try:
        decode_rgb(data, scratch=True, size=(row["width"], row["height"]))
    except ImageError as error:
        return str(error)
    return ""


def _samples(path: Path, manifest: Manifest) -> Iterator[tuple[dict[str, Any], bytes]]:
    with closing(OUTPUT_FORMATS[manifest.format].reader(path, manifest)) as reader:
        for row in read_items(path):
            if row["status"] != "failed":
                yield row, reader.read(row)


def _find_strangers(path: Path, manifest: Manifest) -> Iterator[str]:
    names = SampleNames(manifest.classes)
    samples = {f"{path}/{names.path(row['key'], row['label'])}" for row in read_items(path) if row["status"] != "failed"}
    for folder, _, files in os.walk(path):
        yield from (f"{folder}/{file} is no sample of it" for file in files if f"{folder}/{file}" not in samples)
