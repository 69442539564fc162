"""The benchmark of training: contenders that train on the same images, and levers that change what they name."""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from samples import tool_module
from timm.data import auto_augment as timm_augment

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import resolve_runtime

IMAGES = 24  # in a round: six steps of four
SMALL_MODEL = ["model.name=test_convnext", "image.size=32"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return tool_module("bench/train.py", monkeypatch)


@pytest.fixture
def options(bench: ModuleType) -> Any:
    return bench.Options(
        "test_convnext", size=32, batch=4, steps=2, workers=0, interpolation="bicubic", policy=None, loader="plain"
    )


def test_a_round_is_the_untimed_steps_and_the_timed_ones(bench: ModuleType, options: Any) -> None:
    assert options.images == IMAGES
    clock = bench.Clock(resolve_runtime("cpu"), options.steps, options.batch)
    for _ in range(bench.WARM_UP + options.steps - 1):
        clock.tick(0.0)
    with pytest.raises(SystemExit, match="5 steps instead of 6"):
        clock.read()
    clock.tick(0.0)
    assert clock.read().rate > 0


def test_waiting_before_the_clock_starts_does_not_count(bench: ModuleType) -> None:
    clock = bench.Clock(resolve_runtime("cpu"), 1, 4)
    for _ in range(bench.WARM_UP + 1):
        clock.tick(100.0)
    assert clock.read().waited == 0


def test_contenders_get_the_same_images_some_repeatedly_if_there_are_too_few(
    bench: ModuleType, photos: Path, tmp_path: Path
) -> None:
    data = bench.make_data(photos, tmp_path, 60)  # there are 48
    files = [path for path in data.folder.rglob("*") if path.is_file()]
    beton = Beton(data.beton)
    assert len(files) == len(beton) == 60
    assert sorted(path.read_bytes() for path in files) == sorted(beton.payload(i) for i in range(60))
    assert len({path.read_bytes() for path in files}) == 48
    assert data.classes == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves closing files to Python
@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5-inc1", "a recipe's"])
def test_all_contenders_train(bench: ModuleType, options: Any, photos: Path, tmp_path: Path, policy: str | None) -> None:
    options = replace(options, policy=policy)
    if policy == "a recipe's":
        recipe = load_recipe("two_phase", SMALL_MODEL)
        options = bench.choose_options(Namespace(**asdict(options) | {"recipe": "two_phase", "set": SMALL_MODEL}))
        assert (options.policy, options.recipe.mix, options.size) == (recipe.augment.policy, recipe.mix, 32)
    runtime = resolve_runtime("cpu")
    contenders = bench.open_contenders(bench.make_data(photos, tmp_path, options.images), options, runtime)
    laps = bench.measure(contenders, 1)
    assert list(laps) == ["ours", "timm", "synthetic"]
    assert all(lap.rate > 0 for (lap,) in laps.values())
    assert 0 < bench.median_wait(laps["ours"]) < 1
    assert 0 < bench.median_wait(laps["timm"]) < 1
    assert [name for name, _, _ in bench.targets(laps, options, runtime)] == ["ours of synthetic", "ours against timm"]


def test_timms_posterize_keeps_a_bit_and_timm_itself_stays_as_it_is(
    bench: ModuleType, options: Any, photos: Path, tmp_path: Path
) -> None:
    table = dict(timm_augment.LEVEL_TO_ARG)
    options = replace(options, policy="rand-m9-mstd0.5-inc1")
    model = timm.create_model(options.model, num_classes=4)
    loader = bench.open_timm_loader(model, bench.make_data(photos, tmp_path, 24), options, resolve_runtime("cpu"))
    (policy,) = [transform for transform in loader.dataset.transform.transforms if hasattr(transform, "ops")]
    (posterize,) = [op for op in policy.ops if op.name == "PosterizeIncreasing"]
    asked = [table[posterize.name](level, {})[0] for level in range(11)]
    assert min(asked) == 0, "this is what Pillow refuses"
    assert [posterize.level_fn(level, {}) for level in range(11)] == [(max(bits, 1),) for bits in asked]
    assert table == timm_augment.LEVEL_TO_ARG, "other tests compare with it"


def test_every_lever_changes_what_it_names(bench: ModuleType, options: Any) -> None:
    runtime = resolve_runtime("cpu", precision="bfloat16")
    steps = {}
    for lever in bench.choose_levers(options, runtime):
        steps[lever.name] = bench.open_lever(replace(lever, compile=False), options, runtime, 3)
        assert steps[lever.name]().rate > 0
    base, wide = (steps[name].args[0] for name in ("base", "contiguous instead of channels_last"))
    assert not base.model.stem[0].weight.is_contiguous()
    assert wide.model.stem[0].weight.is_contiguous()
    assert not base.optimizer.param_groups[0]["fused"]
    assert steps["fused AdamW"].args[0].optimizer.param_groups[0]["fused"]
    assert [len(steps[f"batch {batch}"].args[1]) for batch in (2, 8)] == [2, 8]
    norms = [steps[name].args[0].model.stages[0].blocks[0].norm for name in ("base", "fast norm", "batch 8")]
    assert [norm._fast_norm for norm in norms] == [False, True, False]
    assert type(steps["gamma's dtype"].args[0].model.stages[0].blocks[0]).__name__ == "CastingBlock"


def test_a_lever_that_cannot_run_is_skipped_by_name(
    bench: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("there is no\ncompiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    names = [contender.name for contender in bench.open_levers(options, resolve_runtime("cpu"), 3)]
    assert "base" in names
    assert "compiled" not in names
    assert "compiled is skipped: there is no compiler" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["convnext_atto", "test_convnext2", "convnextv2_atto"])
def test_a_gamma_that_is_cast_changes_the_dtype_and_nothing_else(bench: ModuleType, name: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            leaked = model.stages(model.stem(images)).dtype
        bench.cast_gammas(model)
        assert torch.equal(model(images), before)
        with torch.autocast("cpu", torch.bfloat16):
            assert model.stages(model.stem(images)).dtype == torch.bfloat16
    assert leaked == (torch.bfloat16 if name.startswith("convnextv2") else torch.float32)  # ConvNeXt V2 has no gamma
