"""Trackers of a run that is resumed, set back or forked: every epoch is shown once, with the values of ``metrics.jsonl``."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import tiny_recipe

from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.tracking import Metrics, read_metrics
from jpegcurr.training.train import train

ROW: dict[str, float | int | str] = {"data": "clean", "train/loss": 1.0}


def shown(folder: Path) -> list[tuple[int, float]]:
    """Return the steps and values of the loss that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def logged(folder: Path) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), pytest.approx(float(row["train/loss"]))) for row in read_metrics(folder)]


def record(folder: Path, epochs: range, loss: float, names: tuple[str, ...]) -> None:
    """Record some epochs as a run that starts with the first of them."""
    folder.mkdir(exist_ok=True)
    metrics = Metrics(folder, before=epochs[0])
    metrics.open_trackers(names, "abc123", {"seed": 0})
    for epoch in epochs:
        metrics.record({**ROW, "epoch": epoch, "train/loss": loss + epoch})
    metrics.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "starts",
    [
        [range(3)],
        [range(3), range(1, 4)],  # set back
        [range(3), range(3, 5)],
        [range(2), range(4)],  # started over
        [range(5), range(2, 3), range(1, 6)],
    ],
)
def test_tensorboard_shows_the_epochs_of_the_last_start(starts: list[range]) -> None:
    pytest.importorskip("tensorboard")
    for number, epochs in enumerate(starts):
        record(Path("run"), epochs, 10.0 * number, ("tensorboard",))
    assert shown(Path("run")) == logged(Path("run"))


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_that_is_asked_for_later_shows_the_epochs_before(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu, until=2)
    train(tiny_recipe(betons, tmp_path, "evaluate=[]", "tracking=[tensorboard]"), Path("run"), runtime=cpu, resume=True)
    assert [step for step, _ in shown(Path("run"))] == [0, 1, 2, 3]
    assert shown(Path("run")) == logged(Path("run"))


class Server:
    """W&B as a module: its runs keep the first value of every step, and drop later ones."""

    class Error(Exception):
        """W&B's own error."""

    def __init__(self, refusal: str = "") -> None:
        self.runs: dict[str, dict[int, float]] = {}
        self.refusal = refusal

    def init(self, *, id: str, **_options: Any) -> SimpleNamespace:
        if self.refusal:
            raise self.Error(self.refusal)
        steps = self.runs.setdefault(id, {})
        start = max(steps, default=-1) + 1

        def log(row: dict[str, Any], step: int) -> None:
            if step >= max(steps, default=-1) + 1:
                steps[step] = row["train/loss"]

        return SimpleNamespace(id=id, starting_step=start, log=log, finish=lambda: None)

    def teardown(self) -> None:
        """Do nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made_up = Server()
    monkeypatch.setattr("jpegcurr.training.tracking._import_tracker", lambda _name: made_up)
    return made_up


def test_wandb_continues_a_run_of_later_epochs(server: Server) -> None:
    record(Path("run"), range(3), 0, ("wandb",))
    record(Path("run"), range(3, 5), 10, ("wandb",))
    assert [*server.runs] == ["abc123"]
    assert [*server.runs["abc123"].items()] == logged(Path("run"))


def test_wandb_gets_a_new_run_with_every_epoch_when_a_run_is_set_back(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    record(Path("run"), range(3), 0, ("wandb",))
    record(Path("run"), range(1, 4), 10, ("wandb",))
    first, second = server.runs
    assert server.runs[first] == {0: 0.0, 1: 1.0, 2: 2.0}, "what it had"
    assert [*server.runs[second].items()] == logged(Path("run"))
    (warning,) = caplog.messages
    assert f"what its run {first} has of epochs 1 to 2" in warning
    record(Path("run"), range(4, 6), 20, ("wandb",))  # it is the new one that continues
    assert [*server.runs] == [first, second]
    assert [*server.runs[second].items()] == logged(Path("run"))


def test_wandb_shows_the_epochs_from_before_it_was_asked_for(server: Server) -> None:
    record(Path("run"), range(2), 0, ())
    record(Path("run"), range(2, 4), 10, ("wandb",))
    assert [*server.runs["abc123"].items()] == logged(Path("run"))


@pytest.mark.parametrize("text", ["", "[]", '{"id": 7}', '{"id": "../x"}', '{"id": "x\\u001b"}'])
def test_an_id_that_is_none_is_not_used(server: Server, text: str) -> None:
    Path("run").mkdir()
    Path("run/wandb.json").write_text(text)
    record(Path("run"), range(2), 0, ("wandb",))
    assert [*server.runs] == ["abc123"]


def test_wandb_that_does_not_start_says_so_and_the_same_command_works_afterwards(
    betons: Path, cpu: Runtime, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, without = (tiny_recipe(betons, tmp_path, "evaluate=[]", f"tracking=[{name}]") for name in ("wandb", ""))
    server.refusal = "No API key configured.\n  Use `wandb login` to log in."
    for resume, until in ((False, 2), (True, None)):
        server.refusal = server.refusal or "offline"
        message = r"^tracking: W&B does not start: .*\. Log in with `wandb login`, .* WANDB_MODE=offline, or omit it: set"
        with pytest.raises(UsageError, match=message):
            train(recipe, Path("run"), runtime=cpu, resume=resume)
        server.refusal = ""
        train(recipe, Path("run"), runtime=cpu, resume=resume, until=until)
    assert [len(steps) for steps in server.runs.values()] == [4]
    server.refusal = "no network"
    shutil.rmtree("run")
    train(without, Path("run"), runtime=cpu)
    assert json.loads(Path("run/run.json").read_text())["id"]


def test_the_table_is_rounded_and_the_metrics_are_not() -> None:
    """``metrics.jsonl`` is what a resumed run and a study read, and is exact; people read ``summary.csv``."""
    Path("run").mkdir()
    loss, top1 = 0.1 + 0.2, 92.80000000000001
    Metrics(Path("run")).record({"epoch": 0, "train/loss": loss, "val/clean/top1": top1, "data": "clean"})
    assert read_metrics(Path("run")) == [{"epoch": 0, "train/loss": loss, "val/clean/top1": top1, "data": "clean"}]
    assert Path("run/summary.csv").read_text().splitlines()[1] == "0,0.3,92.8,clean"


def test_evaluation_every_few_epochs_is_at_the_ends_of_phases_too(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    ends = ("curriculum.0.until_epoch=1", "curriculum.1.until_epoch=4", "schedule.warmup_epochs=0", "evaluate=[clean]")
    assert [epoch for epoch in range(4) if tiny_recipe(betons, tmp_path, *ends).evaluates(epoch)] == [0, 1, 2, 3]
    train(tiny_recipe(betons, tmp_path, *ends, "evaluate_every=3"), Path("run"), runtime=cpu, until=2)
    rows = train(tiny_recipe(betons, tmp_path, *ends, "evaluate_every=4"), Path("run"), runtime=cpu, resume=True).rows
    assert [row["epoch"] for row in rows if "val/clean/top1" in row] == [0, 3]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert json.loads(Path("run/best/best.json").read_text())["epoch"] in (0, 3)
    assert "epoch,phase" in Path("run/summary.csv").read_text()
    recipe = tiny_recipe(betons, tmp_path, *ends, "evaluate_every=3")
    assert [epoch for epoch in range(4) if recipe.evaluates(epoch)] == [0, 2, 3]
