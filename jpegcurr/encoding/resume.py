"""What a stopped encode leaves, and whether it may be gone on with."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpegcurr.encoding.beton.manifest import Manifest, Plan, items_path, manifest_path, read_manifest
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.files import refuse_existing, write_text

_BOOT = 36  # characters of the id of a machine's start; as many spaces mean that records are to be read back


def output_files(beton: Path) -> list[Path]:
    """Every file that encoding makes for one ``.beton``."""
    return [beton, manifest_path(beton), items_path(beton)]


def partial_files(beton: Path) -> list[Path]:
    """Every file that a stopped encode leaves for one ``.beton``: plan, records, rows."""
    return [_hidden(beton, ending) for ending in (".plan", ".beton.partial", ".items.jsonl.partial")]


def lock_file(beton: Path) -> Path:
    """The file that is held by whoever writes ``beton``."""
    return _hidden(beton, ".lock")


def _hidden(beton: Path, ending: str) -> Path:
    return beton.with_name(f".{beton.stem}{ending}")


@dataclass(frozen=True, slots=True)
class InterruptedEncode:
    """A stopped encode: its plan, and whether the machine or the disk has failed since."""

    plan: dict[str, Any]
    crashed: bool

    @staticmethod
    def find_any(beton: Path) -> bool:
        """Whether there is one, readable or not."""
        return all(file.exists() for file in partial_files(beton)[:2])

    @classmethod
    def find(cls, beton: Path) -> "InterruptedEncode | None":
        """Read the plan file, if there is one and the records that it speaks of; raises UsageError if it is unreadable."""
        file = partial_files(beton)[0]
        if not cls.find_any(beton):
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return cls(dict(found["plan"]), found["boot"] != boot_id() or not found["boot"].strip())
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UsageError(f"{file}, of a stopped encode, cannot be read. Start over with --force.") from None


def refuse_begun(beton: Path) -> None:
    """Raise UsageError if a stopped encode of ``beton`` is there."""
    if InterruptedEncode.find(beton) is not None:
        raise UsageError(f"An encode of {beton} was stopped. Go on with --resume, or start over with --force.")


def to_resume(beton: Path, plan: Plan, *, force: bool) -> Manifest | None:
    """The manifest of an output that is finished; None for one that is to be begun, or gone on with.

    Raises:
        UsageError: what is there was made, or begun, by another plan, or by something else, and ``force`` is not set.
    """
    try:
        return _finished_as(plan, beton)
    except UsageError:
        if not force:
            raise
    begin(beton, plan)
    return None


def _finished_as(plan: Plan, beton: Path) -> Manifest | None:
    begun = InterruptedEncode.find(beton)
    if begun is not None:
        check_plan(begun.plan, plan, f"The stopped encode of {beton}")
        return None
    partial_files(beton)[0].unlink(missing_ok=True)  # of a finish that was cut off at its very end
    manifest = _manifest_or_none(beton)
    if manifest is None:
        refuse_existing(output_files(beton), force=False)
        return None
    made = manifest.model_dump() | {"versions": plan.versions}  # what is whole stays so under newer libraries
    check_plan(made, plan, str(beton))
    if not beton.is_file():
        return None
    for file in partial_files(beton):  # of a replacement that was stopped before it was begun
        file.unlink(missing_ok=True)
    return manifest


def begin(beton: Path, plan: Plan) -> None:
    """Make an output's hidden files, empty; from then on ``--resume`` goes on with it, whatever has its name."""
    plan_file, partial, items = partial_files(beton)
    if InterruptedEncode.find_any(beton):
        take_back(beton)  # so that no items are left under their name without a beton
    plan_file.unlink(missing_ok=True)  # first: without it there is nothing to go on with
    partial.parent.mkdir(parents=True, exist_ok=True)
    for file in (partial, items):
        file.write_bytes(b"")
    write_text(plan_file, json.dumps({"boot": boot_id(), "plan": plan.model_dump()}))


def _manifest_or_none(beton: Path) -> Manifest | None:
    try:
        return read_manifest(beton)
    except BetonError:
        if beton.is_file():
            raise
        return None


def check_plan(made: dict[str, Any], plan: Plan, what: str) -> None:
    """Raise UsageError that names the first field in which ``made`` differs from ``plan``."""
    if made.get("items") != plan.items:
        raise UsageError(
            f"{what} was made of {made.get('items')} images and the source has {plan.items} now: it has changed, or --limit or "
            "--classes have. Start over with --force."
        )
    wanted, made = (json.loads(json.dumps(each)) for each in (plan.model_dump(), made))
    for name, value in wanted.items():
        if made.get(name) != value:
            raise UsageError(
                f"{what} has {_difference(name, made.get(name), value)}. Give the same options, or start over with --force."
            )


def _difference(name: str, old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):  # versions
        name = next(key for key in {**new, **old} if old.get(key) != new.get(key))
        old, new = old.get(name), new.get(name)
    if isinstance(old, list) and isinstance(new, list):  # classes
        other = sorted({*map(str, old)} ^ {*map(str, new)})
        return f"{len(old)} {name}, this one {len(new)}" + (f" ({other[0]!r} is only in one)" if other else "")
    old, new = ("not set" if value is None else value for value in (old, new))
    return f"{name} {old}, this one {new}"


def take_back(path: Path) -> None:
    """Undo the renaming of a ``finish`` that was cut off in its middle; it is then done again."""
    _, _, items = partial_files(path)
    if not items.exists() and items_path(path).exists():
        items_path(path).replace(items)


def stamp(plan_file: Path, boot: str) -> None:
    """Change in place which start of the machine a plan was written under: a full disk has room for that."""
    with suppress(OSError), plan_file.open("r+b") as file:
        file.seek(len('{"boot": "'))
        file.write(boot.ljust(_BOOT).encode())
        file.flush()
        os.fsync(file.fileno())


def boot_id() -> str:
    """Different after every start of the machine, and on every machine; blank where the system has none."""
    found = ""
    with suppress(OSError):
        found = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return found[:_BOOT].ljust(_BOOT)
