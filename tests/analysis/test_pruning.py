"""Channels set to zero: masks together and one at a time, chosen on other images than tested, next to random controls."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jpegcurr.analysis.cam.grad_cam import held_still
from jpegcurr.analysis.channels import activations
from jpegcurr.analysis.channels.activations import masked_logits, watch_layers
from jpegcurr.analysis.channels.pruning import (
    DRAWS,
    Choice,
    PruneStudy,
    Trial,
    check_prunable,
    choose_channels,
    largest_shifts,
    split_images,
    study_pruning,
)
from jpegcurr.analysis.channels.statistics import Channels
from jpegcurr.analysis.channels.study import LayerStudy, study_channels
from jpegcurr.analysis.channels.tables import as_values, prune_meanings, prune_table, prune_title
from jpegcurr.analysis.evaluation.evaluate import evaluate_run
from jpegcurr.analysis.evaluation.sets import expand_qualities, open_sets
from jpegcurr.analysis.layers import Layout
from jpegcurr.analysis.stats import compare_paired
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.load import load_run


def network(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, num_classes=7, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def studied(*shifts: list[float]) -> LayerStudy:
    """Return the study of a layer of which only the shifts at each quality are known."""
    none = np.full(len(shifts[0]), np.nan)
    rows = [none, *(np.array(shift) for shift in shifts)]
    channels = [Channels(8, *[none] * 7, shift=row, per_image=none, t=none, p=none, p_holm=none) for row in rows]
    return LayerStudy("stages.3", Layout("NCHW", (1, 1)), tuple(channels))


@contextmanager
def zeroed(model: torch.nn.Module, layer: str, channels: list[int], axis: int) -> Iterator[None]:
    """Apply one mask by the simplest possible hook."""

    def cut(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output.movedim(axis, 0)[channels] = 0
        return output

    handle = model.get_submodule(layer).register_forward_hook(cut)
    yield
    handle.remove()


CASES = [
    ("test_convnext", "stages.0", 96, 1, True),
    ("test_convnext", "stages.3", 96, 1, True),
    ("test_resnet", "layer2", 96, 1, True),
    ("test_efficientnet", "blocks.1", 96, 1, True),
    ("test_mambaout", "stages.2", 96, -1, True),
    ("test_vit", "blocks.3", 160, -1, True),
    ("test_convnext", "stages.2.blocks.0.norm", 96, -1, False),
    ("test_resnet", "layer2.0.bn1", 96, 1, False),
]


@pytest.mark.parametrize("images", [3, 1])
@pytest.mark.parametrize(("name", "layer", "side", "axis", "together"), CASES)
def test_masks_that_share_a_pass_give_the_logits_of_single_masks(
    name: str, layer: str, side: int, axis: int, together: bool, images: int
) -> None:
    """Within a residual block they cannot share a pass, except for a single image."""
    model, batch = network(name), torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(1))
    with watch_layers(model, [layer]) as summarise:
        summary = summarise(batch)[layer]
    channels = summary.mean.shape[1]
    sets = [[], [0], [1, 5], list(range(channels // 2)), list(range(channels))]
    masks = torch.ones(len(sets), channels)
    for row, channels_off in enumerate(sets):
        masks[row, channels_off] = 0
    passes = 0

    def count(*_arguments: object) -> None:
        nonlocal passes
        passes += 1

    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        handle = first.register_forward_hook(count)
        logits = masked_logits(model, layer, summary.layout, batch, masks)
        handle.remove()
        assert logits.shape == (len(sets), images, 7)
        assert passes == (1 if together or images == 1 else 1 + len(sets))
        for of_mask, channels_off in zip(logits, sets, strict=True):
            with zeroed(model, layer, channels_off, axis):
                assert torch.allclose(of_mask, model(batch), atol=1e-4)
        assert torch.allclose(logits[0], model(batch), atol=1e-4), "nothing is set to zero"
    assert not torch.allclose(logits[0], logits[3], atol=1e-2), "the masks do something"
    assert not any(module._forward_hooks for module in model.modules())


def test_masks_that_do_not_fit_together_are_split_into_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = network("test_convnext"), torch.randn(2, 3, 96, 96)
    layout, masks = Layout("NCHW", (6, 6)), (torch.rand(7, 48) > 0.3).float()
    with torch.no_grad():
        expected = masked_logits(model, "stages.2", layout, batch, masks)
        monkeypatch.setattr(activations, "CELLS", 3 * 2 * 48 * 36)
        sizes: list[int] = []
        handle = model.get_submodule("head").register_forward_hook(lambda _m, _i, output: sizes.append(len(output)))
        assert torch.allclose(masked_logits(model, "stages.2", layout, batch, masks), expected, atol=1e-4)
        handle.remove()
    assert sizes == [6, 6, 2]


def test_zero_is_what_a_pruned_filter_gives() -> None:
    """Setting a channel to zero is the same as setting its weights to zero."""
    model, batch = network("test_convnext"), torch.randn(2, 3, 96, 96)
    layer = "stages.1.downsample.1"
    mask = torch.ones(1, 32)
    mask[0, [3, 30]] = 0
    with torch.no_grad():
        (masked,) = masked_logits(model, layer, Layout("NCHW", (12, 12)), batch, mask)
        filters = model.get_submodule(layer)
        for parameter in filters.parameters():
            parameter[[3, 30]] = 0
        assert torch.allclose(masked, model(batch), atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=60), st.integers(0, 99))
def test_half_of_every_class_is_chosen_by_seed(labels: list[int], seed: int) -> None:
    truth = np.array(labels)
    half = split_images(truth, seed)
    assert abs(int(half.sum()) - int((~half).sum())) <= 1
    for label in set(labels):
        assert abs(int((half & (truth == label)).sum()) - int((~half & (truth == label)).sum())) <= 1
    assert np.array_equal(half, split_images(truth, seed))


def test_another_seed_is_another_half_and_three_images_are_too_few() -> None:
    labels = np.zeros(100, np.int64)
    assert not np.array_equal(split_images(labels, 0), split_images(labels, 1))
    with pytest.raises(UsageError, match=r"--prune-study needs at least 4 images.*there are 3"):
        split_images(np.arange(3), 0)


def test_channels_are_chosen_by_their_largest_shift_and_constant_ones_never() -> None:
    nan = float("nan")
    layer = studied([0.1, nan, -0.5, 0.2, 0.0], [-0.3, nan, 0.4, 0.1, 0.01])
    assert np.array_equal(largest_shifts(layer), [-0.3, nan, -0.5, 0.2, 0.01], equal_nan=True)
    choices = choose_channels(layer, [1, 3], seed=0)
    ranked = [(choice.k, choice.which, choice.channels) for choice in choices if choice.which != "random"]
    assert ranked == [
        (1, "most moved", (2,)),
        (1, "least moved", (4,)),
        (3, "most moved", (2, 0, 3)),
        (3, "least moved", (4, 3, 0)),
    ]
    random = [choice for choice in choices if choice.which == "random"]
    assert [(choice.k, choice.draw) for choice in random] == [(k, draw) for k in (1, 3) for draw in range(DRAWS)]
    assert all(len(set(choice.channels)) == choice.k and 1 not in choice.channels for choice in random)
    assert len({choice.channels for choice in random if choice.k == 3}) > 1
    assert choices == choose_channels(layer, [1, 3], seed=0)
    assert choices != choose_channels(layer, [1, 3], seed=1)
    with pytest.raises(UsageError, match=r"--prune-study 5: 1 of stages\.3's 5 channels are constant on the 8 images"):
        choose_channels(layer, [5], seed=0)


@pytest.fixture(scope="module")
def run(trained: Path, cpu: Runtime) -> Run:
    return load_run(trained, cpu)


def test_top1_is_what_evaluate_measures_on_the_images_that_were_not_chosen_on(run: Run, betons: Path, cpu: Runtime) -> None:
    """Compare with hooks in the model that evaluate runs; the statistics are those of the chosen images alone."""
    sets = expand_qualities([betons / "train-source.beton"], ["source", 10])
    datasets = open_sets([run], sets)
    chosen = split_images(datasets[0].beton.labels, 3)
    study = study_channels(run, datasets, cpu, chosen=chosen)
    done = 0

    def on_images(more: int) -> None:
        nonlocal done
        done += more

    layers = ["stages.1", "stages.3"]
    pruned = study_pruning(run, datasets, cpu, study, [4, 20], chosen, layers=layers, seed=3, on_images=on_images)
    assert done == 2 * 48
    assert [result.layer for result in pruned] == layers
    whole = {
        name: result.outcomes.right[~chosen]
        for name, result in zip(("source", "10"), evaluate_run(run, sets, cpu), strict=True)
    }
    for layer, result in zip([study.chosen[1], study.chosen[3]], pruned, strict=True):
        assert (result.images, result.chosen_on, result.seed, layer.channels[0].images) == (24, 24, 3, 24)
        assert [trial.choice for trial in result.trials] == choose_channels(layer, [4, 20], 3)
        assert result.unmasked == {name: 100 * right.mean() for name, right in whole.items()}
        for trial in [result.trials[0], result.trials[3], result.trials[-1]]:
            with zeroed(run.model, result.layer, list(trial.choice.channels), 1):
                masked = [result.outcomes.right[~chosen] for result in evaluate_run(run, sets, cpu)]
            for name, right in zip(whole, masked, strict=True):
                assert trial.top1[name] == 100 * right.mean()
                assert trial.pairs[name] == compare_paired(whole[name], right)
    deepest = pruned[1].trials
    assert any(trial.top1 != pruned[1].unmasked for trial in deepest), "20 of 64 channels are missed"
    assert not any(module._forward_hooks for module in run.model.modules())


def test_under_autocast_statistics_are_of_float32_and_accuracy_is_evaluates(run: Run, betons: Path, cpu: Runtime) -> None:
    half = resolve_runtime("cpu", precision="bfloat16")
    sets = expand_qualities([betons / "train-source.beton"], ["source", 50])
    datasets = open_sets([run], sets)
    chosen = split_images(datasets[0].beton.labels, 0)
    exact, study = (study_channels(run, datasets, runtime, layers=["stages.3"], chosen=chosen) for runtime in (cpu, half))
    assert np.array_equal(exact.layers[0].channels[1].change, study.layers[0].channels[1].change)
    (pruned,) = study_pruning(run, datasets, half, study, [30], chosen, layers=["stages.3"])
    with zeroed(run.model, "stages.3", list(pruned.trials[0].choice.channels), 1):
        masked = [100 * result.outcomes.right[~chosen].mean() for result in evaluate_run(run, sets, half)]
    assert list(pruned.unmasked.values()) == [
        100 * result.outcomes.right[~chosen].mean() for result in evaluate_run(run, sets, half)
    ]
    assert list(pruned.trials[0].top1.values()) == masked


def test_a_channel_that_carries_the_quality_into_the_model_is_chosen_and_pruned(cpu: Runtime, run: Run, betons: Path) -> None:
    """Add 50 to the first channel of the last stage at quality 10; pruning that channel restores the accuracy."""
    sets = expand_qualities([betons / "train-source.beton"], ["source", 10])
    datasets = open_sets([run], sets)
    chosen = split_images(datasets[0].beton.labels, 0)
    assert study_channels(run, datasets, cpu, chosen=chosen).chosen[3].channels[1].most_moved()[0] != 0, "not planted yet"
    passes: list[bool] = []

    def plant(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        planted = output.clone()
        planted[:, 0] += 50 * passes.pop(0)
        return planted

    handle = run.model.get_submodule("stages.3").register_forward_hook(plant)
    passes[:] = [False, True] * 6  # batches of 8 at both qualities in turn
    study = study_channels(run, datasets, cpu, chosen=chosen)
    assert study.chosen[3].channels[1].most_moved()[0] == 0
    assert study.chosen[3].channels[1].moved[0]
    passes[:] = [False] * 12 + [True] * 12  # without masks and with, batch by batch, and one quality after the other
    (result,) = study_pruning(run, datasets, cpu, study, [1], chosen, layers=["stages.3"])
    handle.remove()
    most = result.trials[0]
    assert most.choice.channels == (0,)
    with zeroed(run.model, "stages.3", [0], 1):
        _, pruned = evaluate_run(run, sets, cpu)
    _, whole = evaluate_run(run, sets, cpu)
    assert result.unmasked["10"] < 100 * whole.outcomes.right[~chosen].mean(), "the plant does harm"
    assert most.top1["10"] == 100 * pruned.outcomes.right[~chosen].mean()
    assert most.top1["10"] > result.unmasked["10"]


def test_an_impossible_study_is_refused_before_images_are_read(run: Run, betons: Path, cpu: Runtime) -> None:
    alone, both = (
        open_sets([run], expand_qualities([betons / "val-source.beton"], qualities))
        for qualities in (["source"], ["source", 50])
    )
    with pytest.raises(UsageError, match="compares at least two qualities"):
        check_prunable(run, alone, cpu, ["stages.3"], [4])
    with pytest.raises(UsageError, match=r"--prune-study 65: stages\.3 has 64 channels"):
        check_prunable(run, both, cpu, ["stages.3"], [4, 65])
    with pytest.raises(UsageError, match=r"--prune-study 49: stages\.2 has 48 channels"):
        check_prunable(run, both, cpu, ["stages.3", "stages.2"], [49])
    check_prunable(run, both, cpu, ["stages.2", "stages.3"], [48])


def test_the_model_is_restored_when_it_raises(run: Run, betons: Path, cpu: Runtime) -> None:
    datasets = open_sets([run], expand_qualities([betons / "val-source.beton"], ["source", 50]))
    chosen = split_images(datasets[0].beton.labels, 0)
    study = study_channels(run, datasets, cpu, chosen=chosen)
    head = run.model.head  # type: ignore[union-attr]
    training = [part.training for part in run.model.modules()]

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    run.model.head = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        study_pruning(run, datasets, cpu, study, [2], chosen, layers=["stages.3"])
    with held_still(run.model), pytest.raises(RuntimeError, match="broken"):
        masked_logits(run.model, "stages.3", Layout("NCHW", (1, 1)), torch.rand(2, 3, 32, 32), torch.ones(3, 64))
    run.model.head = head
    assert [part.training for part in run.model.modules()] == training
    assert all(parameter.requires_grad for parameter in run.model.parameters())
    assert not any(module._forward_hooks for module in run.model.modules())
    assert not torch.is_inference_mode_enabled()


def test_the_table_has_every_choice_next_to_random_ones_and_json_has_all_of_it(run: Run, betons: Path, cpu: Runtime) -> None:
    datasets = open_sets([run], expand_qualities([betons / "train-source.beton"], ["source", 10]))
    chosen = split_images(datasets[0].beton.labels, 0)
    study = study_channels(run, datasets, cpu, chosen=chosen)
    (pruned,) = study_pruning(run, datasets, cpu, study, [8, 60], chosen, layers=["stages.3"])
    columns, rows = prune_table(pruned)
    assert columns == ["k", "set to 0", "source", "10"]
    kinds = ["most moved", "least moved", "random, mean", "random, range"]
    assert [row[:2] for row in rows] == [["0", "none"], *([k, kind] for k in ("8", "60") for kind in kinds)]
    for trial, row in zip([trial for trial in pruned.trials if trial.choice.which != "random"], [1, 2, 5, 6], strict=True):
        for name, cell in zip(("source", "10"), rows[row][2:], strict=True):
            pair = trial.pairs[name]
            assert cell.startswith(f"{trial.top1[name]:.2f} ({trial.top1[name] - pruned.unmasked[name]:+.2f})")
            assert cell.endswith("*") == (pair.verdict != "no detectable difference")
    random = [trial.top1["10"] for trial in pruned.trials if trial.choice.which == "random" and trial.choice.k == 60]
    assert rows[7][3].startswith(f"{np.mean(random):.2f} (")
    assert rows[8][3].strip() == f"{min(random):.2f} to {max(random):.2f}"
    assert "Chosen on 24 images" in prune_meanings(pruned)[0]
    assert "tested on the other 24" in prune_meanings(pruned)[0]
    assert prune_title(pruned) == "stages.3: k of its 64 channels set to zero, top-1 in %"
    plain = json.loads(json.dumps(as_values(study, [pruned], 3), allow_nan=False))
    (entry,) = plain["prune_study"]
    assert (entry["layer"], len(entry["trials"])) == ("stages.3", 2 * (2 + DRAWS))
    assert entry["unmasked"] == pytest.approx(pruned.unmasked, rel=1e-9)
    assert entry["trials"][0]["qualities"]["10"]["against_unmasked"]["verdict"] == pruned.trials[0].pairs["10"].verdict
    assert entry["trials"][0]["channels"] == list(pruned.trials[0].choice.channels)


def test_what_costs_accuracy_is_marked() -> None:
    right, wrong = np.ones(100, np.bool_), np.arange(100) >= 10
    choice = Choice(4, "most moved", 0, (0, 1, 2, 3))
    trial = Trial(
        choice, {"source": 100.0, "50": 90.0}, {"source": compare_paired(right, right), "50": compare_paired(right, wrong)}
    )
    random = Trial(Choice(4, "random", 0, (0, 1, 2, 5)), trial.top1, trial.pairs)
    _, rows = prune_table(PruneStudy("stages.3", 8, 100, 100, 0, {"source": 100.0, "50": 100.0}, (trial, random)))
    assert [cell.strip() for cell in rows[1]] == ["4", "most moved", "100.00 (+0.00)", "90.00 (-10.00) *"]
