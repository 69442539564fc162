"""The contract of all loaders, and the choice of one."""

import _ctypes
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import FFCV, jpeg, photograph, tiny_recipe, write_beton
from threads import no_thread_left

from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import ImageError, RecipeError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.data import loaders, turbojpeg
from jpegcurr.training.data.datasets import open_datasets
from jpegcurr.training.data.loaders import choose_cache, choose_kind, open_loader, open_loaders
from jpegcurr.training.data.sampling import EpochSampler, Loader, Variant
from jpegcurr.training.data.targets import SoftTargets
from jpegcurr.training.data.transforms import centre_crop, render

IMAGE = ImageSection(size=40)
_open: dict[tuple[str, bool], Loader] = {}


@pytest.fixture
def sampler(betons: Path) -> EpochSampler:
    return training(Beton(betons / "train-source.beton"))


def training(beton: Beton, workers: int = 1) -> EpochSampler:
    shares = np.linspace(0, 1, len(beton), dtype=np.float32)  # of every image its own
    soft = SoftTargets(np.stack([shares, 1 - shares], axis=1), np.arange(len(beton)))
    return EpochSampler({"clean": Variant(beton, soft=soft)}, IMAGE, train=True, batch=8, step=20, seed=5, workers=workers)


@pytest.fixture
def loader(request: pytest.FixtureRequest, betons: Path, cpu: Runtime) -> Loader:
    """Return a training or validation loader of any kind, compiled once per session."""
    kind, train = request.param
    if (kind, train) not in _open:
        if train:
            sampler = training(Beton(betons / "train-source.beton"))
        else:
            sampler = EpochSampler.of(Variant(Beton(betons / "val-source.beton")), IMAGE, batch=7, workers=1)
        _open[kind, train] = open_loader(kind, sampler, cpu)
    return _open[kind, train]


def params(train: bool) -> list[object]:
    kinds = {"compiled": pytest.mark.compiled, "plain": (), "ffcv": FFCV}
    return [pytest.param((kind, train), id=kind, marks=marks) for kind, marks in kinds.items()]


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_a_training_epoch_is_whole_steps_in_the_order_of_seed_and_epoch(loader: Loader, sampler: EpochSampler) -> None:
    for epoch in (0, 3):
        batches = list(loader.at(epoch))
        assert [len(labels) for _, labels, *_ in batches] == [8, 8, 8, 8, 8], "48 images, 40 in whole steps of 20"
        assert len(loader) == 5
        for images, labels, numbers, *_ in batches:
            assert images.shape == (8, 3, 40, 40)
            assert (images.dtype, labels.dtype, numbers.dtype) == (torch.uint8, torch.int64, np.int64)
        labels = torch.cat([batch.labels for batch in batches]).numpy()
        assert (labels == sampler.beton.labels[sampler.order(epoch)]).all()
        assert np.array_equal(np.concatenate([batch.numbers for batch in batches]), sampler.order(epoch))
        targets = torch.cat([batch.targets for batch in batches if batch.targets is not None]).numpy()
        assert sampler.soft is not None
        np.testing.assert_array_equal(targets, sampler.soft.of(sampler.order(epoch)))
    assert not np.array_equal(sampler.order(0), sampler.order(3))


@pytest.mark.parametrize("loader", params(train=False), indirect=True)
def test_a_validation_epoch_is_every_sample_once_as_pillow_sees_it(loader: Loader, betons: Path) -> None:
    beton = Beton(betons / "val-source.beton")
    batches = list(loader.at(0))
    assert [len(labels) for _, labels, *_ in batches] == [7, 7, 2]
    assert len(loader) == 3
    images = torch.cat([images for images, *_ in batches])
    assert torch.cat([labels for _, labels, *_ in batches]).tolist() == beton.labels.tolist()
    assert np.concatenate([batch.numbers for batch in batches]).tolist() == list(range(16))
    for index, image in enumerate(images):
        expected = centre_crop(read_pixels(beton, index), IMAGE)
        assert (image.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_an_epoch_may_start_at_any_batch(loader: Loader) -> None:
    whole, rest = list(loader.at(2)), list(loader.at(2, 3))
    for batch, again in zip(whole[3:], rest, strict=True):
        assert np.array_equal(batch.numbers, again.numbers)
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.labels, again.labels)


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_kept_batches_do_not_change(loader: Loader) -> None:
    kept = []
    copies = []
    for images, labels, *_ in loader.at(1):
        kept.append((images, labels))
        copies.append((images.clone(), labels.clone()))
    for (images, labels), (images_then, labels_then) in zip(kept, copies, strict=True):
        assert torch.equal(images, images_then)
        assert torch.equal(labels, labels_then)


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_an_epoch_left_early_leaves_no_thread_and_the_next_is_whole(loader: Loader) -> None:
    with no_thread_left():
        for epoch in range(3):
            batches = loader.at(epoch)
            next(batches)
            batches.close()  # type: ignore[attr-defined]
    assert sum(len(labels) for _, labels, *_ in loader.at(0)) == 40


@pytest.mark.parametrize("loader", params(train=True), indirect=True)
def test_threads_of_torch_are_left_alone(loader: Loader) -> None:
    before = torch.get_num_threads()
    list(islice(loader.at(0), 2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_pixels_depend_on_seed_epoch_and_sample_alone(sampler: EpochSampler, cpu: Runtime, workers: int) -> None:
    torch.manual_seed(workers)
    state = torch.get_rng_state()
    batches = list(open_loader("plain", training(sampler.beton, workers), cpu).at(2))
    images = torch.cat([images for images, *_ in batches])
    for position, index in enumerate(sampler.order(2)):
        (row,) = sampler.samples(2, np.array([index]))
        assert np.array_equal(images[position].permute(1, 2, 0).numpy(), render(sampler, row, 40))
    assert torch.equal(torch.get_rng_state(), state), "the model's generator is not touched"


def test_crops_of_one_sample_differ_between_epochs_and_are_paired_between_qualities(betons: Path) -> None:
    clean, half = (training(Beton(betons / f"train-{name}.beton")) for name in ("source", "q50"))
    samples = np.arange(48)
    for name in ("top", "left", "height", "width", "flip"):
        assert (clean.samples(0, samples)[name] == half.samples(0, samples)[name]).all()
        assert (clean.samples(0, samples)[name] != clean.samples(1, samples)[name]).any()
    first, again, paired = (
        render(sampler, sampler.samples(epoch, samples)[0], 40).astype(int)
        for sampler, epoch in ((clean, 0), (clean, 1), (half, 0))
    )
    assert abs(first - paired).mean() < 8 < abs(first - again).mean()


def test_training_without_random_crops_is_the_whole_image_resized(tmp_path: Path) -> None:
    beton = Beton(write_beton(tmp_path / "one.beton", [(jpeg(photograph("cat").crop((0, 0, 80, 80))), 80, 80, 0)]))
    pixels = read_pixels(beton, 0)
    still = ImageSection(size=80, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, val_crop=1.0)
    mirrored = still.model_copy(update={"hflip": 1.0})
    for image, train, expected in ((still, True, pixels), (still, False, pixels), (mirrored, True, pixels[:, ::-1])):
        sampler = EpochSampler({"": Variant(beton)}, image, train=train, batch=1)
        (row,) = sampler.samples(0, np.array([0]))
        assert np.array_equal(render(sampler, row, 80), expected)
    assert np.array_equal(centre_crop(pixels, still).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_interpolations_give_the_size_asked_for_and_differ(interpolation: str) -> None:
    pixels = np.asarray(photograph("cat"))
    image = ImageSection(size=64, interpolation=interpolation)
    sampler = centre_crop(pixels, image).float()
    assert sampler.shape == (3, 64, 64)
    others = [
        centre_crop(pixels, ImageSection(size=64, interpolation=method)).float() for method in ("area", "bilinear", "bicubic")
    ]
    assert sum(torch.equal(sampler, other) for other in others) == 1


@pytest.mark.compiled
def test_auto_takes_compiled_code_where_it_can_and_says_so() -> None:
    assert choose_kind("auto") == ("compiled", "loader: compiled (numba and libturbojpeg are here)")
    assert choose_kind("compiled") == ("compiled", "loader: compiled (asked for)")


def test_auto_takes_plain_without_numba_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.training.data.loaders.find_spec", lambda name: None if name == "numba" else find_spec(name))
    assert choose_kind("auto") == ("plain", "loader: plain, which is slower (numba is not installed)")
    with pytest.raises(RecipeError, match=r"^loader\.kind: compiled cannot be used: numba is not installed\. Set loader"):
        choose_kind("compiled")


def test_auto_takes_plain_without_libturbojpeg_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(turbojpeg, "_candidates", lambda: iter(()))
    monkeypatch.delitem(sys.modules, "jpegcurr.training.data.decode_kernel", raising=False)
    turbojpeg.load_library.cache_clear()
    try:
        kind, reason = choose_kind("auto")
    finally:
        turbojpeg.load_library.cache_clear()
    assert kind == "plain"
    assert reason.startswith("loader: plain, which is slower (libturbojpeg is not installed (Debian and Ubuntu: apt install")


def test_auto_takes_plain_where_numba_has_no_folder_for_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    for name in ("decode_kernel", "resample_kernel"):
        monkeypatch.delitem(sys.modules, f"jpegcurr.training.data.{name}", raising=False)
    kind, reason = choose_kind("auto")
    assert kind == "plain"
    assert "NUMBA_CACHE_DIR" in reason


@pytest.mark.parametrize("target", [False, True])
def test_libturbojpeg_of_a_wheel_is_used_and_what_is_none_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: bool
) -> None:
    """The wheel is in the environment, or in a folder of pip's --target, which is on the path alone."""
    try:
        _, system = turbojpeg.load_library()
    except OSError:
        pytest.skip("no libturbojpeg here")
    libraries = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if Path(system).name in line]
    folder = tmp_path / "turbojpeg.libs"
    folder.mkdir()
    (folder / "libturbojpeg-0.so.0").write_bytes(b"not a library")
    (folder / "libturbojpeg-1.so.0").symlink_to(_ctypes.__file__)  # a library without the functions
    (folder / "libturbojpeg-2.so.0").symlink_to(libraries[0])
    monkeypatch.setattr(turbojpeg, "_system_names", lambda: iter(()))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("sys.base_prefix", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _scheme: str(tmp_path / "none" if target else tmp_path))
    if target:
        monkeypatch.syspath_prepend(str(tmp_path))
    turbojpeg.load_library.cache_clear()
    try:
        assert turbojpeg.load_library()[1] == str(folder / "libturbojpeg-2.so.0")
    finally:
        turbojpeg.load_library.cache_clear()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_does_not_decode_is_named(cpu: Runtime, workers: int) -> None:
    good = jpeg(photograph("cat").resize((40, 40)))
    path = write_beton(Path("bad.beton"), [(good, 40, 40, 0), (b"\xff\xd8 no JPEG", 40, 40, 1)])
    sampler = EpochSampler.of(Variant(Beton(path)), IMAGE, batch=2, workers=workers)
    with pytest.raises(ImageError, match=r"^sample 1 of bad\.beton: "):
        list(open_loader("plain", sampler, cpu).at(0))


def test_a_recipe_opens_every_data_set_before_the_first_epoch(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    recipe = tiny_recipe(betons, tmp_path)
    opened = open_loaders(recipe, open_datasets(recipe), cpu)
    assert list(opened.val) == ["clean", "q50"]
    assert len(opened.train) == 6


def test_two_loaders_may_be_at_work_at_once(betons: Path, cpu: Runtime) -> None:
    for kind in ("auto", "plain", "ffcv") if find_spec("ffcv") else ("auto", "plain"):
        kind, _ = choose_kind(kind)
        sampler = EpochSampler.of(Variant(Beton(betons / "train-q50.beton")), IMAGE, batch=4, workers=2)
        first, second = (open_loader(kind, sampler, cpu).at(0) for _ in range(2))
        for (images, labels, *_), (images_too, labels_too, *_) in zip(first, second, strict=True):
            assert torch.equal(images, images_too)
            assert torch.equal(labels, labels_too)


def test_files_that_do_not_fit_into_memory_are_read_in_pieces_and_the_log_says_so(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {name: Variant(Beton(betons / f"train-{name}.beton")) for name in ("source", "q50")}

    def choose(*overrides: str) -> tuple[bool, tuple[str, ...]]:
        return choose_cache(tiny_recipe(betons, tmp_path, *overrides), variants)

    assert choose() == (True, ())
    assert choose("loader.os_cache=true") == (True, ())
    with pytest.raises(RecipeError, match=r"os_cache: false .*Set batch\.order: quasi_random"):
        choose("loader.os_cache=false")
    off, (reason,) = choose("loader.os_cache=false", "batch.order=quasi_random")
    assert not off
    assert reason.startswith("files are read ahead, and their pages released (")
    monkeypatch.setattr(loaders, "available_memory", lambda: sum(variant.beton.file_size for variant in variants.values()))
    kept, (advice,) = choose()
    assert kept
    assert "batch.order=quasi_random" in advice
    off, (reason,) = choose("batch.order=quasi_random")
    assert not off
    assert "they do not fit" in reason
