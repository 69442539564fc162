"""The contract of both loaders, and what each promises besides."""

import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import jpeg, photograph, tiny_recipe

from jpegcurr.encoding.beton import Beton
from jpegcurr.encoding.pixels import read_pixels
from jpegcurr.encoding.writer import BetonWriter
from jpegcurr.errors import ImageError, RecipeError, TrainingError
from jpegcurr.recipe import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.contract import Loader, View
from jpegcurr.training.datasets import open_datasets
from jpegcurr.training.loaders import choose_kind, ffcv_scratch, open_loader, open_loaders
from jpegcurr.training.views import Box, centre_box, centre_view, random_view

KINDS = ("plain", pytest.param("ffcv", marks=[pytest.mark.ffcv, pytest.mark.filterwarnings("ignore")]))
IMAGE = ImageSection(size=40)
_open: dict[tuple[str, bool], Loader] = {}


@pytest.fixture
def view(betons: Path) -> View:
    return View(Beton(betons / "train-source.beton"), IMAGE, train=True, batch=8, step=20, seed=5, workers=1)


@pytest.fixture
def loader(request: pytest.FixtureRequest, betons: Path, cpu: Runtime) -> Loader:
    """A training or a validation loader of either kind; compiled once a session."""
    kind, train = request.param
    if (kind, train) not in _open:
        if train:
            view = View(Beton(betons / "train-source.beton"), IMAGE, True, batch=8, step=20, seed=5, workers=1)
        else:
            view = View(Beton(betons / "val-source.beton"), IMAGE, False, batch=7, workers=1)
        _open[kind, train] = open_loader(kind, view, cpu)
    return _open[kind, train]


def params(train: bool) -> list[object]:
    ffcv = [pytest.mark.ffcv, pytest.mark.filterwarnings("ignore")]
    return [pytest.param(("plain", train), id="plain"), pytest.param(("ffcv", train), id="ffcv", marks=ffcv)]


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_a_training_epoch_is_whole_steps_in_the_order_of_seed_and_epoch(loader: Loader, view: View) -> None:
    for epoch in (0, 3):
        batches = list(loader.at(epoch))
        assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 8], "48 images, 40 in whole steps of 20"
        assert len(loader) == 5
        for images, labels in batches:
            assert images.shape == (8, 3, 40, 40)
            assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        seen = torch.cat([labels for _, labels in batches]).numpy()
        assert (seen == view.beton.labels[view.order(epoch)]).all()
    assert not np.array_equal(view.order(0), view.order(3))


@pytest.mark.parametrize("loader", params(train=False), indirect=True)
def test_a_validation_epoch_is_every_sample_once_as_pillow_sees_it(loader: Loader, betons: Path) -> None:
    beton = Beton(betons / "val-source.beton")
    batches = list(loader.at(0))
    assert [len(labels) for _, labels in batches] == [7, 7, 2]
    assert len(loader) == 3
    images = torch.cat([images for images, _ in batches])
    assert torch.cat([labels for _, labels in batches]).tolist() == beton.labels.tolist()
    for index, image in enumerate(images):
        expected = centre_view(read_pixels(beton, index), IMAGE)
        assert (image.float() - expected.float()).abs().mean() < 3, "FFCV's fast DCT is within a few levels"


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_kept_batches_do_not_change(loader: Loader) -> None:
    kept = []
    copies = []
    for images, labels in loader.at(1):
        kept.append((images, labels))
        copies.append((images.clone(), labels.clone()))
    for (images, labels), (images_then, labels_then) in zip(kept, copies, strict=True):
        assert torch.equal(images, images_then)
        assert torch.equal(labels, labels_then)


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_an_epoch_left_early_leaves_no_thread_and_the_next_is_whole(loader: Loader) -> None:
    before = threading.active_count()
    for epoch in range(3):
        batches = loader.at(epoch)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
    patience = time.monotonic() + 10  # torch's own queues end their threads a moment later
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert sum(len(labels) for _, labels in loader.at(0)) == 40


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_threads_of_torch_are_left_alone(loader: Loader) -> None:
    before = torch.get_num_threads()
    list(islice(loader.at(0), 2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_pixels_depend_on_seed_epoch_and_sample_alone(view: View, cpu: Runtime, workers: int) -> None:
    torch.manual_seed(workers)
    state = torch.get_rng_state()
    mine = View(view.beton, IMAGE, True, batch=8, step=20, seed=5, workers=workers)
    batches = list(open_loader("plain", mine, cpu).at(2))
    images = torch.cat([images for images, _ in batches])
    for position, index in enumerate(view.order(2)):
        expected = random_view(read_pixels(view.beton, int(index)), IMAGE, (5, 2, int(index)))
        assert torch.equal(images[position], expected)
    assert torch.equal(torch.get_rng_state(), state), "the model's generator is not touched"


def test_crops_of_one_sample_differ_between_epochs_and_are_paired_between_qualities(betons: Path) -> None:
    clean, half = (Beton(betons / f"train-{name}.beton") for name in ("source", "q50"))
    first, again = (random_view(read_pixels(clean, 0), IMAGE, (0, epoch, 0)).float() for epoch in (0, 1))
    paired = random_view(read_pixels(half, 0), IMAGE, (0, 0, 0)).float()
    assert (first - paired).abs().mean() < 8 < (first - again).abs().mean()


def test_a_view_without_chance_is_the_whole_image_resized() -> None:
    pixels = np.asarray(photograph("cat").crop((0, 0, 80, 80)))
    still = ImageSection(size=80, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, val_crop=1.0)
    for view in (random_view(pixels, still, (0, 0, 0)), centre_view(pixels, still)):
        assert np.array_equal(view.permute(1, 2, 0).numpy(), pixels)
    flipped = random_view(pixels, still.model_copy(update={"hflip": 1.0}), (0, 0, 0))
    assert np.array_equal(flipped.permute(1, 2, 0).numpy(), pixels[:, ::-1])


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_interpolations_give_the_size_asked_for_and_differ(interpolation: str) -> None:
    pixels = np.asarray(photograph("cat"))
    image = ImageSection(size=64, interpolation=interpolation)
    view = centre_view(pixels, image).float()
    assert view.shape == (3, 64, 64)
    others = [
        centre_view(pixels, ImageSection(size=64, interpolation=each)).float() for each in ("area", "bilinear", "bicubic")
    ]
    assert sum(torch.equal(view, other) for other in others) == 1


def test_the_centre_box_is_ffcvs() -> None:
    assert centre_box(375, 500, 224 / 256) == Box(23, 86, 328, 328)


def test_area_is_for_both_and_other_filters_are_for_plain_alone() -> None:
    bicubic = ImageSection(interpolation="bicubic")
    assert choose_kind("plain", IMAGE, 0)[0] == "plain"
    kind, reason = choose_kind("auto", bicubic, 0)
    assert kind == "plain"
    assert "ffcv" in reason
    with pytest.raises(RecipeError, match=r"loader\.kind"):
        choose_kind("ffcv", bicubic, 0)


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_auto_takes_ffcv_where_it_is_and_says_so() -> None:
    assert choose_kind("auto", IMAGE, 0) == ("ffcv", "loader: ffcv (installed)")


def test_auto_takes_plain_where_ffcv_is_not_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.training.loaders.find_spec", lambda _name: None)
    assert choose_kind("auto", IMAGE, 0) == ("plain", "loader: plain (ffcv is not installed)")
    with pytest.raises(RecipeError, match="ffcv is not installed"):
        choose_kind("ffcv", IMAGE, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_does_not_decode_is_named(cpu: Runtime, workers: int) -> None:
    with BetonWriter(Path("bad.beton"), 2) as writer:
        writer.append(jpeg(photograph("cat").resize((40, 40))), 40, 40, 0)
        writer.append(b"\xff\xd8 no JPEG", 40, 40, 1)
        writer.finish()
    view = View(Beton(Path("bad.beton")), IMAGE, False, batch=2, workers=workers)
    with pytest.raises(ImageError, match=r"^sample 1 of bad\.beton: "):
        list(open_loader("plain", view, cpu).at(0))


def test_a_recipe_opens_every_data_set_before_the_first_epoch(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    recipe = tiny_recipe(betons, tmp_path)
    loaders = open_loaders(recipe, open_datasets(recipe), cpu)
    assert list(loaders.train) == list(loaders.val) == ["clean", "q50"]


def test_a_batch_larger_than_the_data_is_told(betons: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"batch\.size 64 is larger than data\.clean\.train, 48 images"):
        open_datasets(tiny_recipe(betons, tmp_path, "batch.size=64"))


def test_ffcv_is_not_asked_to_set_more_memory_aside_than_there_is(betons: Path) -> None:
    """Five batches of the largest width times the largest height: one photograph of 24 megapixels is enough."""
    beton = Beton(betons / "val-q50.beton")
    assert ffcv_scratch(beton, 8) == 5 * 8 * 3 * int(beton.widths.max()) * int(beton.heights.max())
    beton.widths[0], beton.heights[0] = 6000, 4000
    kind, reason = choose_kind("auto", IMAGE, ffcv_scratch(beton, 10_000))
    assert kind == "plain"
    assert "GB to decode into" in reason or "not installed" in reason


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_ffcv_stops_loading_when_an_epoch_is_left(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.loader.epoch_iterator import EpochIterator

    loaded = []
    run_pipeline = EpochIterator.run_pipeline
    monkeypatch.setattr(EpochIterator, "run_pipeline", lambda *args: loaded.append(1) or run_pipeline(*args))
    loader = open_loader("ffcv", View(Beton(betons / "train-q50.beton"), IMAGE, True, batch=1, workers=1), cpu)
    assert len(loader) == 48
    batches = loader.at(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(loaded) < 12


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_an_error_in_ffcvs_thread_ends_the_epoch(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.loader.epoch_iterator import EpochIterator

    def fail(*_args: object) -> None:
        raise ValueError("a broken pipeline")

    loader = open_loader("ffcv", View(Beton(betons / "val-q50.beton"), IMAGE, False, batch=4, workers=1), cpu)
    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    with pytest.raises(TrainingError, match="FFCV's loading thread died"):
        list(loader.at(0))
