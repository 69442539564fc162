"""Pages of a file that are fetched ahead and released."""

import ctypes
import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import LOADERS, jpeg, photograph, write_beton

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data import readahead, sampling
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.readahead import AHEAD, Readahead
from jpegcurr.training.data.sampling import EpochSampler, Variant

PAGE = 2 << 20
SAMPLES, SIZE = 120, 200_000
IMAGE = ImageSection(size=32)


class Calls(Beton):
    """A beton that records the calls for its pages."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.calls: list[tuple[str, int]] = []

    def fetch_page(self, page: int) -> None:
        self.calls.append(("fetch", page))
        super().fetch_page(page)

    def release_page(self, page: int) -> None:
        self.calls.append(("release", page))
        super().release_page(page)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a beton of 24 MB in pages of 2 MiB: small JPEGs with padding."""
    payload = jpeg(photograph("cat").resize((40, 40))).ljust(SIZE, b"\0")
    samples = [(payload, 40, 40, number % 3) for number in range(SAMPLES)]
    return write_beton(tmp_path_factory.mktemp("pages") / "large.beton", samples, page_size=PAGE)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "RUN", 10)
    monkeypatch.setattr(sampling, "WINDOW", 2)


def sampler_of(*betons: Beton, **options: object) -> EpochSampler:
    variants = {str(number): Variant(beton) for number, beton in enumerate(betons)}
    plans = (EpochPlan(0, 0, tuple((name, 1 / len(variants)) for name in variants), 0.0, 1),)
    return EpochSampler(variants, IMAGE, train=True, batch=4, plans=plans, order_by="quasi_random", os_cache=False, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_windows")
def test_every_page_is_fetched_before_its_first_use_and_released_after_its_last(path: Path) -> None:
    beton = Calls(path)
    sampler = sampler_of(beton)
    batches = sampler.batches(0)
    ahead = Readahead(sampler, 0, batches)
    pages = [set(beton.pointers[batch] // PAGE) for batch in batches]
    held: set[int] = set()
    largest = 0
    for number in range(len(pages)):
        beton.calls.clear()
        ahead.start(number)
        for action, page in beton.calls:
            held.symmetric_difference_update({page})
            assert (action == "fetch") == (page in held), "fetched once, released once"
        soon = set().union(*pages[number : number + AHEAD + 1])
        assert soon <= held
        later = set().union(*pages[max(number - 1, 0) :])
        assert held <= later, "pages that are not needed any more are released"
        largest = max(largest, len(held))
    ahead.close()
    assert len(beton.calls) >= 1
    assert largest < 9 < len(set(beton.pointers // PAGE)), "the whole file is never held"


@pytest.mark.usefixtures("small_windows")
def test_pages_of_a_mixture_belong_to_the_files_drawn(path: Path) -> None:
    first, second = Calls(path), Calls(path)
    sampler = sampler_of(first, second)
    batches = sampler.batches(0)
    ahead = Readahead(sampler, 0, batches)
    for number in range(len(batches)):
        ahead.start(number)
    ahead.close()
    order = np.concatenate(batches)
    drawn = sampler.samples(0, order)["variant"]
    for position, beton in enumerate((first, second)):
        expected = sorted(set(beton.pointers[order[drawn == position]] // PAGE))
        for action in ("fetch", "release"):
            assert sorted(page for call, page in beton.calls if call == action) == expected


@pytest.mark.usefixtures("small_windows")
def test_a_page_of_a_file_that_is_mixed_with_itself_is_held_until_both_have_used_it(path: Path) -> None:
    """Mix a stored file with the same file at a JPEG quality on the fly."""
    once, twice = Calls(path), Calls(path)
    for sampler in (sampler_of(once), sampler_of(twice, twice)):
        ahead = Readahead(sampler, 0, sampler.batches(0))
        for number in range(len(sampler)):
            ahead.start(number)
        ahead.close()
    assert twice.calls == once.calls


def test_with_the_systems_cache_no_page_is_fetched(path: Path) -> None:
    beton = Calls(path)
    sampler = replace(sampler_of(beton), os_cache=True)
    ahead = Readahead(sampler, 0, sampler.batches(0))
    ahead.start(0)
    ahead.close()
    assert beton.calls == []


def test_pages_can_be_fetched_after_the_file_was_unlinked(path: Path, tmp_path: Path) -> None:
    """Check that failing advice does not end a run, which can still read from the map."""
    copy = tmp_path / "copy.beton"
    copy.write_bytes(path.read_bytes())
    beton = Beton(copy)
    copy.unlink()
    beton.fetch_page(1)
    beton.release_page(1)
    assert beton.payload(0) == Beton(path).payload(0)


def resident(path: Path) -> int:
    """Return how many bytes of a file the system holds in memory."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as mapped,
    ):
        pages = -(-len(mapped) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapped)), states) == 0
        return sum(state & 1 for state in states) * mmap.PAGESIZE


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_does_not_stay_in_memory(path: Path, cpu: Runtime, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "AHEAD", 1)
    beton = Beton(path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # pages that are not on the disk yet cannot be released
    for page in range(path.stat().st_size // PAGE + 1):
        beton.release_page(page)
    if resident(path) > 2 * PAGE:
        pytest.skip("this file system keeps files in memory whatever is advised")
    loader = open_loader(kind, sampler_of(beton, workers=2), cpu)
    largest = max(resident(path) for _ in loader.at(0))
    assert resident(path) <= 3 * PAGE, "all pages are released"
    assert largest <= 0.8 * path.stat().st_size
