"""Runs side by side: the figures of their files, what differs between their recipes, and what is unusual about a run."""

import csv
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from samples import tiny_recipe
from studies import command

from jpegcurr.analysis.runs.board import draw_curves, shared_phases, write_board
from jpegcurr.analysis.runs.records import RunRecord, read_record, read_records
from jpegcurr.analysis.runs.table import tabulate
from jpegcurr.cli import train as train_command
from jpegcurr.training.tracking import read_metrics


@pytest.fixture
def sweep(trained: Path) -> Path:
    """Two runs of other rates and seeds; the metrics of the second are other ones, and not finite in one epoch."""
    for name, rate, seed in (("a", 2e-3, 0), ("b", 4e-3, 7)):
        shutil.copytree(trained, Path("sweep", name), ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
        recipe = yaml.safe_load(Path("sweep", name, "recipe.yaml").read_text())
        recipe |= {"seed": seed, "schedule": recipe["schedule"] | {"lr": rate}}
        Path("sweep", name, "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = read_metrics(Path("sweep/b"))
    changed = [
        row | {"val/clean/top1": top1, "train/loss": 2 - top1 / 50}
        for row, top1 in zip(rows, (10.0, 50.0, 50.0, float("nan")), strict=True)
    ]
    Path("sweep/b/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    return Path("sweep")


def test_a_table_has_what_differs_and_the_figures_of_the_metrics(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"runs {sweep} --columns 'val/*/top1' --columns train/loss --json --csv table.csv") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["differences"] == ["schedule.lr", "seed"]
    assert table["columns"] == {"train/loss": "lowest", "val/clean/top1": "highest", "val/q50/top1": "highest"}
    first, second = table["runs"]
    rows = read_metrics(sweep / "a")
    for column, pick in (("val/clean/top1", max), ("val/q50/top1", max), ("train/loss", min)):
        values = [row[column] for row in rows]
        best = pick(values)
        expected = {"last": pytest.approx(values[-1]), "best": pytest.approx(best), "best_epoch": values.index(best)}
        assert first["metrics"][column] == expected
    assert second["recipe"] == {"schedule.lr": 0.004, "seed": 7}
    assert second["metrics"]["val/clean/top1"] == {"last": None, "best": 50.0, "best_epoch": 1}, "the first of equal ones"
    with Path("table.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [row["run"] for row in cells] == ["a", "b"]
    assert float(cells[0]["train/loss last"]) == pytest.approx(rows[-1]["train/loss"])
    assert (cells[1]["val/clean/top1 best epoch"], cells[1]["schedule.lr"], cells[1]["note"]) == ("1", "0.004", "")
    assert command(f"runs {sweep}") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["run", "lr", "seed", "epochs"]
    assert len(printed) == 3


def test_torn_lines_and_runs_under_way_are_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = sweep / "a" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    (sweep / "a" / ".run.lock").write_text(f"{os.getpid()} {socket.gethostname()} 2026-03-01T14:05:09+00:00\n")
    (sweep / "b" / ".run.lock").write_text(f"{2**22 + 1} {socket.gethostname()} 2026-03-01T14:05:09+00:00\n")  # of no process
    (sweep / "b" / "metrics.jsonl").write_text('{"epoch": 0}\nnonsense\n{"epoch": 2}\n')
    (sweep / "c").mkdir()
    (sweep / "c" / "metrics.jsonl").write_text('{"epoch": 0, "train/loss": 1.5}\n')
    assert command(f"runs {sweep} --columns train/loss") == 0
    printed = capsys.readouterr().out
    assert f"a: under way, 3 of 4 epochs (process {os.getpid()} on " in printed
    assert "a: the last line of metrics.jsonl is torn and left out" in printed
    assert "b: not finished, 0 of 4 epochs" in printed
    assert "metrics.jsonl cannot be read as metrics (line 2: it is not JSON" in printed
    assert "c: no recipe, so that its differences are unknown: " in printed
    write_board(read_records([sweep])[0], Path("board.html"))
    assert "the last line of metrics.jsonl is torn" in Path("board.html").read_text()


@pytest.mark.filterwarnings("ignore")
def test_event_files_are_read_as_tensorboard_reads_them(sweep: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = Path("sweep/theirs/events.out.tfevents.1.host.2.0")
    events.parent.mkdir()
    with events.open("wb") as file:
        writer = RecordWriter(file)
        for step, value in enumerate((50.0, 62.5, 61.0, 70.0)):
            summary = Summary(value=[Summary.Value(tag="perf/test_acc1", simple_value=value)])
            writer.write(Event(step=step, wall_time=1.0 + step, summary=summary).SerializeToString())
        writer.flush()
        file.truncate(file.tell() - 5)
    records, _ = read_records([sweep])
    table = tabulate(records, ["perf/*"])
    assert [record.kind for record in records] == ["run", "run", "tensorboard"]
    assert table.fields == ["schedule.lr", "seed"], "a run without a recipe differs in nothing"
    metric = table.metrics[2]["perf/test_acc1"]
    assert (metric.last, metric.best, metric.epoch) == (61.0, 62.5, 1)
    assert records[2].notes == (f"the last record of {events.name} is torn and left out",)
    titles = dict(draw_curves(records))
    assert titles["perf/test_acc1"][0].x == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runs gone", "gone does not exist"),
        ("runs sweep/a/recipe.yaml", "is not a folder"),
        ("runs empty", "empty holds no run"),
        ("runs sweep --columns 'val/*/top9'", "--columns val/*/top9: no run has such a column. Did you mean 'val/"),
        ("runs sweep --csv there.csv", "there.csv exists. Choose another place with --csv, or replace it with --force."),
        ("board sweep -o there.csv", "there.csv exists"),
        ("board empty", "empty holds no run"),
    ],
)
def test_a_mistake_is_one_sentence(sweep: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("there.csv").write_text("mine")
    assert command(arguments) == 2
    assert message in capsys.readouterr().err
    assert Path("there.csv").read_text() == "mine"
    assert not Path("board.html").exists()


def test_a_studys_trunks_are_left_out() -> None:
    for folder in ("out/runs/a/seed-0", "out/trunks/trunk-1/seed-0"):
        Path(folder).mkdir(parents=True)
        Path(folder, "run.json").write_text("{}")
    Path("out/study.json").write_text("{}")
    records, remarks = read_records([Path("out")])
    assert [record.folder for record in records] == [Path("out/runs/a/seed-0")]
    assert remarks == ["1 trunk of studies left out: the runs that start there have these epochs."]


def by_title(records: list[RunRecord]) -> dict[str, list[tuple[str, list[float]]]]:
    return {title: [(line.name, list(line.y)) for line in lines] for title, lines in draw_curves(records)}


def test_a_page_draws_every_epoch_of_one_run_and_several(sweep: Path) -> None:
    (record,) = read_records([sweep / "a"])[0]
    rows, curves = read_metrics(sweep / "a"), by_title([record])
    assert curves["Top-1 on clean, %"] == [
        ("raw", [row["val/clean/top1"] for row in rows]),
        ("ema", [row["val/clean/ema_top1"] for row in rows]),
    ]
    assert curves["Learning rate"][0][1] == [row[key] for row in rows for key in ("lr_first", "lr_last")]
    assert curves["Time spent waiting for images, %"][0][1] == pytest.approx([100 * row["data_wait"] for row in rows])
    assert {"Training loss", "Loss on clean", "Loss on q50", "Images per second"} < curves.keys()
    assert shared_phases([record]) == ([(2, 4)], [(0, "clean"), (2, "q50")])
    both = read_records([sweep])[0]
    assert [name for name, _ in by_title(both)["Training loss"]] == ["a", "b"]
    assert command(f"board {sweep} -o board.html --json") == 0
    page = Path("board.html").read_text()
    assert page.count('fill-opacity=".07"') == 2 * len(curves), "a wide and a narrow chart of each"
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_training_keeps_the_page_new(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every epoch the page is there, whole, with all epochs so far; one that cannot be written ends nothing."""
    tiny_recipe(betons, Path(), "evaluate=[]")
    epochs: list[str] = []
    write = train_command.write_board_of

    def noted(folder: Path) -> None:
        write(folder)
        epochs.append((*read_record(folder, "run").notes, "done")[0].partition(" (")[0])
        if len(epochs) == 2:
            (folder / "board.html").unlink()
            (folder / "board.html").mkdir()

    monkeypatch.setattr(train_command, "write_board_of", noted)
    assert command("train --recipe tiny.yaml --set evaluate=[] --out run --board --device cpu -q") == 0
    assert epochs == [f"under way, {number} of 4 epochs" for number in (1, 2, 3)] + ["done"]
    assert not list(Path("run").glob(".board*"))
    assert command("train --recipe tiny.yaml --board --plan") == 2
