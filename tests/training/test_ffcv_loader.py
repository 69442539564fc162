"""FFCV's loader with our decoder: the pixels of compiled code, beside stock FFCV, and what its thread does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import FFCV, LabelFirst, jpeg, photograph, write_beton
from threads import no_thread_left

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import ImageError, RecipeError, TrainingError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Interpolation, OnTheFlyJpeg
from jpegcurr.runtime import Runtime
from jpegcurr.training.data import loaders
from jpegcurr.training.data.loaders import choose_kind, open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant

pytestmark = list(FFCV)
IMAGE = ImageSection(size=40)


def epoch(kind: str, sampler: EpochSampler, cpu: Runtime) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(open_loader(kind, sampler, cpu).at(0))
    return torch.cat([images for images, *_ in batches]), torch.cat([labels for _, labels, *_ in batches])


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("train", [True, False])
def test_its_pixels_are_those_of_the_compiled_loader_to_the_bit(
    betons: Path, cpu: Runtime, interpolation: Interpolation, train: bool
) -> None:
    """Compare crops of which a side grows and of which none does, encoded again after the resize."""
    beton = Beton(betons / "train-source.beton")
    variant = Variant(beton, OnTheFlyJpeg.model_validate({"beton": beton.path, "quality": 50, "stage": "after_resize"}))
    image = ImageSection(size=72, interpolation=interpolation)
    sampler = EpochSampler({"": variant}, image, train=train, batch=10, workers=2)
    assert len({side > 72 for side in sampler.samples(0, np.arange(48))["width"]}) == 2
    (ffcv, labels), (compiled, expected) = (epoch(kind, sampler, cpu) for kind in ("ffcv", "compiled"))
    assert torch.equal(labels, expected)
    assert torch.equal(ffcv, compiled)


def test_its_pixels_are_those_of_stock_ffcv_where_nothing_is_decoded(tmp_path: Path, cpu: Runtime) -> None:
    """Compare raw images, because stock FFCV decodes with the fast DCT: to a level where they shrink, else to the bit."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import ToTensor
    from ffcv.writer import DatasetWriter

    from jpegcurr.training.data.ffcv_loader import _kept

    path = tmp_path / "raw.beton"
    fields = {"label": IntField(), "image": RGBImageField(write_mode="raw")}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(LabelFirst())
    for size, apart in ((32, 1), (70, 0)):
        image = ImageSection(size=size, interpolation="area", val_crop=1.0, val_resize="box")
        ours, labels = epoch("ffcv", EpochSampler.of(Variant(Beton(path)), image, batch=5), cpu)
        decoder = CenterCropRGBImageDecoder((size, size), 1.0)
        pipelines = {"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]}
        stock = Loader(str(path), batch_size=5, num_workers=1, drop_last=False, pipelines=pipelines)
        _kept.append(stock)
        ((stock_labels, images),) = [(first.clone(), second.clone()) for first, second in stock]  # in the order of the file
        assert labels.tolist() == stock_labels[:, 0].tolist() == [0, 3, 6, 9, 12]
        assert (ours.permute(0, 2, 3, 1).int() - images.int()).abs().max() <= apart


def test_a_sample_that_does_not_decode_is_an_error_by_name(tmp_path: Path, cpu: Runtime) -> None:
    """Stock FFCV gives another image's picture under this label."""
    cat = jpeg(photograph("cat").resize((64, 64)))
    beton = Beton(write_beton(tmp_path / "bad.beton", [(data, 64, 64, 0) for data in (cat, cat, bytes(900), cat)]))
    match = r"^sample 2 of .*bad\.beton: .*on_error=skip, which replaces such samples\.$"
    with no_thread_left(), pytest.raises(ImageError, match=match):
        epoch("ffcv", EpochSampler({"": Variant(beton)}, IMAGE, train=True, batch=2, workers=2), cpu)


def test_lanes_share_the_work_evenly() -> None:
    from jpegcurr.training.data.decode_kernel import TASK
    from jpegcurr.training.data.ffcv_loader import _lanes

    tasks = np.zeros(101, TASK)
    tasks["size"] = np.random.default_rng(0).lognormal(10, 1, 101)
    for lanes in (1, 2, 7, 200):
        order, ends = _lanes(tasks, lanes)
        assert sorted(order) == list(range(101))
        assert (ends[0], ends[-1], len(ends)) == (0, 101, lanes + 1)
        work = [tasks["size"][order[ends[lane] : ends[lane + 1]]].sum() for lane in range(lanes)]
        assert max(work) <= sum(work) / lanes + tasks["size"].max()


def test_stock_loaders_in_the_same_process_do_no_harm(betons: Path, cpu: Runtime) -> None:
    """They mark numba's types of their arrays as read-only, and numba then does not find the code for these types."""
    from ffcv.loader import Loader
    from numba.core.dispatcher import Dispatcher
    from numba.types import Array

    from jpegcurr.training.data import decode_kernel, ffcv_kernel, resample_kernel
    from jpegcurr.training.data.ffcv_loader import _kept

    path = betons / "val-q50.beton"
    sampler = EpochSampler.of(Variant(Beton(path)), ImageSection(size=40), batch=4)
    before, _ = epoch("ffcv", sampler, cpu)
    marked = set()
    for os_cache in (True, False):
        stock = Loader(str(path), batch_size=4, num_workers=1, os_cache=os_cache, pipelines={"image": None})
        _kept.append(stock)
        marked |= {(array.dtype, array.ndim) for array in stock.memory_manager.state_type.types}
    after, _ = epoch("ffcv", sampler, cpu)
    assert torch.equal(before, after)
    functions = [value for module in (decode_kernel, ffcv_kernel, resample_kernel) for value in vars(module).values()]
    signatures = [signature for value in functions if isinstance(value, Dispatcher) for signature in value.signatures]
    arrays = {(part.dtype, part.ndim) for signature in signatures for part in signature if isinstance(part, Array)}
    assert arrays, "nothing was compiled"
    assert not arrays & marked


def test_ffcv_stops_loading_when_an_epoch_is_left(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.loader.epoch_iterator import EpochIterator

    loaded = []
    run_pipeline = EpochIterator.run_pipeline
    monkeypatch.setattr(EpochIterator, "run_pipeline", lambda *args: loaded.append(1) or run_pipeline(*args))
    sampler = EpochSampler({"": Variant(Beton(betons / "train-q50.beton"))}, IMAGE, train=True, batch=1, workers=1)
    loader = open_loader("ffcv", sampler, cpu)
    assert len(loader) == 48
    batches = loader.at(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(loaded) < 12


def test_an_error_in_ffcvs_thread_ends_the_epoch(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.loader.epoch_iterator import EpochIterator

    def fail(*_args: object) -> None:
        raise ValueError("a broken pipeline")

    loader = open_loader("ffcv", EpochSampler.of(Variant(Beton(betons / "val-q50.beton")), IMAGE, batch=4, workers=1), cpu)
    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    with pytest.raises(TrainingError, match=r"loading thread failed \(ValueError: a broken pipeline\)"):
        list(loader.at(0))


def test_ffcv_is_left_where_numbas_threads_are_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse FFCV if numba has only its own threading layer, which aborts the process when a second loader starts."""
    import numba

    monkeypatch.setattr(numba.config, "THREADING_LAYER", "workqueue")
    assert choose_kind("auto")[0] == "compiled", "which needs no threads of numba's"
    with pytest.raises(RecipeError, match="neither TBB nor OpenMP"):
        choose_kind("ffcv")
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "default")
    monkeypatch.setattr(loaders, "_imports", lambda module: not module.endswith("pool"))
    with pytest.raises(RecipeError, match="neither TBB nor OpenMP"):
        choose_kind("ffcv")


def test_a_change_of_the_decoder_invalidates_the_cached_loop() -> None:
    """numba's own key covers only the file that contains the function."""
    from jpegcurr.training.data import decode_kernel, ffcv_kernel

    def key(kernel: Any) -> object:
        return kernel._cache._index_key((), kernel.targetctx.codegen())

    version = decode_kernel.version_of(Path(decode_kernel.__file__), *decode_kernel.SOURCES)
    assert key(ffcv_kernel.make_batch) == key(ffcv_kernel._compile(version)) != key(ffcv_kernel._compile("another"))
