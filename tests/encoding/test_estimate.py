"""Estimates: whether an encode fits on its disk, at no cost where the listing's sizes settle it."""

import shutil
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jpegcurr.encoding import estimate
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import UsageError


@pytest.fixture
def source() -> Source:
    """Forty images, of which every fourth is some twenty times as large as the others."""
    random = np.random.default_rng(0)
    Path("d/a").mkdir(parents=True)
    for number in range(40):
        side = 160 if number % 4 == 0 else 24
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(f"d/a/{number}.jpg", quality=95)
    return open_sources("d")[0]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def check(source: Source, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, free: int, *names: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
    outputs = plan_outputs([source], [EncodeSpec(quality) for quality in names or (50,)], Path("out"))
    estimate.refuse_too_large([source], outputs, executor)


def test_nothing_is_encoded_where_the_sizes_of_the_sources_settle_it(
    source: Source, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "estimate_splits", lambda *arguments, **options: pytest.fail("a sample was encoded"))
    check(source, executor, monkeypatch, 2 * int(source.items.sizes.sum()))
    check(source, executor, monkeypatch, 4 * int(source.items.sizes.sum()), 50, 90)
    with pytest.raises(pytest.fail.Exception, match="a sample was encoded"):
        check(source, executor, monkeypatch, 4 * int(source.items.sizes.sum()) - 1, 50, 90)


def test_a_sample_refuses_only_what_is_surely_too_large_and_warns_of_the_rest(
    source: Source, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = plan_outputs([source], [EncodeSpec(50)], Path("out"))
    (whole,) = estimate.estimate_splits([source], outputs, executor)
    (exact,) = whole.bytes_out.values()
    assert list(whole.bytes_error.values()) == [0]
    monkeypatch.setattr(estimate, "SAMPLE", 20)
    (sampled,) = estimate.estimate_splits([source], outputs, executor)
    ((about,), (error,)) = sampled.bytes_out.values(), sampled.bytes_error.values()
    rows = 40 * estimate.ROW
    assert abs(about - exact) < estimate.CERTAIN * error < exact, "the sample's error is estimated, not ignored"
    check(source, executor, monkeypatch, about + rows)
    assert caplog.text == ""
    check(source, executor, monkeypatch, about + rows - int(2 * error))
    assert "MB are free: it may not fit" in caplog.text
    with pytest.raises(UsageError, match="so this encode does not fit; nothing was written"):
        check(source, executor, monkeypatch, about + rows - int(3.1 * error))
