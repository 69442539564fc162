"""The compiled decoder, compared with Pillow and with the plain loader, which is the reference."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import jpeg, photograph, write_beton
from threads import no_thread_left

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.codec import EncodeSpec, reencode
from jpegcurr.errors import ImageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.runtime import Runtime
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant

pytestmark = pytest.mark.compiled
KINDS = ("compiled", "plain")
SIDE = 64
WHOLE = ImageSection(size=SIDE, val_crop=1.0)
CAT = photograph("cat").crop((40, 30, 40 + SIDE, 30 + SIDE))
CLEAN, MIXED = (("clean", 1.0),), (("clean", 0.5), ("q50", 0.5))


def write(path: Path, payloads: Sequence[bytes], side: int = SIDE) -> Beton:
    return Beton(write_beton(path, [(payload, side, side, label) for label, payload in enumerate(payloads)]))


def epoch(kind: str, sampler: EpochSampler, cpu: Runtime, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(open_loader(kind, sampler, cpu).at(number))
    return torch.cat([images for images, *_ in batches]), torch.cat([labels for _, labels, *_ in batches])


def pictures(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


LAYOUTS = {
    "4:4:4": {"subsampling": "4:4:4", "quality": 100},
    "4:2:0": {"subsampling": "4:2:0", "quality": 90},
    "4:2:2": {"subsampling": "4:2:2", "quality": 95},
    "4:1:1": {"subsampling": "4:1:1", "quality": 80},
    "progressive": {"progressive": True, "quality": 96},
    "restart markers": {"restart_marker_blocks": 3},
    "optimised": {"optimize": True},
    "quality 1": {"quality": 1},
    "RGB inside": {"keep_rgb": True, "quality": 96},
}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_pillows_to_the_bit(tmp_path: Path, cpu: Runtime, kind: str) -> None:
    """Decode every chroma layout, grey, and trailing bytes. A whole image at its own size is not resampled."""
    payloads = [jpeg(CAT, **options) for options in LAYOUTS.values()]
    payloads += [jpeg(CAT.convert("L")), jpeg(CAT) + b"trailing"]
    beton = write(tmp_path / "layouts.beton", payloads)
    images, labels = epoch(kind, EpochSampler.of(Variant(beton), WHOLE, batch=4, workers=2), cpu)
    assert labels.tolist() == list(range(len(payloads)))
    for name, picture, payload in zip([*LAYOUTS, "grey", "trailing"], pictures(images), payloads, strict=True):
        assert np.array_equal(picture, np.asarray(Image.open(BytesIO(payload)).convert("RGB"))), name


ON_THE_FLY = {
    "stored": None,
    "before crop, 50": {"quality": 50},
    "before crop, a range": {"quality": [10, 95]},
    "before crop, a ramp": {"quality": {"start": 90, "end": 10}},
    "after resize, 50": {"quality": 50, "stage": "after_resize"},
    "after resize, a range": {"quality": [10, 95], "stage": "after_resize"},
}


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("on_the_fly", ON_THE_FLY)
def test_both_loaders_give_the_same_pixels(betons: Path, cpu: Runtime, interpolation: str, on_the_fly: str) -> None:
    """Allow one level by area; on the fly after the resize, it may change a JPEG coefficient and so more pixels."""
    beton, options = Beton(betons / "train-source.beton"), ON_THE_FLY[on_the_fly]
    variant = Variant(beton, OnTheFlyJpeg.model_validate({"beton": beton.path, **options}) if options else None)
    plans = (EpochPlan(0, 0, CLEAN, 0.25, 1),)
    image = ImageSection(size=40, interpolation=interpolation)
    sampler = EpochSampler({"clean": variant}, image, train=True, batch=10, workers=2, plans=plans)
    (compiled, labels), (plain, expected) = (epoch(kind, sampler, cpu) for kind in KINDS)
    assert torch.equal(labels, expected)
    difference = (compiled.int() - plain.int()).abs()
    if interpolation != "area":
        assert difference.max() == 0
    elif on_the_fly.startswith("after"):
        assert difference.float().mean() < 1
    else:
        assert difference.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
def test_on_the_fly_before_the_crop_gives_the_stored_pixels(betons: Path, cpu: Runtime, kind: str, train: bool) -> None:
    image = ImageSection(size=40, interpolation="bicubic")
    source, half = (Beton(betons / f"train-{name}.beton") for name in ("source", "q50"))
    encoded = Variant(source, OnTheFlyJpeg(beton=source.path, quality=50))
    samplers = [EpochSampler({"": variant}, image, train=train, batch=10, seed=4) for variant in (encoded, Variant(half))]
    (on_the_fly, _), (stored, _) = (epoch(kind, sampler, cpu) for sampler in samplers)
    assert torch.equal(on_the_fly, stored)


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_crop_of_any_part_of_any_side_the_pixels_are_those_of_the_stored_file(
    tmp_path: Path, cpu: Runtime, kind: str
) -> None:
    """Only the blocks are encoded that a crop touches: for small crops, at edges, of images of one block and less too."""
    sides = [(5, 64), (64, 5), (15, 17), (33, 19), (19, 34), (64, 64), (50, 47), (1, 40), (40, 3), (49, 18)]
    pictures = [photograph("cat").crop((40, 30, 40 + width, 30 + height)) for height, width in sides for _ in range(6)]
    variants, quality = [], 15
    for name in ("source", "stored"):
        payloads = [jpeg(picture, quality=96) for picture in pictures]
        if name == "stored":
            payloads = [reencode(payload, [EncodeSpec(quality)])[0].data for payload in payloads]
        rows = [(data, *picture.size, 0) for data, picture in zip(payloads, pictures, strict=True)]
        beton = Beton(write_beton(tmp_path / f"{name}.beton", rows))
        variants.append(Variant(beton, OnTheFlyJpeg(beton=beton.path, quality=quality) if name == "source" else None))
    image = ImageSection(size=32, scale=(0.02, 0.5), ratio=(0.2, 5.0), interpolation="bicubic")
    samplers = [EpochSampler({"": variant}, image, train=True, batch=20, seed=1) for variant in variants]
    for number in range(5):
        (on_the_fly, _), (stored, _) = (epoch(kind, sampler, cpu, number) for sampler in samplers)
        assert torch.equal(on_the_fly, stored)


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_fly_after_the_resize_encodes_the_pixels_that_the_model_gets(betons: Path, cpu: Runtime, kind: str) -> None:
    beton = Beton(betons / "val-source.beton")
    image = ImageSection(size=48, interpolation="area")
    plain, _ = epoch(kind, EpochSampler.of(Variant(beton), image, batch=16), cpu)
    encoded_images, _ = epoch(
        kind,
        EpochSampler.of(Variant(beton, OnTheFlyJpeg(beton=beton.path, quality=20, stage="after_resize")), image, batch=16),
        cpu,
    )
    for picture, before in zip(pictures(encoded_images), pictures(plain), strict=True):
        encoded = jpeg(Image.fromarray(before), quality=20)
        assert np.array_equal(picture, np.asarray(Image.open(BytesIO(encoded))))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_same_for_any_workers_and_on_replay(betons: Path, cpu: Runtime, kind: str) -> None:
    variants = {name: Variant(Beton(betons / f"train-{file}.beton")) for name, file in (("clean", "source"), ("q50", "q50"))}
    plans = (EpochPlan(0, 0, CLEAN, 0.0, 1), EpochPlan(1, 1, MIXED, 0.0, 2))
    sampler = EpochSampler(variants, ImageSection(size=40), train=True, batch=8, seed=3, plans=plans)
    loader = open_loader(kind, replace(sampler, workers=1), cpu)
    first = [torch.cat([images for images, *_ in loader.at(number)]) for number in (0, 1, 0, 1)]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], first[3])
    assert not torch.equal(first[0], first[1])
    for workers in (2, 5):
        assert torch.equal(epoch(kind, replace(sampler, workers=workers), cpu, 1)[0], first[1])


@pytest.mark.parametrize("kind", KINDS)
def test_one_loader_swaps_and_mixes_files_sample_by_sample(betons: Path, cpu: Runtime, kind: str) -> None:
    files = {"clean": "source", "q50": "q50"}
    variants = {name: Variant(Beton(betons / f"train-{file}.beton")) for name, file in files.items()}
    shares = (CLEAN, (("q50", 1.0),), MIXED)
    plans = tuple(EpochPlan(number, 0, share, 0.0, 3) for number, share in enumerate(shares))
    sampler = EpochSampler(variants, ImageSection(size=40), train=True, batch=8, seed=3, plans=plans)
    loader = open_loader(kind, sampler, cpu)
    alone = {
        name: open_loader(kind, EpochSampler({name: variant}, sampler.image, train=True, batch=8, seed=3), cpu)
        for name, variant in variants.items()
    }
    for number, names in enumerate((["clean"], ["q50"], ["clean", "q50"])):
        order = sampler.order(number)
        drawn = sampler.samples(number, order)["variant"]
        expected = {name: torch.cat([images for images, *_ in alone[name].at(number)]) for name in names}
        mixed = torch.cat([images for images, *_ in loader.at(number)])
        for position, image in enumerate(mixed):
            assert torch.equal(image, expected[list(files)[drawn[position]]][position])
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_change_between_epochs_and_nothing_is_compiled_for_it(betons: Path, cpu: Runtime, kind: str) -> None:
    from jpegcurr.training.data.decode_kernel import decode_tasks

    plans = tuple(EpochPlan(number, 0, (("", 1.0),), 0.0, 3, size) for number, size in enumerate((40, 64, None)))
    variant = Variant(Beton(betons / "train-q50.beton"))
    loader = open_loader(kind, EpochSampler({"": variant}, ImageSection(size=32), train=True, batch=30, plans=plans), cpu)
    signatures = len(decode_tasks.signatures)
    assert [[tuple(images.shape) for images, *_ in loader.at(number)] for number in range(3)] == [
        [(30, 3, size, size), (18, 3, size, size)] for size in (40, 64, 32)
    ]
    assert len(decode_tasks.signatures) == signatures


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_last_batches_and_batches_of_one_are_like_others(betons: Path, cpu: Runtime, kind: str, batch: int) -> None:
    sampler = EpochSampler.of(Variant(Beton(betons / "val-q50.beton")), ImageSection(size=40), batch=batch, workers=2)
    counts = []
    for images, labels, *_ in open_loader(kind, sampler, cpu).at(0):
        assert images.shape == (len(labels), 3, 40, 40)
        assert labels.shape == (len(labels),)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)
        counts.append(len(labels))
    assert counts == [batch] * (16 // batch) + [16 % batch] * (16 % batch > 0)


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_raw_images_of_a_file_that_ffcv_wrote(tmp_path: Path, cpu: Runtime, kind: str) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    rows = [(CAT, 3), (photograph("coffee").crop((0, 0, 90, 70)), 1)]
    path = tmp_path / "raw.beton"
    DatasetWriter(
        str(path), {"label": IntField(), "image": RGBImageField(write_mode="raw")}, num_workers=1
    ).from_indexed_dataset([row[::-1] for row in rows])
    beton = Beton(path)
    images, labels = epoch(kind, EpochSampler.of(Variant(beton), WHOLE, batch=2), cpu)
    assert labels.tolist() == [3, 1]
    assert np.array_equal(pictures(images)[0], np.asarray(CAT))
    again = Variant(beton, OnTheFlyJpeg(beton=path, quality=30))
    images, _ = epoch(kind, EpochSampler.of(again, WHOLE, batch=2), cpu)
    assert np.array_equal(pictures(images)[0], np.asarray(Image.open(BytesIO(jpeg(CAT, quality=30)))))


TRUNCATED = jpeg(CAT)[:-300]
OTHER_SIZE = jpeg(CAT.resize((48, 64)))
BROKEN = {
    "zeros": bytes(900),
    "nothing": b"",
    "text": b"\xff\xd8 no JPEG at all",
    "cut": TRUNCATED,
    "another size": OTHER_SIZE,
    "header alone": jpeg(CAT)[:200],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("what", BROKEN)
def test_a_sample_that_does_not_decode_is_an_error_by_name(
    tmp_path: Path, cpu: Runtime, kind: str, train: bool, what: str
) -> None:
    """Stock FFCV gives another image's picture under this label, or a part of one, or one that is rescaled."""
    beton = write(tmp_path / "bad.beton", [jpeg(CAT), jpeg(CAT), BROKEN[what], jpeg(CAT)])
    sampler = EpochSampler({"": Variant(beton)}, WHOLE, train=train, batch=2, workers=2)
    remedy = "on_error=skip, which replaces such samples" if train else "Encode the file again"
    match = rf"^sample 2 of .*bad\.beton: .*{remedy}\.$"
    with no_thread_left(), pytest.raises(ImageError, match=match):
        epoch(kind, sampler, cpu)


SIZES = {
    "no width": (0, SIDE),
    "nothing": (0, 0),
    "a bomb": (65_535, 65_535),
    "wider": (SIDE + 1, SIDE),
    "lower": (SIDE, SIDE - 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", [0, 1], ids=["JPEG", "raw"])
def test_metadata_that_lie_ask_for_no_memory_and_read_nothing_else(
    tmp_path: Path, cpu: Runtime, kind: str, train: bool, size: str, mode: int
) -> None:
    """Open a file whose header would cost 12 GB if the loaders believed it."""
    beton = write(tmp_path / "lies.beton", [jpeg(CAT), jpeg(CAT)])
    beton.widths[1], beton.heights[1] = SIZES[size]
    beton.modes[1] = mode
    on_the_fly = OnTheFlyJpeg(beton=beton.path, quality=50)
    for variant in (Variant(beton), Variant(beton, on_the_fly)):
        with pytest.raises(ImageError, match=r"^sample 1 of .*lies\.beton: "):
            epoch(kind, EpochSampler({"": variant}, WHOLE, train=train, batch=2, workers=2), cpu)


@pytest.mark.parametrize("train", [True, False])
def test_both_loaders_show_images_that_only_pillow_reads_as_pillow_does(tmp_path: Path, cpu: Runtime, train: bool) -> None:
    """Read CMYK and PNG images that another writer stored unchanged, which libturbojpeg refuses."""
    cmyk, png = jpeg(CAT.convert("CMYK"), quality=95), BytesIO()
    CAT.save(png, "PNG")
    beton = write(tmp_path / "odd.beton", [cmyk, jpeg(CAT), png.getvalue()])
    sampler = EpochSampler({"": Variant(beton)}, WHOLE, train=train, batch=3)
    (compiled, labels), (plain, expected) = (epoch(kind, sampler, cpu) for kind in KINDS)
    assert torch.equal(labels, expected)
    assert (compiled.int() - plain.int()).abs().max() <= 1
    if not train:
        assert np.array_equal(pictures(compiled)[2], np.asarray(CAT))


def test_on_error_skip_both_loaders_take_the_same_replacement_and_count_it(tmp_path: Path, cpu: Runtime) -> None:
    rolled = [np.roll(np.asarray(CAT), 4 * number, axis=0) for number in range(12)]
    payloads = [jpeg(Image.fromarray(pixels), quality=95) for pixels in rolled]
    payloads[3] = payloads[7] = bytes(700)
    beton = write(tmp_path / "bad.beton", payloads)
    sampler = EpochSampler({"": Variant(beton)}, WHOLE, train=True, batch=5, skip_broken=True, seed=8)
    epochs = []
    for kind in KINDS:
        loader = open_loader(kind, sampler, cpu)
        for number in (0, 1):
            batches = list(loader.at(number))
            assert loader.replaced == 2
            labels = torch.cat([labels for _, labels, *_ in batches])
            assert sorted(set(labels.tolist()) & {3, 7}) == [], "the label belongs to the picture"
            epochs.append((torch.cat([images for images, *_ in batches]), labels))
    for number in (0, 1):
        assert torch.equal(epochs[number][1], epochs[2 + number][1])
        assert (epochs[number][0].int() - epochs[2 + number][0].int()).abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_on_error_skip_does_not_replace_validation_samples(tmp_path: Path, cpu: Runtime, kind: str) -> None:
    beton = write(tmp_path / "bad.beton", [jpeg(CAT), bytes(700)])
    with pytest.raises(ImageError, match="sample 1"):
        epoch(kind, EpochSampler({"": Variant(beton)}, WHOLE, train=False, batch=2, skip_broken=True), cpu)


@pytest.mark.parametrize("kind", KINDS)
def test_on_error_skip_gives_up_where_nothing_decodes(tmp_path: Path, cpu: Runtime, kind: str) -> None:
    beton = write(tmp_path / "bad.beton", [bytes(700)] * 3)
    with pytest.raises(ImageError, match="nor do 10 samples drawn to replace it"):
        epoch(kind, EpochSampler({"": Variant(beton)}, WHOLE, train=True, batch=3, skip_broken=True), cpu)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_epochs_broken_off_leave_no_thread_and_no_memory(betons: Path, cpu: Runtime, kind: str) -> None:
    sampler = EpochSampler(
        {"": Variant(Beton(betons / "train-q50.beton"))}, ImageSection(size=128), train=True, batch=4, workers=2
    )
    loader = open_loader(kind, sampler, cpu)

    def break_off(count: int) -> int:
        for number in range(count):
            batches = loader.at(number)
            next(batches)
            batches.close()  # type: ignore[attr-defined]
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096

    memory = break_off(20)
    with no_thread_left():
        memory_then = break_off(100)
    assert memory_then - memory < 16 << 20, "the buffers of an epoch are 1 MB; stock FFCV keeps 120 MB per epoch"


def test_one_large_image_costs_its_own_size_and_no_more(tmp_path: Path, cpu: Runtime) -> None:
    """Stock FFCV allocates five batches of the largest width times the largest height: 92 GB for these 64 images."""
    large = Image.new("RGB", (6000, 4000), (10, 200, 30))
    samples = [(jpeg(large), 6000, 4000, 1), *[(jpeg(CAT), SIDE, SIDE, 0)] * 63]
    sampler = EpochSampler.of(Variant(Beton(write_beton(tmp_path / "large.beton", samples))), WHOLE, batch=64, workers=2)
    (images, _), (plain, _) = (epoch(kind, sampler, cpu) for kind in KINDS)
    assert (images.int() - plain.int()).abs().max() <= 1
    assert abs(pictures(images)[0].astype(int) - (10, 200, 30)).max() <= 2


def test_stored_files_and_on_the_fly_qualities_agree_with_the_encoder(tmp_path: Path, cpu: Runtime) -> None:
    """Compare seven qualities in both loaders, to the bit."""
    source = jpeg(CAT, quality=97, subsampling="4:4:4")
    beton = write(tmp_path / "one.beton", [source])
    for quality in (1, 10, 50, 75, 95, 96, 100):
        (stored,) = reencode(source, [EncodeSpec(quality)])
        expected = np.asarray(Image.open(BytesIO(stored.data)))
        variant = Variant(beton, OnTheFlyJpeg(beton=beton.path, quality=quality))
        for kind in KINDS:
            images, _ = epoch(kind, EpochSampler.of(variant, WHOLE, batch=1), cpu)
            assert np.array_equal(pictures(images)[0], expected)


def test_a_change_of_another_file_of_the_code_invalidates_the_cached_decoder() -> None:
    """numba's own key covers only the file that contains the function."""
    from jpegcurr.training.data import crops, decode_kernel, resample_kernel

    def key(kernel: Any) -> object:
        return kernel._cache._index_key((), kernel.targetctx.codegen())

    compile_ = decode_kernel._compile
    assert key(compile_("one")) == key(compile_("one")) != key(compile_("another"))
    sources = b"".join(Path(module.__file__).read_bytes() for module in (resample_kernel, crops))
    assert key(decode_kernel.decode_tasks) == key(compile_(sha256(sources).hexdigest()))
