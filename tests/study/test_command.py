"""Studies of anybody's trainer: a program of ten lines, its arms, its failures, and the statistics of what it writes."""

import csv
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from forked import PYTHON
from scipy.stats import ttest_rel
from studies import command

import jpegcurr.study
from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.study.command.config import list_command_tasks, load_command_study
from jpegcurr.study.command.metric import read_metric
from jpegcurr.study.command.results import compare_values, describe_design

# A trainer of anybody's, in the shell, which starts in a millisecond. It appends to its log, as one that resumes does.
TRAINER = """
data=$1 seed=$2 out=$3
echo "training on $data"
case $data in bad) echo "no such data" >&2; exit 3;; esac
[ -f $out/log.csv ] || echo "epoch,acc" > $out/log.csv
echo "0,10" >> $out/log.csv
[ $data = q50 ] && gain=5 || gain=0
echo "1,$((70 + gain + seed * seed)).$seed" >> $out/log.csv
"""
ARMS: dict[str, Any] = {"clean": {"data": "clean"}, "q50": {"data": "q50"}}
TIMM_TRAIN = os.path.abspath(os.environ.get("TIMM_TRAIN", ""))  # before a test changes the working directory


def write(**changes: Any) -> Path:
    Path("trainer.sh").write_text(TRAINER)
    tree = {
        "command": "sh trainer.sh {data} {seed} {out}",
        "metric": "{out}/log.csv:acc",
        "control": "clean",
        "seeds": [0, 1, 2],
        "arms": ARMS,
    }
    path = Path("theirs.yaml")
    kept = {key: value for key, value in (tree | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def test_a_trainer_is_studied_and_the_same_command_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    write(seeds=[0, 1, 2], arms=ARMS | {"bad": {"data": "bad"}, "other": {"data": "other"}})
    assert command("study theirs.yaml --out out --jobs 2") == 1
    err = capsys.readouterr().err
    reason = "its command ended with exit status 3; its last lines: training on bad / no such data (out/logs/bad/seed-1.log)"
    assert f"\n  bad/seed-1: {reason}" in err
    assert "3 runs failed; the others are done. To try again, give the same command." in err
    with Path("out/runs.csv").open() as file:
        rows = {(row["arm"], row["seed"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    assert (rows["q50", "2"]["acc"], rows["q50", "2"]["data"]) == ("79.2", "q50")
    known = json.loads(Path("out/study.json").read_text())
    assert (known["finished"], known["planned"]) == (9, 12)
    assert "q50: +5 compared with clean in each of 3 seeds alike: without any spread there is no test." in known["verdict"]
    assert known["verdict"][-1] == "A command leaves no outcome of each image: tests are over seeds alone."
    log = Path("out/logs/q50/seed-0.log").read_text()
    assert log == "$ sh trainer.sh q50 0 out/runs/q50/seed-0\ntraining on q50\n"
    before = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("log.csv")}
    Path("trainer.sh").write_text(TRAINER.replace("exit 3", "gain=-1"))
    assert command("study theirs.yaml --out out -q") == 0
    assert before.items() <= {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("log.csv")}.items()
    page = Path("out/study.html").read_text()
    assert "12 of 12 runs finished" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    write(control="q50", arms=ARMS)
    assert command("study theirs.yaml --out out") == 2
    assert "control was 'clean' when this study began, and is 'q50': it is fixed in advance." in capsys.readouterr().err


def test_options_supply_the_command_and_a_grid_its_arms(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        command=None,
        metric=None,
        arms=None,
        grid={"data": ["clean", "q50"], "rate": ["1e-4", 0.1]},
        control="data=clean,rate=1e-4",
    )
    options = [
        "--command",
        "python train.py {data} --lr {rate} --seed {seed} --note '{{a b}}'",
        "--metric",
        "log_{seed}.jsonl:val.acc",
    ]
    assert command(f"study theirs.yaml {shlex.join(options)} --plan") == 0
    printed = capsys.readouterr().out
    assert "python train.py q50 --lr 0.1 --seed 0 --note '{a b}'" in printed
    assert "4 arms x 3 seeds" in printed
    assert "corrected for 3 comparisons" in printed
    assert command(f"study theirs.yaml {shlex.join(options)} --jobs 2") == 2
    assert "write the same file, log_0.jsonl. Put {out} into command and metric, or omit --jobs." in capsys.readouterr().err
    assert not Path("studies").exists()


def test_a_file_that_all_runs_share_has_to_be_written_by_each(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that ends well and writes nothing must not get the number of the run before it."""
    write(command="sh -c 'test {data} = q50 || echo {{\\\"acc\\\": 7{seed}}} > shared.json' {seed}", metric="shared.json:acc")
    assert command("study theirs.yaml --out out") == 1
    err = capsys.readouterr().err
    assert "q50/seed-0: its command ended well, but did not write shared.json, which is from before." in err
    records = sorted(path.parent.name for path in Path("out/outcomes").rglob("*.json"))
    assert records == ["clean"] * 3
    assert json.loads(Path("out/outcomes/clean/seed-2.json").read_text())["value"] == 72


def test_a_wrong_column_costs_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    write(metric="{out}/log.csv:acc1")
    assert command("study theirs.yaml --out out") == 1
    assert "its last row has no column 'acc1'. Did you mean 'acc'? There are: epoch, acc." in capsys.readouterr().err
    write()
    assert command("study theirs.yaml --out out") == 0
    assert "started" not in capsys.readouterr().err
    assert Path("out/logs/q50/seed-0.log").read_text().count("$ sh") == 1
    assert json.loads(Path("out/study.json").read_text())["finished"] == 6
    write(metric="log.csv:acc1")  # in the working directory, where every run has written over it
    Path("log.csv").write_text("acc\n1\n")
    assert command("study theirs.yaml --out two") == 1
    write(metric="log.csv:acc")
    assert command("study theirs.yaml --out two") == 1
    assert "did not write log.csv, which is from before" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_and_all_that_it_started() -> None:
    write(command="sh -c 'echo begun; sleep 60 & wait' {data} {seed} {out}")
    arguments = [PYTHON, "-m", "jpegcurr", "study", "theirs.yaml", "--out", "out"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    log = Path("out/logs/clean/seed-0.log")
    while not log.is_file() or "begun" not in log.read_text():
        time.sleep(0.05)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped. Finished work is kept. To resume: jpegcurr study theirs.yaml --out out" in err
    assert list(Path("out").rglob("seed-*.json")) == []
    with Path("out/runs/clean/.seed-0.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which every process of the run held


def test_a_run_that_a_command_of_an_earlier_call_still_trains_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The lock is that of the command itself, so that it is held even if jpegcurr was killed."""
    write()
    Path("out/runs/clean").mkdir(parents=True)
    Path("out/study.json").write_text(json.dumps({"design": describe_design(load_command_study(Path("theirs.yaml")))}))
    with Path("out/runs/clean/.seed-0.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("study theirs.yaml --out out") == 1
    reason = "out/runs/clean/seed-0 is still being trained by a command that an earlier call started. Wait for it, or stop it."
    assert reason in capsys.readouterr().err
    assert not Path("out/logs/clean/seed-0.log").read_text().startswith("training")
    assert command("study theirs.yaml --out out -q") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "sh trainer.sh {dat} {seed} {out}"}, r"command: no arm gives a value for {dat}. Did you mean 'data'\?"),
        ({"metric": "{out}/{log}:acc"}, "metric: no arm gives a value for {log}"),
        ({"arms": ARMS | {"more": {}}}, "arms.more: it gives no value for {data}, which the command has"),
        ({"arms": ARMS | {"more": {"data": "x", "lr": 1}}}, "arms.more: lr has no effect, since the command has no {lr}"),
        ({"arms": ARMS | {"more": {"data": "q50"}}}, "arms.more: its command is the same as that of q50"),
        ({"arms": {"clean": {"data": "x", "seed": 1}, "b": {"data": "y"}}}, "seed is set for every run by the study"),
        (
            {"command": "sh trainer.sh {data} {out}"},
            "command: it has no {seed}, so that the runs of all seeds would be the same",
        ),
        ({"command": "sh trainer.sh {data} {seed} {"}, "command: a brace is alone"),
        ({"command": "sh trainer.sh {data:3} {seed}"}, "command: {data} is not a placeholder"),
        ({"command": "sh 'trainer.sh {data} {seed}"}, "command: no closing quotation"),
        ({"metric": "log.csv"}, "metric: 'log.csv' is not of the form FILE:COLUMN"),
        ({"arms": {"clean": {"data": "x"}}}, "arms: a study compares two arms at least, and has 1"),
        ({"control": "cleen"}, r"control: no arm 'cleen'. Did you mean 'clean'\?"),
        ({"arms": None, "grid": {"data": {"clean": [1], "b": [2]}}, "control": "data=clean"}, "can only be a text or a number"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    path = write(**changes)
    with pytest.raises(RecipeError, match=message):
        load_command_study(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device cpu", "--device is for jpegcurr's own training, and this study has a command. Put it into the command."),
        ("--slurm partition=p", "--launch 'srun --gpus 1' starts it on another machine."),
        ("--only cleen", "--only cleen: no such arm. Did you mean 'clean'?"),
        ("--command 'gone-program {data} {seed} {out}'", "command: gone-program cannot be started: No such file or directory."),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert command(f"study theirs.yaml {arguments}") == 2
    assert message in capsys.readouterr().err


def test_options_do_not_turn_a_study_of_a_recipe_into_one_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("study two_phase_study.yaml --command 'sh x {seed}'") == 2
    assert "--command: two_phase_study.yaml is a study of a recipe." in capsys.readouterr().err
    write(metric=None)
    assert command("study theirs.yaml") == 2
    assert (
        "--metric: theirs.yaml has no metric. Give FILE:COLUMN, such as --metric '{out}/log.csv:acc'."
        in capsys.readouterr().err
    )
    write(command=None)
    assert command("study theirs.yaml --metric a.csv:b") == 2
    assert "--metric: theirs.yaml has no command. Give --command too." in capsys.readouterr().err
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("text", "column", "number"),
    [
        ("epoch,acc\n0,1\n1,2.5\n", "acc", 2.5),
        ("epoch;acc\n0;1\n\n", "acc", 1),
        ('\ufeffepoch\tval top1\n0\t"1e1"', "val top1", 10),
        ('{"epoch": 0, "acc": 1}\n{"epoch": 1, "acc": 2, "val": {"acc": 3}}\n', "val.acc", 3),
        ('{\n "acc": 4\n}\n', "acc", 4),
        ('{"acc": 5}\n', "acc", 5),
    ],
)
def test_the_last_row_of_a_table_or_of_json_lines_is_read(text: str, column: str, number: float) -> None:
    Path("log").write_text(text)
    assert read_metric(Path("log"), column) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,acc1\n0,1\n", "log: its last row has no column 'acc'. Did you mean 'acc1'? There are: epoch, acc1."),
        ('{"acc": 1}\n{"epoch": 1}\n', "log: its last row has no column 'acc'. There are: epoch."),
        ("epoch,acc\n0,1\n1\n", "log: its last row has 1 cells, and its head 2."),
        ("epoch,acc\n", "log: it has a head and no row: epoch,acc."),
        ("epoch,acc\n0,nan\n", "log: acc of its last row is 'nan', which is not a finite number."),
        ("acc,acc\n0,1\n", "log: it has the column 'acc' twice."),
        ("", "log: it is empty."),
        ('{"acc": 1}\n{"acc"', "log: it is not JSON"),
        ('{"acc": true}', "log: acc of its last row is 'True', which is not a finite number."),
        (None, "log: it is missing, or not a file."),
    ],
)
def test_a_metric_that_is_not_there_is_one_sentence(text: str | None, message: str) -> None:
    if text is not None:
        Path("log").write_text(text)
    with pytest.raises(UsageError) as error:
        read_metric(Path("log"), "acc")
    assert str(error.value).replace("epoch, acc.", "epoch,acc.").startswith(message)


def test_the_test_over_seeds_is_the_paired_one() -> None:
    random = np.random.default_rng(0)
    columns = {arm: random.normal(shift, 0.3, 5) for arm, shift in (("clean", 70), ("a", 72), ("b", 70))}
    values = {arm: dict(enumerate(map(float, column))) for arm, column in columns.items()}
    first, second = compare_values(values, "clean")
    for comparison in (first, second):
        reference = ttest_rel(columns[comparison.arm], columns["clean"])
        assert comparison.p_value == pytest.approx(reference.pvalue)
        interval = reference.confidence_interval(0.95)
        assert (comparison.low, comparison.high) == pytest.approx((interval.low, interval.high))
    assert (first.verdict, second.verdict) == ("higher", "no detectable difference")
    assert first.adjusted == pytest.approx(2 * first.p_value)
    one = {arm: {0: value[0]} for arm, value in values.items()}
    assert all(np.isnan(comparison.adjusted) for comparison in compare_values(one, "clean"))
    alike = {"clean": {0: 92.8, 1: 91.3}, "a": {0: 93.1, 1: 91.6}}
    (comparison,) = compare_values(alike, "clean")
    assert (comparison.verdict, comparison.spread) == ("no detectable difference", 0.0), "rounding is no spread"


def write_example(name: str) -> Path:
    """Write the study file of the README whose comment begins with ``name``."""
    readme = (Path(jpegcurr.study.__file__).parent / "README.md").read_text()
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if block.startswith(f"# {name}"))
    path = Path(name)
    path.write_text(block)
    return path


def test_the_study_of_the_readme_is_read_as_written() -> None:
    study = load_command_study(write_example("theirs.yaml"))
    tasks = list_command_tasks(study)
    assert [task.name for task in tasks][:3] == ["clean/seed-0", "q50/seed-0", "clean/seed-1"]
    words = "python train.py data/q50 --seed 0 --lr 1e-3 --output out/runs/q50/seed-0"
    assert study.command(tasks[1], Path("out")) == words.split()
    assert study.metric_file(tasks[1], Path("out")) == Path("out/runs/q50/seed-0/summary.csv")


def last_losses() -> Mapping[tuple[str, str], float]:
    """Return the last validation loss in the ``summary.csv`` of every run, by arm and folder."""
    losses = {}
    for file in sorted(Path("out/runs").glob("*/*/run/summary.csv")):
        head, *_, last = csv.reader(file.read_text().splitlines())
        losses[file.parts[2], file.parts[3]] = float(last[head.index("eval_loss")])
    return losses


@pytest.mark.skipif("TIMM_TRAIN" not in os.environ, reason="timm's wheel has no train.py: set TIMM_TRAIN to a copy")
def test_the_training_script_of_timm_is_studied_as_in_the_readme(photos: Path) -> None:
    """Its metric is the loss here: the top-1 of 16 images is often the same for all seeds, and then there is no test."""
    import torch

    assert command(f"encode {photos} --quality source --quality 50 --to folder --output images -q") == 0
    # Releases without --device take it from a file of settings, as do those with it.
    Path("settings.yaml").write_text(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}")
    small = "--model test_convnext --num-classes 4 --img-size 32 --epochs 2 -b 16 --workers 0 --no-prefetcher -c settings.yaml"
    study = load_command_study(write_example("timm.yaml"))
    words = study.config.command.replace("python train.py", f"{shlex.quote(PYTHON)} {shlex.quote(TIMM_TRAIN)}")
    options = shlex.join(["--command", f"{words} {small}", "--metric", "{out}/run/summary.csv:eval_loss"])
    assert command(f"study timm.yaml {options} --out out -q") == 0
    losses = last_losses()
    assert len(losses) == len(set(losses.values())) == 6, "arms and seeds differ"
    for arm, quality in (("clean", "source"), ("q50", "50")):
        settings = yaml.safe_load(Path(f"out/runs/{arm}/seed-1/run/args.yaml").read_text())
        assert (settings["train_split"], settings["val_split"], settings["seed"]) == (f"train_{quality}", "val_source", 1)
    known = json.loads(Path("out/study.json").read_text())
    assert {(run["arm"], f"seed-{run['seed']}"): run["value"] for run in known["runs"]} == pytest.approx(losses, rel=1e-9)
    clean, q50 = (np.array([losses[arm, f"seed-{seed}"] for seed in range(3)]) for arm in ("clean", "q50"))
    (comparison,) = known["against_control"]
    reference = ttest_rel(q50, clean)
    interval = reference.confidence_interval(0.95)
    numbers = [comparison[key] for key in ("difference", "spread", "p_value", "low", "high")]
    expected = [(q50 - clean).mean(), (q50 - clean).std(ddof=1), reference.pvalue, interval.low, interval.high]
    assert numbers == pytest.approx(expected, rel=1e-6)

    # A run that was stopped: the same command trains it again, in the same folder, and no other.
    for path in (Path("out/outcomes/q50/seed-2.json"), Path("out/runs/q50/.seed-2.ended.json")):
        path.unlink()
    assert command(f"study timm.yaml {options} --out out -q") == 0
    rows = {file.parts[2:4]: len(file.read_text().splitlines()) for file in Path("out/runs").glob("*/*/run/summary.csv")}
    assert rows == dict.fromkeys(losses, 3) | {("q50", "seed-2"): 6}
    assert last_losses() == pytest.approx(losses, rel=1e-6), "the same seed gives the same run"
