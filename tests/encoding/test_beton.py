"""The file format, against FFCV's own reader, loader and writer, and against damage."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import LabelFirst, Photographs, write_beton

from jpegcurr.encoding.beton.format import BetonIndex, page_size_for
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import BetonError, ImageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant
from jpegcurr.training.data.transforms import centre_crop

PAGE = 1 << 21  # the smallest that FFCV takes
Samples = list[tuple[bytes, int, int, int]]


write = partial(write_beton, page_size=PAGE)

samples_strategy = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=64).map(lambda seed: seed * 9001),  # up to 576 kB: more than one page per file
        st.integers(1, 65535),
        st.integers(1, 65535),
        st.integers(0, 2**20 - 1),
    ),
    min_size=1,
    max_size=12,
)


@given(samples=samples_strategy, spare=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(samples: Samples, spare: int) -> None:
    path = Path("file.beton")
    write(path, samples, len(samples) + spare)
    beton = Beton(path)
    read = [(beton.payload(i), beton.widths[i], beton.heights[i], beton.labels[i]) for i in range(len(beton))]
    assert read == samples
    starts = beton.pointers
    assert (starts // PAGE == (starts + beton.sizes - 1) // PAGE).all(), "a record crosses a page"


@pytest.mark.parametrize("mean", [9_000, 25_000, 110_000, 500_000])
def test_a_file_is_hardly_larger_than_its_jpegs(mean: int) -> None:
    """Sizes spread like photographs': 10,000 and more take 1 % more at most, fewer two pages."""
    sizes = np.random.default_rng(0).lognormal(np.log(mean), 0.6, 20_000).astype(int)
    for count in (1, 10, 500, 10_000, 20_000):
        page = page_size_for(2 * int(sizes[:count].max()), int(sizes[:count].mean()))
        index = BetonIndex(count, page)
        for size in sizes[:count].tolist():
            index.place(size, 1, 1, 0)
        more = index.end + len(index.table()) - int(sizes[:count].sum())
        assert more < (0.01 * sizes[:count].sum() if count >= 10_000 else 2 * page)


def test_page_sizes_are_powers_of_two_that_hold_the_largest_record() -> None:
    assert page_size_for(1) == page_size_for(8 << 20) == 8 << 20
    assert page_size_for((8 << 20) + 1) == page_size_for(1, 500_000) == 16 << 20
    assert page_size_for(1 << 40) == 64 << 20


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_stock_ffcv_reader_reads_our_file(betons: Path) -> None:
    from ffcv.reader import Reader

    path = betons / "train-source.beton"
    ours, theirs = Beton(path), Reader(str(path))
    assert theirs.field_names == ["image", "label"]
    assert theirs.num_samples == len(ours)
    assert theirs.page_size == ours.page_size
    assert (theirs.metadata["f1"] == ours.labels).all()
    assert (theirs.metadata["f0"]["width"] == ours.widths).all()
    for row in theirs.alloc_table:
        assert row["size"] == ours.sizes[row["sample_id"]]


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["SEQUENTIAL", "RANDOM"])
@pytest.mark.parametrize("os_cache", [True, False])
def test_stock_ffcv_loader_gives_our_pixels_and_labels(betons: Path, order: str, os_cache: bool) -> None:
    """In both orders and under both memory managers; FFCV's fast DCT may differ by a few levels."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from jpegcurr.training.data.ffcv_loader import _kept

    path = betons / "train-source.beton"
    beton = Beton(path)
    loader = Loader(
        str(path),
        batch_size=7,
        num_workers=1,
        order=OrderOption[order],
        os_cache=os_cache,
        drop_last=False,
        seed=3,
        pipelines={
            "image": [CenterCropRGBImageDecoder((48, 48), 1.0), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    _kept.append(loader)
    expected = {
        i: centre_crop(read_pixels(beton, i), ImageSection(size=48, val_crop=1.0, val_resize="box")).permute(1, 2, 0).numpy()
        for i in range(len(beton))
    }
    indices = loader.traversal_order.sample_order(0)
    assert sorted(indices) == list(range(len(beton)))
    assert (list(indices) == sorted(indices)) == (order == "SEQUENTIAL")
    position = 0
    for images, labels in loader:
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            index = int(indices[position])
            assert label[0] == beton.labels[index]
            difference = np.abs(image.astype(int) - expected[index])
            assert difference.mean() < 3
            position += 1
    assert position == len(beton)


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_we_read_what_ffcv_writes(mode: str, cpu: Runtime) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    writer = DatasetWriter(
        "theirs.beton", {"label": IntField(), "image": RGBImageField(write_mode=mode, jpeg_quality=90)}, num_workers=1
    )

    writer.from_indexed_dataset(LabelFirst())
    beton = Beton(Path("theirs.beton"))
    assert beton.labels.tolist() == [0, 3, 6, 9, 12]
    for index in range(5):
        expected = Photographs()[index][0]
        pixels = read_pixels(beton, index)
        assert pixels.shape == expected.shape
        difference = np.abs(pixels.astype(int) - expected)
        assert difference.max() == 0 if mode == "raw" else difference.mean() < 6
    sampler = EpochSampler.of(Variant(beton), ImageSection(size=32), batch=5, workers=1)
    (ours,), (stock,) = (list(open_loader(kind, sampler, cpu).at(0)) for kind in ("plain", "ffcv"))
    assert ours[1].tolist() == stock[1].tolist() == beton.labels.tolist(), "though the label is the file's first field"
    assert (ours[0].float() - stock[0].float()).abs().mean() < 3


def _cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


# A change to a file, the error when it is opened, and the error of stock FFCV; None where it opens the file. What
# its loader comes to after that, with the system's cache and without, stands behind.
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str, type[Exception] | None]] = {
    "empty": (lambda data: b"", "it is empty", IndexError),
    "10 bytes": (_cut(10), "only 10 bytes", IndexError),
    "cut in the metadata": (_cut(2200), "cut short", ValueError),
    "cut in the samples": (_cut(3000), "cut short", ValueError),
    "half the table": (_cut(-24 * 24), "allocation table", None),  # wrong pixels; a segmentation fault
    "a row of the table": (_cut(-24), "allocation table", None),
    "no table": (_cut(-24 * 48), "cut short", None),  # reads out of bounds; OverflowError
    "a part of a row": (_cut(-5), "cut short", None),
    "its writer died": (lambda data: data[:16] + bytes(8) + data[24:], "did not finish", None),  # abort; MemoryError, 2.2 TiB
    "another version": (lambda data: b"\x03" + data[1:], "version-2", AssertionError),
    "a zip": (lambda data: b"PK\x03\x04" + data[4:], "version-2", AssertionError),
    "a text": (lambda data: b"not a beton, but long enough to have a header", "version-2", AssertionError),
    "another field": (lambda data: data[:24] + b"\x03" + data[25:], "FFCV type 3", None),
}


@pytest.fixture
def damaged(betons: Path, request: pytest.FixtureRequest) -> Path:
    path = Path("damaged.beton")
    path.write_bytes(DAMAGE[request.getfixturevalue("name")][0]((betons / "train-q50.beton").read_bytes()))
    return path


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_before_anything_is_read(damaged: Path, name: str) -> None:
    with pytest.raises(BetonError, match=DAMAGE[name][1]) as caught:
        Beton(damaged)
    assert "damaged.beton" in str(caught.value)


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGE)
def test_stock_ffcv_opens_or_stumbles_over_the_same_damage(damaged: Path, name: str) -> None:
    from ffcv.reader import Reader

    stumbles = DAMAGE[name][2]
    with pytest.raises(stumbles) if stumbles else nullcontext():
        Reader(str(damaged))


def test_a_missing_file_says_how_to_make_one() -> None:
    with pytest.raises(BetonError, match=r"none\.beton does not exist.*jpegcurr encode"):
        Beton(Path("none.beton"))


def test_a_payload_that_does_not_decode_names_the_sample() -> None:
    write(Path("bad.beton"), [(b"no JPEG", 8, 8, 0)])
    with pytest.raises(ImageError, match=r"sample 0 of bad\.beton"):
        read_pixels(Beton(Path("bad.beton")), 0)
