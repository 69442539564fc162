"""A few hundred damaged inputs of tools/fuzz, and some with one wrong field."""

import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from samples import TOOLS, tool_module

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.codec import EncodeSpec, reencode
from jpegcurr.errors import BetonError, ImageError


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    """Import the script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        yield tool_module("fuzz", patch)


@pytest.fixture
def damage(fuzz: ModuleType) -> Any:
    return sys.modules["corruption"]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_damaged_is_read_or_refused(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    counts = Counter((given.kind, fuzz.is_read(given, tmp_path)) for given in (fuzz.make_input(seed, i) for i in range(300)))
    assert {kind for kind, _ in counts} == {"image", "beton", "verify"}
    assert min(counts["image", True], counts["image", False]) > 40


def test_what_is_whole_is_read(fuzz: ModuleType, damage: ModuleType, tmp_path: Path) -> None:
    for name, data in damage.images().items():
        assert fuzz.is_read(damage.Input("image", name, data), tmp_path), name
    for name, data in damage.betons().items():
        assert fuzz.is_read(damage.Input("beton", name, data), tmp_path), name
    for name in ("beton", "manifest", "items"):
        assert fuzz.is_read(damage.Input("verify", name, getattr(damage.encoded(), name), name), tmp_path), name


def test_an_input_is_a_function_of_seed_and_index(damage: ModuleType) -> None:
    inputs = [damage.make_input(5, index) for index in range(60)]
    assert inputs == [damage.make_input(5, index) for index in range(60)]
    assert inputs != [damage.make_input(6, index) for index in range(60)]


def test_lengths_are_found_where_the_formats_have_them(damage: ModuleType) -> None:
    for name, data in (damage.images() | damage.betons()).items():
        fields = damage.length_fields(data)
        assert fields or name.split()[0] in ("ppm", "pgm", "ico", "tga", "avif", "jpeg2000", "raw"), name
        assert any(position + struct.calcsize(form) <= len(data) for position, form in fields) or not fields, name
    jpeg = damage.images()["jpeg 444"]
    sizes = {struct.unpack_from(form, jpeg.ljust(1 << 17), position)[0] for position, form in damage.length_fields(jpeg)}
    assert {29, 37} < sizes


@pytest.mark.parametrize("name", ["flip_bits", "overwrite", "edit_length", "truncate", "duplicate", "take_out", "splice"])
def test_every_mutator_does_something(damage: ModuleType, name: str) -> None:
    data = damage.images()["png"]
    mutate = getattr(damage, name)
    assert mutate in damage.MUTATORS
    random = Random(0)  # noqa: S311
    assert any(mutate(bytearray(data), random, [data]) != data for _ in range(5))


# Inputs with one wrong field.


def test_a_row_whose_end_is_beyond_any_number_is_refused(damage: ModuleType) -> None:
    """Write sizes with which pointer plus size overflows 64 bits."""
    data = bytearray(damage.betons()["ours"])
    (pointer,) = struct.unpack_from("<Q", data, len(data) - 16)
    for size in (2**64 - pointer, 2**64 - 1, 2**63, len(data)):
        struct.pack_into("<Q", data, len(data) - 8, size)
        Path("x.beton").write_bytes(data)
        with pytest.raises(BetonError, match="points behind the samples"):
            Beton(Path("x.beton"))


def test_pages_of_no_size_are_refused(damage: ModuleType) -> None:
    data = bytearray(damage.betons()["ours"])
    struct.pack_into("<I", data, 4, 0)
    Path("x.beton").write_bytes(data)
    with pytest.raises(BetonError, match="not a version-2"):
        Beton(Path("x.beton"))


@pytest.mark.parametrize("components", [0, 2, 4, 5, 255])
def test_a_jpeg_of_another_number_of_channels_is_refused(damage: ModuleType, components: int) -> None:
    data = bytearray(damage.images()["jpeg 444"])
    data[data.index(b"\xff\xc0") + 9] = components
    with pytest.raises(ImageError):
        reencode(bytes(data), [EncodeSpec("source")])


def test_a_marker_without_a_length_hides_nothing(damage: ModuleType) -> None:
    """Hide a second frame behind such a marker; decoders do not skip it."""
    plain = damage.images()["jpeg 444"]
    frame = plain.index(b"\xff\xc0")
    other = bytearray(plain[frame : plain.index(b"\xff\xc4")])
    other[5:9] = struct.pack(">HH", 5, 3)
    hidden = plain[:frame] + b"\xff\x01" + (len(other) + 2).to_bytes(2, "big") + bytes(other) + plain[frame:]
    for data in (hidden, plain[:frame] + bytes(other) + plain[frame:]):
        with pytest.raises(ImageError):
            reencode(data, [EncodeSpec("source")])


# The tool itself.


def test_the_tool_counts_and_records_its_metrics() -> None:
    options = ["--inputs", "40", "--processes", "2", "--json", "metrics.jsonl"]
    done = subprocess.run([sys.executable, str(TOOLS / "fuzz"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(Path("metrics.jsonl").read_text())
    metrics = line["figures"]
    assert (line["kind"], metrics["inputs"], metrics["findings"]) == ("fuzz", 40, 0)
    assert metrics["read"] + metrics["refused"] == 40
    assert "40 inputs, " in done.stdout
    assert not Path("fuzz-findings").exists()


def test_a_finding_is_saved_and_printed(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "outcomes", lambda *_: iter([(0, "read"), (1, "the process ended with -11")]))
    monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs", "2", "--seed", "9"])
    with pytest.raises(SystemExit) as left:
        fuzz.main()
    assert left.value.code == 1
    given = fuzz.make_input(9, 1)
    assert Path(f"fuzz-findings/9-1.{given.beside or given.kind}").read_bytes() == given.data
    assert Path("fuzz-findings/9-1.txt").read_text() == "the process ended with -11"
    output = capsys.readouterr().out
    assert "--only 9 1" in output
    assert "2 inputs, 1 read, 0 refused, 1 findings" in output
