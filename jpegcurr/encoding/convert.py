"""Conversion of an output into other formats: the same samples, keys, labels and bytes, copied without decoding an image.

The result is what the encode itself would have written in that format, byte for byte: manifest and items say the same, so a
conversion and its way back end where they began. Only time stamps are in a folder's items alone.
"""

import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from jpegcurr.encoding.beton.manifest import Manifest, Plan, describe_other_samples, read_items, read_manifest
from jpegcurr.encoding.encode import explain_resume
from jpegcurr.encoding.jpeg.codec import LIBRARIES
from jpegcurr.encoding.output import Output
from jpegcurr.encoding.outputs.base import Row
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import Format, output_path
from jpegcurr.encoding.outputs.sample_names import refuse_same_names
from jpegcurr.encoding.outputs.shards import SHARD_BYTES
from jpegcurr.encoding.outputs.verify import require_manifest
from jpegcurr.encoding.plan import refuse_existing_outputs, refuse_impossible
from jpegcurr.encoding.resume import InterruptedEncode, check_plan, create_partial_files, lock_file, partial_files, remove
from jpegcurr.encoding.sources.base import ListingBuilder
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.files import locked, nearest_folder, refuse_unwritable
from jpegcurr.system import library_versions
from jpegcurr.text import megabytes

_FLUSH_EVERY = 64  # rows


def convert_output(
    path: Path,
    kinds: Sequence[Format],
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    resume: bool = False,
    force: bool = False,
    on_sample: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[Path, Manifest]:
    """Copy the output at ``path``, of any format, into ``folder`` in other formats; return their manifests.

    Args:
        path: a beton, folder or shards that ``encode`` or a conversion has written, with their manifest and items beside.
        kinds: the formats to write.
        folder: the folder in which the outputs get their usual names.
        shard_bytes: JPEGs of at most so many bytes make a shard.
        resume: continue an interrupted conversion and keep finished ones of the same samples.
        force: replace existing outputs.
        on_sample: receives the rows done and their total.

    Raises:
        UsageError: ``path`` has no manifest, or is itself what would be written; an output exists and neither ``force`` nor
            ``resume`` is set; two images would have one name; the outputs do not fit on the disk.
        BetonError: the manifest or the items cannot be read, or a sample does not have its checksum.
        EncodeError: an output cannot be written. What was copied is kept for ``resume``.
    """
    manifest = require_manifest(path)
    plans = {}
    for kind in kinds:
        plans[output_path(folder, manifest.split, manifest.spec, kind)] = _plan(manifest, kind, shard_bytes)
    _check(path, manifest, plans)
    with ExitStack() as stack:
        for output in plans:
            stack.enter_context(locked(lock_file(output), output, doing="written"))
        manifests = _keep_finished(path, manifest, plans) if resume else {}
        if not (resume or force):
            refuse_existing_outputs(list(plans))
        rest = {output: plan for output, plan in plans.items() if output not in manifests}
        for output, plan in rest.items():
            if not resume or not InterruptedEncode.exists(output):
                create_partial_files(output, plan)
        if rest:
            try:
                manifests |= _copy(path, manifest, rest, on_sample)
            except BetonError:  # no --resume can end well
                for file in (file for output in rest for file in partial_files(output)):
                    remove(file)
                raise
    return {output: manifests[output] for output in plans}


def _plan(manifest: Manifest, kind: Format, shard_bytes: int) -> Plan:
    """Return the plan that the encode itself would have had; the libraries of the codec are those of that encode."""
    fields = {name: value for name, value in manifest.model_dump().items() if name in Plan.model_fields}
    versions = {name: number for name, number in manifest.versions.items() if name in LIBRARIES}
    wanted = OUTPUT_FORMATS[kind]
    fields |= {"format": kind, "shard_bytes": shard_bytes if wanted.sharded else None}
    return Plan(**fields | {"versions": versions | library_versions(wanted.libraries)})


def _check(path: Path, manifest: Manifest, plans: Mapping[Path, Plan]) -> None:
    """Raise UsageError for what would be refused later, before anything is written."""
    for output in plans:
        if output.absolute() == path.absolute():
            raise UsageError(f"{path} is already of the format {manifest.format}. Name another one, or another folder with -o.")
    refuse_unwritable(output.parent for output in plans)
    refuse_impossible(plans)
    names = ListingBuilder()
    for row in read_items(path):
        names.add(row["key"], row["label"], row["source_bytes"])
    where = f"{manifest.source}, split {manifest.split}"
    refuse_same_names(where, manifest.classes, names.build(), {plan.format for plan in plans.values()})
    needed = sum(manifest.bytes_out + OUTPUT_FORMATS[plan.format].overhead * manifest.images for plan in plans.values())
    parent = next(iter(plans)).parent
    free = shutil.disk_usage(nearest_folder(parent)).free
    if needed > free:
        raise UsageError(
            f"{parent} needs about {megabytes(needed)}, and {megabytes(free)} are free; nothing was written. Free space, or "
            "choose another place with -o."
        )


def _keep_finished(path: Path, manifest: Manifest, plans: Mapping[Path, Plan]) -> dict[Path, Manifest]:
    """Return the manifests of finished outputs; raise UsageError for one, finished or not, of another plan or other samples."""
    kept = {}
    for output, plan in plans.items():
        interrupted = InterruptedEncode.find(output)
        if interrupted is not None:
            check_plan(interrupted.plan, plan, f"The interrupted conversion to {output}")
            continue
        finished = read_manifest(output)
        if finished is None or not output.exists():
            refuse_existing_outputs([output])
            continue
        check_plan(finished.model_dump() | {"versions": plan.versions}, plan, str(output))
        if difference := describe_other_samples(manifest, finished):
            raise UsageError(f"{output} does not hold the samples of {path}: {difference}. Replace it with --force.")
        kept[output] = finished
    return kept


def _copy(
    path: Path, manifest: Manifest, plans: Mapping[Path, Plan], on_sample: Callable[[int, int], None]
) -> dict[Path, Manifest]:
    with explain_resume(), ExitStack() as stack:
        outputs = [stack.enter_context(Output.open(output, plan)) for output, plan in plans.items()]
        start = min(_count_copied(output, path) for output in outputs)
        for output in outputs:
            output.rewind(start)
        for number, (row, data) in enumerate(_read_samples(path, manifest)):
            if number >= start:
                for output in outputs:
                    output.add(_row_for(output, row), data)
            if number % _FLUSH_EVERY == 0:
                for output in outputs:
                    output.flush()
                on_sample(number + 1, manifest.items)
        for output in outputs:
            output.sync()
        on_sample(manifest.items, manifest.items)
        return {output.path: output.finish(manifest.ignored) for output in outputs}


def _count_copied(output: Output, path: Path) -> int:
    """Count the rows that an interrupted conversion has left, as long as they are those of the output at ``path``."""
    rows = read_items(path)
    return output.count_recovered(lambda _number, line: output.parse(line) != _row_for(output, next(rows)))


def _row_for(output: Output, row: Row) -> Row:
    """Return a row as it stands in the items of ``output``: time stamps are in those of a folder alone."""
    return row if output.time_stamps else {name: value for name, value in row.items() if name != "modified"}


def _read_samples(path: Path, manifest: Manifest) -> Iterator[tuple[Row, bytes | None]]:
    """Yield the rows of an output, and the bytes of those that are stored; raise BetonError for bytes that have changed."""
    with closing(OUTPUT_FORMATS[manifest.format].reader(path, manifest)) as reader:
        for row in read_items(path):
            if row["status"] == "failed":
                yield row, None
                continue
            data = reader.read(row)
            if zlib.crc32(data) != row["crc32"]:
                raise BetonError(
                    f"{path}: the bytes of {row['key']} have changed since they were written; nothing was converted. Encode it "
                    "again with --force."
                )
            yield row, data
