"""The folder of a run: its lock, what a killed run leaves in it, and how a run is trained for longer."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from processes import Group, soon
from safetensors.torch import load_file, save_file
from samples import tiny_recipe

from jpegcurr.errors import NotFiniteError, RecipeError, TrainingError, UsageError
from jpegcurr.files import locked
from jpegcurr.recipe.loading import dump_recipe, load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training import train as train_module
from jpegcurr.training.augment import augment
from jpegcurr.training.models.load import load_run
from jpegcurr.training.run_folder import LOCK, _check_trained_epochs, locked_run, remove_leftovers
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train


def test_of_two_trainings_in_one_folder_the_second_is_refused_and_the_first_is_whole(betons: Path, tmp_path: Path) -> None:
    for name, rate in (("first", 0.002), ("second", 0.001)):
        Path(f"{name}.yaml").write_text(dump_recipe(tiny_recipe(betons, tmp_path, f"schedule.lr={rate}", "evaluate=[]")))
    first = Group(["train", "--recipe", "first.yaml", "--device", "cpu", "--out", "run"], ranks=1)
    soon(Path("run", LOCK).exists, lambda: None).join()
    (code,) = Group(["train", "--recipe", "second.yaml", "--device", "cpu", "--out", "run"], ranks=1).ended()
    assert (code, first.ended()) == (2, [0])
    assert load_recipe(Path("run/recipe.yaml")).schedule.lr == 0.002
    assert [row["epoch"] for row in read_metrics(Path("run"))] == [0, 1, 2, 3]
    assert not Path("run", LOCK).exists()


def test_several_processes_of_one_run_share_its_lock_and_another_run_is_refused(betons: Path, tmp_path: Path) -> None:
    Path("tiny.yaml").write_text(dump_recipe(tiny_recipe(betons, tmp_path, "evaluate=[]")))
    words = ["train", "--recipe", "tiny.yaml", "--device", "cpu", "--out", "run"]
    with locked(Path("run", LOCK), Path("run")):
        refused = Group(words)
        codes = refused.ended()
    assert codes[0] == 2, refused.output
    assert codes[1] not in (0, None), "it notices that the first has ended"
    assert "run is being trained by another process" in "\n".join(refused.output)
    running = Group(words)
    assert running.ended() == [0, 0], running.output


def test_a_run_under_way_can_be_read(trained_copy: Path, cpu: Runtime) -> None:
    with locked(trained_copy / LOCK, trained_copy):
        assert load_run(trained_copy, cpu).classes


def test_a_caller_that_holds_the_lock_of_a_run_holds_it_once(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    Path("link").symlink_to("run")
    with locked_run(Path("run")), locked_run(Path("link")):
        train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu, until=1)
        with pytest.raises(UsageError, match="another process"), locked(Path("run", LOCK), Path("run")):
            pass
    assert not Path("run", LOCK).exists()


def test_a_run_that_is_refused_leaves_no_folder(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="an epoch would have no step"):
        train(tiny_recipe(betons, tmp_path, "batch.size=64"), Path("runs/run"), runtime=cpu)
    assert not Path("runs").exists()
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    with pytest.raises(UsageError, match="mine exists and is not a run"):
        train(tiny_recipe(betons, tmp_path), Path("mine"), runtime=cpu)
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_what_a_killed_run_leaves_is_removed_at_its_next_start_and_nothing_else(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path
) -> None:
    (trained_copy / "checkpoints/epoch-0001.safetensors").replace(trained_copy / "state.safetensors")
    expected = sorted(path for path in trained_copy.rglob("*"))
    tensors = tmp_path / "tensors"
    save_file({"x": torch.zeros(3)}, tensors)
    (trained_copy / "ema/.export-abcd_012").mkdir()
    (trained_copy / "ema/.export-abcd_012/model.safetensors").write_bytes(b"half")
    for name in ("state.safetensors", "metrics.jsonl", "best/best.json", "checkpoints/epoch-0003.safetensors"):
        path = trained_copy / name
        path.with_name(f".{path.name}.partial").write_bytes(b"half")
    shutil.copyfile(tensors, trained_copy / ".tmpAb3xYz")
    (trained_copy / ".tmpEMPTY0").touch()
    mine = [trained_copy / name for name in (".tmpnotes1", ".notes.txt.partial", ".export-list", ".tmpfolder")]
    for path in mine[:3]:
        path.write_text("written by a person")
    mine[3].mkdir()
    train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    kept = {path for path in trained_copy.rglob("*") if "epoch-" not in path.name}
    assert kept == {*mine, *(path for path in expected if "epoch-" not in path.name)}


def test_files_of_a_folder_that_is_no_run_are_left_alone() -> None:
    Path("folder").mkdir()
    Path("folder/.tmpEMPTY0").touch()
    remove_leftovers(Path("folder"))
    assert Path("folder/.tmpEMPTY0").exists()


PHASES = "curriculum=[{{data: clean, until_epoch: 2}}, {{data: q50, until_epoch: {}}}{}]"
ADDED = ", {data: q50, until_epoch: 8}"
DECAY = "schedule.decay={every: 2}"
RAMP = "data.q50.train={beton: a.beton, quality: {start: 90, end: 40}}"


@pytest.mark.parametrize(
    ("started", "done", "longer", "remedy"),
    [
        # a cosine over the whole run: whatever is tried first
        ([], 4, [PHASES.format(4, ADDED)], ["schedule.horizon=4"]),
        ([], 4, [PHASES.format(8, "")], ["schedule.horizon=4"]),
        ([], 3, [PHASES.format(8, ""), "schedule.horizon=phase"], ["schedule.horizon=4"]),
        ([], 3, [PHASES.format(3, "")], ["schedule.horizon=4"]),  # shorter
        # a cosine for every phase: a phase is added, and those that are trained stay as long as they were
        (["schedule.horizon=phase"], 4, [PHASES.format(4, ADDED), "schedule.horizon=phase"], []),
        (["schedule.horizon=phase"], 3, [PHASES.format(8, "")], ["schedule.horizon=phase", PHASES.format(4, ADDED)]),
        # a number, from an earlier extension
        (["schedule.horizon=3"], 3, [PHASES.format(8, ""), "schedule.horizon=3"], []),
        (["schedule.horizon=3"], 4, [PHASES.format(8, ""), "schedule.horizon=3"], [PHASES.format(4, ADDED)]),
        (["schedule.horizon=3"], 4, [PHASES.format(8, "")], ["schedule.horizon=3", PHASES.format(4, ADDED)]),
        # no cosine, or not yet
        (["schedule.decay={every: 2}"], 4, [PHASES.format(8, ""), "schedule.decay={every: 2}"], []),
        (["schedule.min_lr=2e-3"], 4, [PHASES.format(4, ADDED), "schedule.min_lr=2e-3"], []),
        ([], 1, [PHASES.format(8, "")], []),  # all in the warm-up
        # a ramp over a phase that becomes longer
        ([RAMP, DECAY], 4, [RAMP, PHASES.format(8, ""), DECAY], [PHASES.format(4, ADDED)]),
        ([RAMP], 4, [RAMP, PHASES.format(8, "")], ["schedule.horizon=4", PHASES.format(4, ADDED)]),
        # other data
        ([], 3, [PHASES.format(4, "").replace("q50", "clean")], [PHASES.format(4, "")]),
        ([], 4, ["curriculum=[{data: clean, until_epoch: 2}]"], [PHASES.format(4, "")]),
    ],
)
def test_the_way_to_train_for_longer_is_named_for_every_schedule_and_works(
    tmp_path: Path, started: list[str], done: int, longer: list[str], remedy: list[str]
) -> None:
    before = tiny_recipe(Path(), tmp_path, *started)
    if remedy:
        with pytest.raises(RecipeError) as refused:
            _check_trained_epochs(before, tiny_recipe(Path(), tmp_path, *longer), Path("run"), done)
        message = str(refused.value)
        for setting in remedy:
            named = re.escape(setting) if setting.startswith("schedule") else "add a phase|recipe.yaml|end at epoch 4 or later"
            assert re.search(named, message), message
    _check_trained_epochs(before, tiny_recipe(Path(), tmp_path, *longer, *remedy), Path("run"), done)


def test_a_run_is_trained_for_longer_twice(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu)
    longer = ["evaluate=[]", "schedule.horizon=4", PHASES.format(4, ", {data: clean, until_epoch: 5}")]
    train(tiny_recipe(betons, tmp_path, *longer), Path("run"), runtime=cpu, resume=True)
    again = [
        "evaluate=[]",
        "schedule.horizon=4",
        PHASES.format(4, ", {data: clean, until_epoch: 5}, {data: q50, until_epoch: 6}"),
    ]
    train(tiny_recipe(betons, tmp_path, *again), Path("run"), runtime=cpu, resume=True)
    assert [row["data"] for row in read_metrics(Path("run"))] == ["clean"] * 2 + ["q50"] * 2 + ["clean", "q50"]


def test_a_run_whose_loss_is_not_finite_goes_on_as_its_message_says(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, spoilt = augment.mix, []

    def spoil(images: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, targets = plain(images, *rest)  # type: ignore[arg-type]
        now = rest[-2:] in ((epoch, 2) for epoch in spoilt)  # one micro-batch of these epochs
        return (mixed * float("nan") if now else mixed), targets

    monkeypatch.setattr(augment, "mix", spoil)
    spoilt[:] = [0]
    with pytest.raises(NotFiniteError, match=r"There is no checkpoint yet: start again in the same folder\."):
        train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu)
    spoilt[:] = [2]
    with pytest.raises(NotFiniteError, match=r"run/state\.safetensors is from before it: --resume --set optim\.on_nan=skip"):
        train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu)
    train(tiny_recipe(betons, tmp_path, "evaluate=[]", "optim.on_nan=skip"), Path("run"), runtime=cpu, resume=True)
    assert [row["skipped"] for row in read_metrics(Path("run"))] == [0, 0, 1, 0]


@pytest.mark.parametrize(("epoch", "again"), [(0, "train again from the start"), (1, "train again with --resume")])
def test_an_epoch_that_cannot_be_saved_says_how_to_train_again(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, again: str
) -> None:
    plain, recipe = train_module.export_model, tiny_recipe(betons, tmp_path, "evaluate=[]")

    def full(*arguments: object) -> None:
        if len(read_metrics(Path("run"))) == epoch + 1:
            raise OSError(28, "No space left on device")
        plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "export_model", full)
    with pytest.raises(TrainingError, match=again):
        train(recipe, Path("run"), runtime=cpu)
    monkeypatch.setattr(train_module, "export_model", plain)
    train(recipe, Path("run"), runtime=cpu, resume="--resume" in again)
    assert len(read_metrics(Path("run"))) == 4


def test_a_batch_that_is_too_large_is_told_one_that_fits(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    large = ["batch={size: 4096, per_device: 128}", "evaluate=[]"]
    with pytest.raises(RecipeError) as refused:
        train(tiny_recipe(betons, tmp_path, *large), Path("run"), runtime=cpu)
    remedy = str(refused.value).partition("a rate for it: ")[2].rstrip(".").split(", ")
    assert remedy == ["batch.size=32", "batch.per_device=32", "schedule.lr=0.00035"]
    train(
        tiny_recipe(betons, tmp_path, "batch={size: 4096, per_device: 128}", "evaluate=[]", *remedy), Path("run"), runtime=cpu
    )


def test_a_state_of_another_version_starts_a_new_run_as_its_message_says(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path
) -> None:
    state = trained_copy / "state.safetensors"
    save_file(load_file(state), tmp_path / "old", {"jpegcurr": '{"schema_version": 2}'})
    (tmp_path / "old").replace(state)
    with pytest.raises(UsageError, match=r"another version of jpegcurr \(schema 2\)") as refused:
        train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    (setting,) = re.findall(r"--set (\S+) --out OTHER", str(refused.value))
    train(tiny_recipe(betons, tmp_path, setting, "evaluate=[]"), Path("other"), runtime=cpu, until=1)


def test_a_torn_state_is_replaced_as_its_message_says(betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path) -> None:
    state = trained_copy / "state.safetensors"
    state.unlink()
    state.write_bytes((trained_copy / "checkpoints/epoch-0003.safetensors").read_bytes()[:5000])
    (trained_copy / "checkpoints/epoch-0003.safetensors").unlink()
    with pytest.raises(UsageError, match="An earlier checkpoint may be intact: move ") as refused:
        train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    (kept,) = re.findall(r"move (\S+) over it", str(refused.value))
    Path(kept).replace(state)
    train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    assert [row["epoch"] for row in read_metrics(trained_copy)] == [0, 1, 2, 3]
