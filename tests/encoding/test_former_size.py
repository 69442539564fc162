"""Blocks from before a resize, planted in sets made from photographs: found at their side, and not where there are none."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import PHOTOGRAPHS, jpeg, photograph

import jpegcurr
from jpegcurr.analysis.audit.text import sentences
from jpegcurr.encoding.jpeg.former_size import LEAST_IMAGES, BlockEdges, FormerSize


def resized(former: int, side: int, quality: int | None, count: int, resampling: int = Image.Resampling.BICUBIC) -> list[bytes]:
    """Return JPEGs of quality 95 with ``side`` pixels, once of ``former`` pixels, and JPEGs of ``quality`` then."""
    drawn, files = np.random.default_rng(0), []
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    for number in range(count):
        image = photographs[number % len(photographs)]
        length = int(drawn.integers(min(image.size) // 2, min(image.size), endpoint=True))
        left, top = (int(drawn.integers(0, whole - length, endpoint=True)) for whole in image.size)
        image = image.crop((left, top, left + length, top + length)).resize((former, former), Image.Resampling.LANCZOS)
        if quality is not None:
            image = Image.open(BytesIO(jpeg(image, quality=quality)))
        files.append(jpeg(image.resize((side, side), resampling), quality=95))
    return files


def find(files: list[bytes], side: int) -> FormerSize | None:
    edges = BlockEdges(side)
    for data in files:
        with Image.open(BytesIO(data)) as image:
            edges.add(np.asarray(image.convert("L")))
    return edges.find()


@pytest.mark.parametrize(("former", "side"), [(160, 128), (160, 112)])
def test_blocks_are_found_at_the_side_that_they_had_and_only_where_there_were_some(former: int, side: int) -> None:
    found = find(resized(former, side, 60, 400), side)
    assert found is not None
    assert (found.former, found.images, found.detected) == (former, 400, True)
    none = find(resized(former, side, None, 400), side)
    assert none is not None
    assert not none.detected


def test_what_cannot_tell_is_not_asked() -> None:
    files = resized(80, 64, 50, LEAST_IMAGES)
    assert find(files[1:], 64) is None, "too few"
    assert find(files, 65) is None, "another side"
    flat = BlockEdges(64)
    for _ in range(LEAST_IMAGES):
        flat.add(np.full((64, 64), 128, np.uint8))
    found = flat.find()
    assert found is not None
    assert not found.detected


def test_the_audit_says_so_together_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.encoding.jpeg.former_size.COMMON_SIDES", (144, 160, 192, 224, 300))
    for number, data in enumerate(resized(160, 128, 60, 400)):
        path = Path(f"set/train/{'ab'[number % 2]}/{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = jpegcurr.audit("set", permutations=0)
    (told,) = (line for line in sentences(report) if "resized" in line)
    assert "the shorter side of 100 % is 128 pixels" in told
    assert "400 images together show that they were JPEGs with a side of 160 pixels before that (correlation 0." in told
    former = report.as_dict()["splits"][0]["former"]
    assert (former["former"], former["images"], former["detected"]) == (160, 400, True)
    assert jpegcurr.audit("set", permutations=0, sample=0).splits[0].former is None
