"""Verification reports every change of a beton since it was written."""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from samples import Photographs, encode_all, jpeg, photograph, write_photos

from jpegcurr.encoding import plan
from jpegcurr.encoding.beton.manifest import items_path, manifest_path, read_items
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.verify import verify_beton
from jpegcurr.errors import BetonError
from jpegcurr.training.data.datasets import open_dataset

HEADER, FIELD, RECORD, ROW = 24, 1041, 24, 24
PREFIX = HEADER + 2 * FIELD


def problems_of(path: Path) -> list[str]:
    try:
        return list(verify_beton(path))
    except BetonError as error:
        return [str(error)]


class Copy:
    """A beton with its manifest and items, of which single bits can be flipped."""

    def __init__(self, beton: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in (beton, manifest_path(beton), items_path(beton)):
            if file.exists():
                shutil.copy(file, folder)
        self.path = folder / beton.name
        self.whole = self.path.read_bytes()
        whole = Beton(self.path)
        rows = list(read_items(self.path)) if items_path(self.path).exists() else []
        self.keys = [row["key"] for row in rows if row["status"] != "failed"]
        self.spare = len(rows) - len(self.keys)
        self.records = [(int(start), int(start + size)) for start, size in zip(whole.pointers, whole.sizes, strict=True)]
        self.table = len(self.whole) - ROW * len(self.keys)

    def problems_with_flip(self, position: int, bit: int) -> list[str]:
        """Return the problems while that bit is flipped; it is flipped back."""
        with self.path.open("rb+") as file:
            file.seek(position)
            file.write(bytes([self.whole[position] ^ 1 << bit]))
        try:
            return problems_of(self.path)
        finally:
            with self.path.open("rb+") as file:
                file.seek(position)
                file.write(self.whole[position : position + 1])

    def sample_at(self, position: int) -> int | None:
        """Whose metadata, record or row a byte belongs to."""
        if position >= self.table:
            return (position - self.table) // ROW
        if PREFIX <= position < PREFIX + RECORD * len(self.keys):
            return (position - PREFIX) // RECORD
        return next((n for n, (start, stop) in enumerate(self.records) if start <= position < stop), None)

    def places(self) -> dict[str, range]:
        """Every byte, by what it is."""
        metadata = PREFIX + RECORD * len(self.keys)
        return {
            "header": range(HEADER),
            "descriptors": range(HEADER, PREFIX),
            "metadata": range(PREFIX, metadata),
            "spare metadata": range(metadata, metadata + RECORD * self.spare),
            "records and gaps": range(metadata + RECORD * self.spare, self.table),
            "table": range(self.table, len(self.whole)),
        }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Six images, two of which failed, at quality 50."""
    root = tmp_path_factory.mktemp("small")
    for number in range(6):
        folder = root / "d" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        crop = photograph("cat").crop((0, 0, 20 + number, 24))
        (folder / f"{number}.jpg").write_bytes(jpeg(crop) if number % 3 != 1 else b"no image")
    encode_all(root / "d", root / "out", [50], max_failures=2)
    copy = Copy(root / "out" / "d-q50.beton", root / "copy")
    assert (len(copy.keys), copy.spare) == (4, 2)
    assert list(verify_beton(copy.path)) == []
    return copy


@pytest.fixture(scope="module")
def val(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The photographs' validation split, as it came."""
    return Copy(betons / "val-source.beton", tmp_path_factory.mktemp("val"))


@pytest.fixture
def random() -> Random:
    return Random(0)  # noqa: S311


def check_reported(copy: Copy, position: int, bit: int) -> None:
    problems = copy.problems_with_flip(position, bit)
    assert problems, f"bit {bit} of byte {position}"
    sample = copy.sample_at(position)
    if sample is not None and not names(problems, sample, copy.keys[sample]):
        raised = [problem for problem in problems if problem.startswith(f"{copy.path} is damaged")]  # it cannot be opened
        assert raised, f"bit {bit} of byte {position}: {problems}"


def names(problems: list[str], sample: int, key: str) -> bool:
    return any(f"sample {sample} ({key})" in problem for problem in problems)


def test_any_bit_of_the_header_is_reported(small: Copy) -> None:
    for position in small.places()["header"]:
        for bit in range(8):
            check_reported(small, position, bit)


@pytest.mark.parametrize("place", ["metadata", "spare metadata", "table"])
def test_a_bit_of_any_byte_is_told_where_the_file_says_what_is_where(small: Copy, place: str, random: Random) -> None:
    for position in small.places()[place]:
        for bit in random.sample(range(8), 2):
            check_reported(small, position, bit)


@pytest.mark.parametrize("place", ["descriptors", "records and gaps"])
def test_a_bit_of_some_bytes_is_told_in_what_is_large(small: Copy, place: str, random: Random) -> None:
    positions = small.places()[place]
    for position in [*positions[:40], *positions[-40:], *random.sample(positions, 150)]:
        check_reported(small, position, random.randrange(8))


def test_a_bit_anywhere_in_a_larger_file_is_told_with_its_image(val: Copy, random: Random) -> None:
    for position in random.sample(range(len(val.whole)), 60):
        check_reported(val, position, random.randrange(8))


def test_a_bit_of_metadata_names_the_image_though_its_pixels_are_right(small: Copy) -> None:
    label = PREFIX + 2 * RECORD + 16
    problems = small.problems_with_flip(label, 0)
    assert [problem.removeprefix(f"{small.path}: ") for problem in problems] == [
        f"the metadata of sample 2 ({small.keys[2]}) has changed since it was written"
    ]
    assert names(small.problems_with_flip(label - 15, 0), 2, small.keys[2]), "its width"
    assert "sample 2" in small.problems_with_flip(label - 11, 0)[0], "its pointer"


def test_a_gap_between_records_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a record did not fit into the rest of a page."""
    monkeypatch.setattr(plan, "page_size_for", lambda *_sizes: 1 << 15)
    write_photos(tmp_path / "photos")
    encode_all(tmp_path / "photos", tmp_path / "out", ["source"])
    copy = Copy(tmp_path / "out" / "train-source.beton", tmp_path / "copy")
    gaps = [(end, start) for (_, end), (start, _) in pairwise(sorted(copy.records)) if end < start]
    assert gaps
    for start, stop in gaps:
        for position in (start, stop - 1, (start + stop) // 2):
            (problem,) = copy.problems_with_flip(position, 3)
            assert f"bytes {start} to {stop}, which belong to no sample" in problem


# What stands beside it.


FIELDS = ("images", "failures", "copied", "scaled", "bytes_in", "bytes_out", "items", "page_size", "beton_bytes")


@pytest.mark.parametrize("name", [*FIELDS, "keys_sha256", "index_sha256", "schema_version", "quality"])
def test_a_manifest_that_says_something_else_is_reported(small: Copy, tmp_path: Path, name: str) -> None:
    copy = Copy(small.path, tmp_path)
    manifest = json.loads(manifest_path(copy.path).read_bytes())
    for other in ([0] * 64, "f" * 64) if name.endswith("256") else (0, manifest[name] + 1, -5, None):
        manifest_path(copy.path).write_text(json.dumps(manifest | {name: other}))
        if other == manifest[name] or (name == "quality" and isinstance(other, int)):
            continue  # nobody can tell one quality from another
        assert problems_of(copy.path), other


def test_a_manifest_that_is_none_is_reported(small: Copy, tmp_path: Path) -> None:
    copy = Copy(small.path, tmp_path)
    text = manifest_path(copy.path).read_text()
    for other in ("", "{}", "[]", text[:-20], text.replace('"seed"', '"sead"'), "\0" + text, text * 2):
        manifest_path(copy.path).write_text(other)
        with pytest.raises(BetonError, match="is not a jpegcurr manifest"):
            list(verify_beton(copy.path))


STORED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another key": lambda row: row | {"key": row["key"] + "x"},
    "no key": lambda row: {name: value for name, value in row.items() if name != "key"},
    "no text for a key": lambda row: row | {"key": 5},
    "another label": lambda row: row | {"label": row["label"] + 1},
    "another width": lambda row: row | {"width": row["width"] + 1},
    "a height too large": lambda row: row | {"height": 1 << 16},
    "other bytes": lambda row: row | {"bytes": row["bytes"] - 1},
    "more bytes than there are": lambda row: row | {"bytes": 1 << 70},
    "another size of its source": lambda row: row | {"source_bytes": row["source_bytes"] + 1},
    "another checksum": lambda row: row | {"crc32": row["crc32"] ^ 1},
    "no checksum": lambda row: {name: value for name, value in row.items() if name != "crc32"},
    "no number for a checksum": lambda row: row | {"crc32": "x"},
    "another fate": lambda row: row | {"status": "copied"},
    "a failure": lambda row: row | {"status": "failed", "reason": "it looked at me"},
    "no fate": lambda row: {name: value for name, value in row.items() if name != "status"},
    "resized": lambda row: row | {"scaled": True},
}


@pytest.mark.parametrize("change", STORED)
def test_items_that_say_something_else_are_reported(small: Copy, tmp_path: Path, change: str) -> None:
    copy = Copy(small.path, tmp_path)
    rows = list(read_items(copy.path))
    number = next(n for n, row in enumerate(rows) if row["status"] != "failed")
    changed = [*rows[:number], STORED[change](rows[number]), *rows[number + 1 :]]
    items_path(copy.path).write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert problems_of(copy.path)


def test_items_that_are_missing_doubled_or_in_another_order_are_reported(small: Copy, tmp_path: Path) -> None:
    copy = Copy(small.path, tmp_path)
    lines = items_path(copy.path).read_text().splitlines(keepends=True)
    assert problems_of(copy.path) == []
    for other in (lines[1:], lines[:-1], [*lines, lines[-1]], lines[::-1], ["\n"], ["[]\n"], ["nonsense\n"], ["5\n"], []):
        items_path(copy.path).write_text("".join(other))
        assert problems_of(copy.path), other
    items_path(copy.path).write_bytes(b"\xff\xfe")
    assert problems_of(copy.path)
    items_path(copy.path).unlink()
    assert "cannot be read" in problems_of(copy.path)[0]


def test_bits_flipped_in_the_items_are_told_if_they_change_anything(small: Copy, tmp_path: Path, random: Random) -> None:
    """Except in the reasons for missing images."""
    copy = Copy(small.path, tmp_path)
    whole = items_path(copy.path).read_bytes()
    for position in random.sample(range(len(whole)), 150):
        changed = bytearray(whole)
        changed[position] ^= 1 << random.randrange(8)
        items_path(copy.path).write_bytes(changed)
        if not problems_of(copy.path):
            assert stored(copy.path, bytes(changed)) == stored(copy.path, whole), changed[position - 20 : position + 20]


def stored(path: Path, items: bytes) -> list[Any]:
    items_path(path).write_bytes(items)
    return [row for row in read_items(path) if row["status"] != "failed"]


# Files without a manifest, and files that are cut short.


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_what_ffcv_wrote_is_decoded() -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
    DatasetWriter("theirs.beton", fields, num_workers=1).from_indexed_dataset(Photographs())
    path = Path("theirs.beton")
    assert list(verify_beton(path)) == []
    start, size = int(Beton(path).pointers[3]), int(Beton(path).sizes[3])
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    (problem,) = verify_beton(path)
    assert problem.startswith("sample 3 of theirs.beton: ")


def test_without_a_manifest_every_sample_is_decoded(small: Copy, tmp_path: Path) -> None:
    copy = Copy(small.path, tmp_path)
    manifest_path(copy.path).unlink()
    assert problems_of(copy.path) == []
    start, _ = copy.records[1]
    (problem,) = copy.problems_with_flip(start, 0)
    assert problem.startswith(f"sample 1 of {copy.path}: ")


def lengths(copy: Copy) -> Iterator[int]:
    """Where a file may break off."""
    (_, first), (last, _) = copy.records[0], copy.records[-1]
    metadata = PREFIX + RECORD * len(copy.keys)
    yield from (0, 1, HEADER - 1, HEADER, HEADER + FIELD, PREFIX, metadata - RECORD, metadata, first, last + 1)
    yield from (copy.table - 1, copy.table, copy.table + 1, copy.table + ROW, len(copy.whole) - ROW, len(copy.whole) - 1)


@pytest.mark.parametrize(
    "opening", [Beton, open_dataset, lambda path: list(verify_beton(path))], ids=["Beton", "open", "verify"]
)
@pytest.mark.parametrize("manifest", [True, False], ids=["with its manifest", "without"])
def test_a_file_that_is_cut_short_is_not_opened(small: Copy, tmp_path: Path, opening: Any, manifest: bool) -> None:
    """Neither for training, by whichever loader, nor for anything else."""
    copy = Copy(small.path, tmp_path)
    if not manifest:
        manifest_path(copy.path).unlink()
    opening(copy.path)
    for length in lengths(copy):
        copy.path.write_bytes(copy.whole[:length])
        with pytest.raises(BetonError, match=copy.path.name):
            opening(copy.path)


def test_a_file_whose_index_was_damaged_is_not_trained_on(small: Copy, tmp_path: Path) -> None:
    """Without decoding anything."""
    copy = Copy(small.path, tmp_path)
    for place in ("header", "metadata", "table"):
        for position in copy.places()[place]:
            data = bytearray(copy.whole)
            data[position] ^= 1
            copy.path.write_bytes(data)
            with pytest.raises(BetonError):
                open_dataset(copy.path)
