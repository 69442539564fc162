"""Encodes that were interrupted or finished before: the files that they leave, and whether a plan may continue or keep them.

An output may be kept if its plan is the same and its images are: key, class and size of each, as the source lists them now.
A file of the same size that has changed on the disk since (by its ``st_ctime``, which the owner of a file cannot set) is read
again and compared with the checksum in its row. What this cannot see: rows of a Hugging Face data set that were replaced by
others of the same size, and files that were changed while they were being encoded.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from jpegcurr.encoding.beton.manifest import Manifest, Plan, items_path, manifest_path, read_manifest
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import format_of, stem_of
from jpegcurr.encoding.sources.base import MISSING, Item, Source
from jpegcurr.errors import BetonError, ImageError, UsageError
from jpegcurr.files import refuse_existing, write_text
from jpegcurr.json_files import read_json

log = logging.getLogger("jpegcurr")

_BOOT = 36  # characters of a boot id; as many spaces mean that the records must be read back


def output_files(output: Path) -> list[Path]:
    """Return every file that a finished encode leaves for one output, the first of which may be a folder."""
    return [output, manifest_path(output), items_path(output)]


def partial_files(output: Path) -> list[Path]:
    """Return every file that an interrupted encode leaves for one output: plan, samples (which may be a folder), rows."""
    samples = output.with_name(f".{output.name}.partial")
    return [_hidden(output, ".plan"), samples, _hidden(output, ".items.jsonl.partial")]


def replaced_place(output: Path) -> Path:
    """Return the place of a folder that an output is about to replace."""
    return output.with_name(f".{output.name}.replaced")


def lock_file(output: Path) -> Path:
    """Return the file that the process writing ``output`` locks."""
    return _hidden(output, ".lock")


def _hidden(output: Path, suffix: str) -> Path:
    return output.with_name(f".{stem_of(output)}{suffix}")


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _PlanFile(BaseModel):
    """The content of a plan file."""

    plan: dict[str, Any]
    boot: str


@dataclass(frozen=True, slots=True)
class InterruptedEncode:
    """An interrupted encode: its plan, and whether the machine or the disk has ``crashed`` since."""

    plan: dict[str, Any]
    crashed: bool

    @staticmethod
    def exists(beton: Path) -> bool:
        """Return whether there is one, readable or not."""
        return all(file.exists() for file in partial_files(beton)[:2])

    @classmethod
    def find(cls, beton: Path) -> "InterruptedEncode | None":
        """Read the plan file of an interrupted encode; None if there is none; raises UsageError if it is unreadable."""
        file = partial_files(beton)[0]
        if not cls.exists(beton):
            return None
        complaint = "is of an interrupted encode, and cannot be read"
        content = read_json(file, _PlanFile, complaint=complaint, remedy="Start over with --force.")
        return cls(content.plan, content.boot != read_boot_id() or not content.boot.strip())


def refuse_finished(outputs: Iterable[Path], or_else: str = "") -> None:
    """Raise UsageError if an output, or a file beside it, exists; ``or_else`` is suggested beside -o and --force."""
    files = [file for output in outputs for file in output_files(output)]
    folders = [file for file in files if file.is_dir() and OUTPUT_FORMATS[format_of(file)].is_folder]
    refuse_existing(files, force=False, or_else=or_else, replaceable=folders)


def refuse_foreign(output: Path) -> None:
    """Raise UsageError if the place of an output holds what jpegcurr did not write and would not be replaced by one file.

    A folder is jpegcurr's if its manifest is beside it: --force must not delete a data set that only has the same name.
    """
    if OUTPUT_FORMATS[format_of(output)].is_folder and output.exists() and not manifest_path(output).is_file():
        raise UsageError(f"{output} exists and is not of jpegcurr, so nothing replaces it. Choose another place with -o.")


def refuse_interrupted(beton: Path) -> None:
    """Raise UsageError if there is an interrupted encode of ``beton``."""
    if InterruptedEncode.find(beton) is not None:
        raise UsageError(f"An encode of {beton} was interrupted. Continue it with --resume, or start over with --force.")


def resolve_output(beton: Path, plan: Plan, source: Source, order: NDArray[np.int64], *, force: bool) -> Manifest | None:
    """Return the manifest of an output that is finished; None for one to be started or resumed.

    ``order`` are positions in ``source.items`` in file order. With ``force``, an output of another plan or of other images is
    replaced by empty partial files.

    Raises:
        UsageError: the output there, finished or interrupted, has another plan, is of images that have changed since or have
            another class now, or is not jpegcurr's, and ``force`` is not set.
    """
    try:
        manifest = _check_existing(beton, plan)
        check_images(beton, source, order, finished=manifest is not None)
        return manifest
    except UsageError:
        if not force:
            raise
    create_partial_files(beton, plan)
    return None


def _check_existing(beton: Path, plan: Plan) -> Manifest | None:
    interrupted = InterruptedEncode.find(beton)
    if interrupted is not None:
        check_plan(interrupted.plan, plan, f"The interrupted encode of {beton}")
        return None
    partial_files(beton)[0].unlink(missing_ok=True)  # left by a finish that was killed just before its end
    manifest = _manifest_or_none(beton)
    if manifest is None:
        refuse_finished([beton])
        return None
    finished = manifest.model_dump() | {"versions": plan.versions}  # a finished output may be of older libraries
    check_plan(finished, plan, str(beton))
    if not beton.exists():
        return None
    for file in partial_files(beton):  # left by a replacement that was stopped before its first image
        remove(file)
    return manifest


def create_partial_files(beton: Path, plan: Plan) -> None:
    """Create an output's hidden files, empty; from then on ``--resume`` continues them, whatever has the output's name."""
    plan_file, partial, items = partial_files(beton)
    if InterruptedEncode.exists(beton):
        undo_renaming(beton)  # or items would keep their final name without a beton
    plan_file.unlink(missing_ok=True)  # first: without a plan nothing can be resumed
    partial.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    if OUTPUT_FORMATS[format_of(beton)].is_folder:
        partial.mkdir()
    else:
        partial.write_bytes(b"")
    items.write_bytes(b"")
    write_text(plan_file, json.dumps({"boot": read_boot_id(), "plan": plan.model_dump()}))


def _manifest_or_none(beton: Path) -> Manifest | None:
    try:
        return read_manifest(beton)
    except BetonError:
        if beton.exists():
            raise
        return None


def check_plan(existing: dict[str, Any], plan: Plan, name: str) -> None:
    """Raise UsageError for the first field in which ``existing``, the plan of the output ``name``, differs from ``plan``."""
    optional = {name: field.default for name, field in Plan.model_fields.items() if not field.is_required()}  # in older plans
    wanted, existing = (json.loads(json.dumps(fields)) for fields in (plan.model_dump(), optional | existing))
    drawn = all(existing.get(field) == wanted[field] for field in ("val_share", "test_share", "split_seed"))
    if existing.get("items") != plan.items and drawn:
        raise UsageError(
            f"{name} was encoded from {existing.get('items')} images, but the source has {plan.items} now: the source, --limit "
            "or --classes changed. Start over with --force."
        )
    for field, value in sorted(wanted.items(), key=lambda one: one[0] == "items"):  # which other fields may explain
        if existing.get(field) != value:
            difference = _describe_difference(field, existing.get(field), value)
            raise UsageError(f"{name} has {difference}. Give the same options, or start over with --force.")


def _describe_difference(name: str, old: object, new: object) -> str:
    if name == "boxes" and None in (old, new):
        return "images for samples, this encode boxes" if old is None else "boxes for samples, this encode images"
    if isinstance(old, dict) and isinstance(new, dict):  # versions
        name = next(key for key in {**new, **old} if old.get(key) != new.get(key))
        old, new = old.get(name), new.get(name)
    if name == "classes" and isinstance(old, list) and isinstance(new, list) and sorted(old) == sorted(new):
        return f"its {len(old)} {name} in another order (names that are all whole numbers are sorted as numbers now)"
    if isinstance(old, list) and isinstance(new, list):  # classes
        unmatched = sorted({*map(str, old)} ^ {*map(str, new)})
        example = f" ({unmatched[0]!r} is in only one of them)" if unmatched else ""
        return f"{len(old)} {name}, this encode {len(new)}{example}"
    old, new = ("not set" if value is None else value for value in (old, new))
    return f"{name} {old}, this encode {new}"


def check_images(beton: Path, source: Source, order: NDArray[np.int64], *, finished: bool) -> None:
    """Raise UsageError for the first image of an output, ``finished`` or not, that has another key, class or content now.

    An unfinished output is compared up to the first image that could not be encoded and has been repaired since: from there on
    all are encoded again.
    """
    file = items_path(beton) if finished or not (partial := partial_files(beton)[2]).exists() else partial
    if not file.exists():
        return
    written_at = file.stat().st_mtime_ns
    with closing(read_rows(file)) as rows:
        for position, line in zip(order, rows, strict=False):
            item = source.items[int(position)]
            try:
                row = json.loads(line)
                failed = row["status"] == "failed"
                if failed and not finished and is_repaired(row, item):
                    return
                change = _describe_change(row, item, source, written_at, failed=failed)
            except (
                ValueError,
                KeyError,
                TypeError,
                RecursionError,
            ):  # after a crash of the machine; the encode reads all records back then
                return
            if change:
                raise UsageError(
                    f"{source.store.locate(item)} {change} since {beton} was encoded. Encode it anew with --resume --force, "
                    "which keeps the outputs that have not changed, or name another folder with -o."
                )


def _describe_change(row: dict[str, Any], item: Item, source: Source, written_at: int, *, failed: bool) -> str:
    """Return what has changed about an image since its ``row`` was written; empty if nothing has."""
    if row["key"] != item.key:
        return f"stands where {row['key']} stood: images were added, removed or renamed"
    if row["label"] != item.label:
        was = source.classes[row["label"]] if 0 <= row["label"] < len(source.classes) else row["label"]
        return f"is of the class {source.classes[item.label]!r} and was of {was!r}: its label changed"
    if row.get("box") != (item.box.as_row if item.box else None):
        return "has another box than it had"
    if failed:
        return ""
    if item.size not in (MISSING, row["source_bytes"]):
        return f"has {item.size} bytes and had {row['source_bytes']}: it has changed"
    changed_at = source.store.changed_at(item)
    if changed_at is None or changed_at <= written_at or "source_crc32" not in row:
        return ""
    try:
        same = zlib.crc32(source.store.read(item)) == row["source_crc32"]
    except ImageError as error:
        return f"can no longer be read ({error}): it has changed"
    return "" if same else "has other content of the same size: it has changed"


FAILED = b'"status": "failed"'  # with its quotes, these bytes are in no other row


def is_repaired(row: dict[str, Any], item: Item) -> bool:
    """Return whether the image of a ``failed`` row has another size now, or another box."""
    changed = row["source_bytes"] != item.size or row.get("box") != (item.box.as_row if item.box else None)
    return bool(row["key"] == item.key and changed)


def read_rows(file: Path) -> Generator[bytes, None, None]:
    """Yield the whole lines of an items file."""
    with file.open("rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))


def undo_renaming(beton: Path) -> None:
    """Take back the first renaming of a ``finish`` that was killed halfway, so that it can be done again."""
    _, _, items = partial_files(beton)
    if not items.exists() and items_path(beton).exists():
        items_path(beton).replace(items)


def write_boot_id(plan_file: Path, boot: str) -> None:
    """Replace the boot id in a plan file, in place, which works even on a full disk."""
    with suppress(OSError), plan_file.open("r+b") as file:
        file.seek(len('{"boot": "'))
        file.write(boot.ljust(_BOOT).encode())
        file.flush()
        os.fsync(file.fileno())


def read_boot_id() -> str:
    """Return an id that differs after every boot and on every machine; blank where the system has none."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return boot[:_BOOT].ljust(_BOOT)
