"""Channels over JPEG qualities: planted cases, sums that do not depend on the batches, and the command as people type it."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import encode_all
from scipy.stats import ttest_rel

from jpegcurr.analysis.channels.activations import DEAD, watch_layers
from jpegcurr.analysis.channels.statistics import Moments, RunningStats, rank_by_size, summarise_channels
from jpegcurr.analysis.channels.study import (
    ChannelStudy,
    LayerStudy,
    QualityColumn,
    check_same_images,
    follow_channels,
    study_channels,
)
from jpegcurr.analysis.channels.tables import meanings, moved_table, stage_table, to_csv
from jpegcurr.analysis.evaluation.sets import expand_qualities, open_sets
from jpegcurr.cli import main
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.description import ModelDescription
from jpegcurr.training.models.load import load_run

DESCRIPTION = ModelDescription("0" * 64, 224, "bicubic", 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

DEAD_ONE, CONSTANT, RED, GREEN, BLUE = range(5)


class Planted(torch.nn.Module):
    """A model with one layer, whose channels are a dead one, a constant one, and red, green and blue themselves."""

    def __init__(self, *, channels_last: bool = False) -> None:
        super().__init__()
        self.feature_info = [{"module": "first", "num_chs": 5, "reduction": 1}]
        self.output_fmt = "NHWC" if channels_last else "NCHW"
        mix = torch.nn.Conv2d(3, 5, 1)
        mix.weight.data.zero_()
        mix.weight.data[RED:, :, 0, 0] = torch.eye(3)
        mix.bias.data = torch.tensor([-1.0, 0.1, 0.0, 0.0, 0.0])  # type: ignore[union-attr]
        self.first = torch.nn.Sequential(mix, torch.nn.ReLU(), Turned() if channels_last else torch.nn.Identity())
        self.head = torch.nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        return self.head(features.mean(dim=(1, 2) if self.output_fmt == "NHWC" else (2, 3)))


class Turned(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1)


class Broken(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")


def pictures(count: int = 12, side: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def greener(images: torch.Tensor, by: float = 0.25) -> torch.Tensor:
    """Return the same images at a quality that adds to green, a little differently in every image."""
    changed = images.clone()
    changed[:, 1] += by + 0.01 * pictures(len(images), seed=9)[:, 1]
    return changed


def followed(
    model: torch.nn.Module, images: Sequence[torch.Tensor], layers: Sequence[str] = ("first",), batch: int = 5
) -> list[LayerStudy]:
    return list(follow_channels(model, layers, zip(*(of_quality.split(batch) for of_quality in images), strict=True))[0])


def study_of(layers: Sequence[LayerStudy]) -> ChannelStudy:
    columns = tuple(
        QualityColumn(name, Path("val.beton"), "source", None, None) for name in ("source", "50")[: len(layers[0].channels)]
    )
    return ChannelStudy(Path("run"), "raw", "plain", DESCRIPTION, layers[0].channels[0].images, columns, tuple(layers))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sums_that_grow_batch_by_batch_are_those_of_all_images_at_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 40))
    ends = sorted(data.draw(st.sets(st.integers(1, count - 1))))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = random.normal(data.draw(st.floats(-1e4, 1e4)), data.draw(st.floats(1e-2, 10)), (count, 3))
    parts = [Moments.of(part) for part in np.split(values, ends)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    assert whole.count == count
    assert whole.mean == pytest.approx(values.mean(axis=0))
    assert whole.deviation == pytest.approx(values.std(axis=0, ddof=1), rel=1e-6)
    assert whole.root_mean_square == pytest.approx(np.sqrt(np.square(values).mean(axis=0)))


def test_one_image_has_no_deviation() -> None:
    assert np.isnan(Moments.of(np.ones((1, 2))).deviation).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 4095))
def test_statistics_do_not_depend_on_the_batches_nor_on_the_chosen_images(batch: int, chosen: int) -> None:
    model, images = Planted(), pictures()
    flags = np.array([chosen >> bit & 1 for bit in range(12)], np.bool_)
    qualities = [images, greener(images)]
    whole, half = follow_channels(
        model, ["first"], zip(*(of_quality.split(batch) for of_quality in qualities), strict=True), flags
    )
    _same(whole[0], followed(model, qualities, batch=12)[0])
    assert len(half) == int(flags.any())
    if half:
        _same(half[0], followed(model, [of_quality[torch.from_numpy(flags)] for of_quality in qualities], batch=12)[0])


def _same(first: LayerStudy, second: LayerStudy) -> None:
    for a, b in zip(first.channels, second.channels, strict=True):
        assert a.images == b.images
        for name in ("mean", "deviation", "high", "low", "dead", "change", "error", "shift", "per_image", "t", "p", "p_holm"):
            assert np.allclose(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-7, equal_nan=True), name


def test_the_planted_channels_have_the_statistics_of_a_two_pass_reference() -> None:
    images = pictures()
    images[:3, 0] = -1  # three images without red
    qualities = [images, greener(images)]
    (layer,) = followed(Planted(), qualities)
    before, after = layer.channels
    means = [of_quality.clamp(min=0).double().mean(dim=(2, 3)).numpy() for of_quality in qualities]
    assert (len(layer), layer.layout.kind, layer.layout.grid, before.images) == (5, "NCHW", (6, 6), 12)
    assert before.mean[RED:] == pytest.approx(means[0].mean(axis=0), rel=1e-6)
    assert before.deviation[RED:] == pytest.approx(means[0].std(axis=0, ddof=1), rel=1e-5)
    assert before.high[RED:] == pytest.approx(images.amax(dim=(0, 2, 3)).numpy())
    assert before.low[BLUE] == pytest.approx(float(images[:, 2].min()))
    assert before.dead.tolist() == [1, 0, 0.25, 0, 0]
    assert np.isnan(before.shift).all()
    shift = (means[1] - means[0]).mean(axis=0)[1] / means[0].std(axis=0, ddof=1)[1]
    assert after.shift[[RED, GREEN, BLUE]] == pytest.approx([0, shift, 0], rel=1e-5)
    expected = ttest_rel(means[1][:, 1], means[0][:, 1])
    assert (after.t[GREEN], after.p[GREEN]) == (pytest.approx(expected.statistic, rel=1e-4), pytest.approx(expected.pvalue))
    assert after.p_holm[GREEN] == pytest.approx(5 * after.p[GREEN])
    assert (after.t[RED], after.p[RED]) == (0, 1), "nothing changed in any image"


def test_what_never_changes_has_no_shift_and_is_never_most_moved() -> None:
    """This holds even where float32's rounding is a spread of its own."""
    images, model = pictures(), Planted()
    model.first[0].weight.data[CONSTANT, 1] = 5e-7  # a few roundings of 1, up or down  # type: ignore[union-attr]
    model.first[0].bias.data[CONSTANT] = 1  # type: ignore[union-attr]
    before, after = followed(model, [images, greener(images)])[0].channels
    assert 0 < before.deviation[CONSTANT] < 1e-6
    assert np.isnan(after.shift[[DEAD_ONE, CONSTANT]]).all()
    assert after.most_moved() == [GREEN, RED, BLUE]
    assert after.moved.tolist() == [False, False, False, True, False]
    assert rank_by_size(np.array([np.nan, -2.0, 1.0, np.nan, 2.0])) == [1, 4, 2]


def test_a_channel_that_moves_up_here_and_down_there_has_per_image_changes_but_no_shift() -> None:
    images = pictures()
    changed = images.clone()
    changed[::2, 1] += 0.125
    changed[1::2, 1] -= 0.125
    changed, images = changed + 0.5, images + 0.5  # so that no pixel falls below the ReLU
    before, after = followed(Planted(), [images, changed])[0].channels
    assert abs(after.shift[GREEN]) < 1e-5
    assert after.per_image[GREEN] == pytest.approx(0.125 / before.deviation[GREEN], rel=1e-5)
    assert not after.moved.any()


def test_channels_first_and_last_give_the_same() -> None:
    qualities = [pictures(), greener(pictures())]
    first, last = followed(Planted(), qualities)[0], followed(Planted(channels_last=True), qualities)[0]
    assert (first.layout.kind, last.layout.kind) == ("NCHW", "NHWC")
    _same(first, last)


def test_a_channel_that_is_always_negative_is_not_dead_and_one_that_is_next_to_nothing_is() -> None:
    model = Planted()
    mix = torch.nn.Conv2d(3, 5, 1)
    mix.weight.data.zero_()
    mix.bias.data = 100 * torch.tensor([-1.0, 1.0, 0.9 * DEAD, -0.5 * DEAD, 2 * DEAD])  # type: ignore[union-attr]
    model.first = torch.nn.Sequential(mix)
    root_mean_square = 100 * np.sqrt(2 / 5)
    (layer,) = followed(model, [pictures()])
    dead = np.abs(mix.bias.detach().numpy()) <= DEAD * root_mean_square  # type: ignore[union-attr]
    assert dead.tolist() == [False, False, False, True, False]
    assert layer.channels[0].dead.tolist() == dead.astype(float).tolist()


def test_class_tokens_are_not_counted_and_an_output_is_read_before_it_is_changed_in_place() -> None:
    torch.manual_seed(0)
    vit, images = timm.create_model("test_vit").eval(), torch.rand(2, 3, 160, 160)
    kept: list[torch.Tensor] = []
    handle = vit.blocks[2].register_forward_hook(lambda _m, _i, output: kept.append(output.clone()))
    (layer,) = followed(vit, [images], ["blocks.2"])
    handle.remove()
    assert layer.layout.kind == "NLC"
    assert layer.channels[0].mean == pytest.approx(kept[0][:, 1:].mean(dim=(0, 1)).detach().double().numpy(), abs=1e-6)
    resnet, images = timm.create_model("test_resnet").eval(), torch.rand(2, 3, 96, 96)
    handle = resnet.layer4[0].bn2.register_forward_hook(lambda _m, _i, output: kept.append(output.clone()))
    (layer,) = followed(resnet, [images], ["layer4.0.bn2"])
    handle.remove()
    assert layer.channels[0].mean == pytest.approx(kept[1].mean(dim=(0, 2, 3)).detach().double().numpy(), abs=1e-6)


def test_channels_that_do_not_move_are_called_moved_in_no_more_than_5_of_100_studies() -> None:
    """Fifty channels at two qualities: uncorrected tests would err in 99 of 100. To three standard deviations (2.1 %)."""
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(1000):
        images = random.normal(size=(40, 50))
        qualities = [images, *(images + random.normal(size=images.shape) for _ in range(2))]
        wrong += any(
            channels.moved.any() for channels in summarise_channels([[_stats(means, images) for means in qualities]])[0]
        )
    assert 0 < wrong / 1000 <= 0.05 + 0.021


def _stats(means: np.ndarray, reference: np.ndarray) -> RunningStats:
    none = np.zeros(means.shape[1])
    return RunningStats(Moments.of(means), Moments.of(means - reference), none, none, none.astype(np.int64))


@pytest.mark.parametrize("place", ["stem", "stages.3", "head.drop"])
def test_the_model_is_restored_when_a_layer_raises(place: str) -> None:
    model = timm.create_model("test_convnext").train()
    model.stages[1].eval()
    training = [part.training for part in model.modules()]
    owner, _, name = place.rpartition(".")
    whole = getattr(model.get_submodule(owner), name)
    setattr(model.get_submodule(owner), name, Broken())
    with pytest.raises(RuntimeError, match="broken"):
        followed(model, [torch.rand(2, 3, 96, 96)], ["stages.2"])
    setattr(model.get_submodule(owner), name, whole)
    assert [part.training for part in model.modules()] == training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_layer_without_a_known_channel_axis_is_refused_by_name() -> None:
    model, images = timm.create_model("test_convnext").eval(), torch.rand(2, 3, 96, 96)
    for layer, message in [
        ("head.fc", r"head\.fc returns \[2, 1000\], whose channel axis is not known.*stages\.0"),
        ("nowhere", "no such layer"),
    ]:
        with pytest.raises(UsageError, match=message):
            followed(model, [images], [layer])
    vit = timm.create_model("test_vit").eval()
    with (
        watch_layers(vit, ["blocks.4.attn.attn_drop"]) as summarise,
        pytest.raises(UsageError, match=r"attn_drop is called 0 times in one pass"),
    ):
        summarise(torch.rand(2, 3, 160, 160))


def test_tables_show_known_values_and_nothing_more() -> None:
    images = pictures()
    study = study_of(followed(Planted(), [images, greener(images)]))
    columns, rows = stage_table(study)
    assert [row[:3] for row in rows] == [["first", "source", "5"], ["first", "50", "5"]]
    reference = dict(zip(columns, rows[0], strict=True))
    assert {name: reference[name] for name in ("|shift|", "moved", "dead, %", "in all")} == {
        "|shift|": "",
        "moved": "",
        "dead, %": "20.0",
        "in all": "1",
    }
    assert rows[1][columns.index("moved")] == "1"
    table = moved_table(study, 2)
    assert table is not None
    ((layer, quality, listed),) = table[1]
    shift = study.layers[0].channels[1].shift[GREEN]
    assert (layer, quality, listed) == ("first", "50", f"{GREEN}:{shift:+.3f} {RED}:+0.000?")
    assert "at 5 % over all 5 tests" in " ".join(meanings(study))
    alone = study_of(followed(Planted(), [images]))
    assert moved_table(alone, 2) is None
    assert len(meanings(alone)) == 1


def test_the_csv_has_a_row_for_every_channel_and_empty_cells_for_undefined_values() -> None:
    images = pictures()
    study = study_of(followed(Planted(), [images, greener(images)]))
    rows = list(csv.DictReader(to_csv(study).splitlines()))
    assert [(row["quality"], row["channel"]) for row in rows] == [("source", str(at % 5)) for at in range(10)]
    assert (rows[GREEN]["shift_sd"], rows[5 + CONSTANT]["shift_sd"]) == ("", "")
    assert float(rows[5 + GREEN]["shift_sd"]) == pytest.approx(study.layers[0].channels[1].shift[GREEN], rel=1e-9)
    assert float(rows[DEAD_ONE]["dead_share"]) == 1


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], betons: Path, trained: Path) -> Callable[[str], tuple[int, str, str]]:
    """Type a command in a folder with ``run`` and ``betons``."""
    Path("betons").symlink_to(betons)
    Path("run").symlink_to(trained)

    def call(command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return call


def test_quality_50_on_the_fly_has_the_statistics_of_the_stored_file(run) -> None:
    """Without --qualities the command reads the run's own validation sets, source and quality 50 as they are stored."""
    stored, encoded, resized = (
        json.loads(run(f"channels run --device cpu --json {options}")[1])
        for options in ("", "--qualities source,50", "--qualities source,50 --on-the-fly")
    )
    assert (stored["reference"], stored["images"], stored["prune_study"]) == ("source", 16, [])
    assert [layer["layer"] for layer in stored["layers"]] == [f"stages.{stage}" for stage in range(4)]
    for one, two, three in zip(stored["layers"], encoded["layers"], resized["layers"], strict=True):
        assert [entry["name"] for entry in one["qualities"]] == ["source", "50"]
        assert one["qualities"][1]["channels"] == two["qualities"][1]["channels"]
        assert one["qualities"][1]["channels"] != three["qualities"][1]["channels"]
        assert (
            one["qualities"][1]["most_moved"][0]
            == max(one["qualities"][1]["channels"], key=lambda entry: abs(entry["shift_sd"] or 0))["channel"]
        )


def test_a_quality_compared_with_itself_moves_nothing(trained: Path, betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    run = load_run(trained, cpu)
    for name in ("val-source.beton", "val-source.json", "val-source.items.jsonl"):
        shutil.copy(betons / name, tmp_path / name)
    datasets = open_sets([run], {"": betons / "val-source.beton", "again": tmp_path / "val-source.beton"})
    study = study_channels(run, datasets, cpu, layers=["stages.1", "stages.3", "stages.1"])
    assert [layer.layer for layer in study.layers] == ["stages.1", "stages.3"]
    assert [column.name for column in study.columns] == [str(betons / "val-source.beton"), str(tmp_path / "val-source.beton")]
    for layer in study.layers:
        assert not layer.channels[1].change.any()
        assert (layer.channels[1].p == 1).all()


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
def test_ffcvs_loaders_side_by_side_give_the_statistics_of_plain_ones(trained: Path, betons: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    datasets = open_sets([run], expand_qualities([betons / "val-source.beton"], ["source", 50, 10]))
    plain, ffcv = (study_channels(run, datasets, cpu, loader=loader) for loader in ("plain", "ffcv"))
    assert (plain.loader, ffcv.loader, plain.images) == ("plain", "ffcv", 16)
    for first, second in zip(plain.layers, ffcv.layers, strict=True):
        _same(first, second)


def test_different_images_are_not_compared(trained: Path, betons: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    with pytest.raises(UsageError, match=r"train-source\.beton does not hold the samples of .*val-source\.beton"):
        check_same_images(
            open_sets([run], expand_qualities([betons / f"{split}-source.beton" for split in ("val", "train")], [50]))
        )


def test_the_command_writes_every_channel_and_says_what_moved(run) -> None:
    code, out, _ = run("channels run --qualities source,50,10 --top 3 --csv all.csv --device cpu")
    assert code == 0
    lines = out.splitlines()
    assert re.split(" {2,}", lines[1])[:6] == ["layer", "quality", "channels", "|shift|", "largest", "moved"]
    (most,) = [line.split() for line in lines if line.startswith("stages.3  10") and ":" in line]
    with open("all.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (24 + 32 + 48 + 64)
    last_stage = [row for row in rows if (row["layer"], row["tested"]) == ("stages.3", "10")]
    largest = sorted(last_stage, key=lambda row: -abs(float(row["shift_sd"])))[:3]
    assert [cell.split(":")[0] for cell in most[2:]] == [row["channel"] for row in largest]


def test_tables_can_be_read_in_80_columns(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.cli.terminal.out._width", 80)
    _, out, _ = run("channels run --qualities source,50,10 --prune-study 4 --device cpu")
    whole = [line for line in out.splitlines() if re.match(r"stages\.\d  |layer|[k04]  ", line) and ":" not in line]
    assert len(whole) == 1 + 12 + 1 + 5
    assert max(map(len, whole)) <= 80


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("channels nowhere", "nowhere does not exist"),
        ("channels run --on-the-fly", "--on-the-fly says when --qualities are encoded"),
        ("channels run --seed 3", "--seed is for the prune study"),
        ("channels run --qualities source,200", "quality 200 is not a JPEG quality"),
        ("channels run --layer stages.9", r"'stages\.9': the model has no such layer"),
        ("channels run --layer head.fc --qualities source,50", r"head\.fc returns .*channel axis is not known"),
        ("channels run --prune-study 4,x", "--prune-study '4,x': give how many"),
        ("channels run --prune-study 0", "--prune-study '0': give how many"),
        ("channels run --prune-study 65", r"--prune-study 65: stages\.3 has 64 channels\. Give smaller"),
        ("channels run --layer stages.0 --prune-study 8,25", r"--prune-study 25: stages\.0 has 24 channels"),
        ("channels run --data betons/val-source.beton --prune-study 4", "compares at least two qualities"),
        ("channels run --data betons/val-source.beton --data betons/train-source.beton", "does not hold the samples of"),
        ("channels run --data betons/val-q50.beton --qualities 30", r"has quality 50: --qualities would encode it a second"),
        ("channels run --csv there.csv", r"there\.csv exists.*--force"),
        ("channels run --loader nonsense", "nonsense"),
    ],
)
def test_a_mistake_is_a_sentence_with_exit_code_2_and_nothing_written(run, command: str, message: str) -> None:
    Path("there.csv").touch()
    code, out, err = run(f"{command} --device cpu")
    assert code == 2
    assert out == ""
    assert re.search(message, err), err
    assert {path.name for path in Path().iterdir()} == {"betons", "run", "there.csv"}
    assert Path("there.csv").stat().st_size == 0


def test_other_images_are_refused_by_their_keys_where_labels_are_alike(run, photos: Path) -> None:
    """Both have the same classes in the same order: only the manifests know."""
    shutil.copytree(photos, "others")
    for path in sorted(Path("others/val").rglob("*.jpg")):
        path.rename(path.with_name(f"other-{path.name}"))
    encode_all("others", Path("more"), ["source"])
    code, _, err = run("channels run --data betons/val-source.beton --data more/val-source.beton --device cpu")
    assert (code, "does not hold the samples of" in err) == (2, True)
