"""A study from its file to its page: what is refused, what is shared, what goes on after a stop."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
import yaml
from safetensors.torch import load_file
from samples import encode_all, image
from studies import PHASES, arms, command, run, write_study

from jpegcurr.errors import Interrupted, RecipeError, Terminated, UsageError
from jpegcurr.files import locked
from jpegcurr.recipe.loading import find_recipe, find_study, load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.study import parallel
from jpegcurr.study.compare import compare_arms
from jpegcurr.study.config import load_study
from jpegcurr.study.cost import Work, estimate_study, makespan
from jpegcurr.study.folder import check_folder
from jpegcurr.study.measure import check_data, load_outcomes
from jpegcurr.study.page import describe_arm, swaps
from jpegcurr.study.results import conclude, gather
from jpegcurr.study.run import stoppable
from jpegcurr.study.tasks import left_to_do, list_tasks
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train

SHIPPED = sorted((Path(__file__).parent.parent.parent / "recipes/studies").glob("*.yaml"))


def weights(folder: Path) -> dict[str, bytes]:
    """Of the last weights, raw and averaged, of the best, and of the whole state."""
    files = ("model.safetensors", "ema/model.safetensors", "best/model.safetensors")
    tensors = {f"{file} {name}": each for file in files for name, each in load_file(folder / file).items()}
    tensors |= load_file(folder / "state.safetensors")
    return {name: each.numpy().tobytes() for name, each in tensors.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_study_is_valid_and_explained(path: Path, betons: Path) -> None:
    Path("betons").symlink_to(betons)
    assert find_study(Path(path.name)).read_text() == path.read_text()
    study = load_study(Path(path.name))
    assert path.read_text().startswith("# ")
    assert all(len(plan_epochs(recipe)) == recipe.epochs for recipe in study.recipes.values())


def test_the_shipped_study_has_the_arms_of_a_controlled_experiment(betons: Path) -> None:
    """As many epochs in all; the shares of quality 50 that they claim; three shared starts and one arm by itself."""
    Path("betons").symlink_to(betons)
    study = load_study(Path("two_phase_study.yaml"))
    plans = {arm: plan_epochs(recipe) for arm, recipe in study.recipes.items()}
    assert {len(each) for each in plans.values()} == {150}
    shares = {arm: sum(dict(plan.shares).get("q50", 0) for plan in each) for arm, each in plans.items()}
    assert shares == {
        "clean_clean": 0,
        "clean_q50": 50,
        "clean_q50_clean": 40,
        "q50_clean": 100,
        "q50_q50": 150,
        "mixture": pytest.approx(50),
        "restart_q50": 50,
        "restart_clean": 0,
    }
    together = [set(trunk.arms) for trunk in study.trunks]
    assert together == [
        {"clean_clean", "clean_q50", "clean_q50_clean"},
        {"q50_clean", "q50_q50"},
        {"restart_q50", "restart_clean"},
    ]
    others = {arm: recipe.model_dump(exclude={"curriculum", "schedule"}) for arm, recipe in study.recipes.items()}
    assert all(each == others["clean_clean"] for each in others.values())
    tasks = list_tasks(study)
    assert sum(task.last - task.first for task in tasks) == 5 * (3 * 100 + 7 * 50 + 150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "cleen"}, r"control: no arm 'cleen'. Did you mean 'clean'\?"),
        ({"sedes": [0]}, r"line \d+: sedes: unknown key. Did you mean 'seeds'\?"),
        ({"seeds": [1, 1]}, "seeds: one is there twice"),
        ({"primary": {"data": "q50", "weights": "raw"}}, r"line \d+: primary.data: no validation set 'q50'"),
        ({"primary": {"data": "clean", "weights": "best"}}, "primary.weights: Input should be 'raw' or 'ema'"),
        ({"evaluate": {"clean": "gone.beton"}}, r"line \d+: evaluate.clean: gone.beton does not exist"),
        ({"recipe": "gone.yaml"}, "gone.yaml does not exist"),
        (
            {"arms": arms(bad={"set": ["model.nam=x"]})},
            r"line \d+: arms.bad: base.yaml:\n  model.nam: unknown key. Did you mean",
        ),
        ({"arms": arms(bad={"sett": []})}, r"line \d+: arms.bad.sett: unknown key. Did you mean 'set'\?"),
        ({"arms": arms(bad={"set": ["seed=1"]})}, "arms.bad.set: the seed is not an arm's"),
        (
            {"arms": arms(again={"set": {"curriculum": yaml.safe_load(PHASES.format("clean", "q50"))}})},
            "again: it is the same as",
        ),
        ({"arms": arms(**{"../x": {}})}, "String should match pattern"),
        ({"arms": {"clean": {}}}, "arms: Dictionary should have at least 2 items"),
        ({"fork": None, "arms": arms(alone={"fork": False})}, "fork: false does nothing in a study without fork"),
        (
            {"arms": arms(late={"set": ["curriculum=" + PHASES.format("q50", "q50")]})},
            r"line \d+: arms.late: it shares its first 2 epochs with no other arm: against clean, curriculum was clean, is q50 "
            r"in epoch 0\. .* fork: false",
        ),
        (
            {"arms": arms(fast={"set": ["schedule.lr=1e-2", "curriculum=" + PHASES.format("clean", "clean")]})},
            "against clean, schedule.lr was 0.002, is 0.01",
        ),
        (
            {"arms": arms(short={"set": ["curriculum=[{data: clean, until_epoch: 3}]"]})},
            "against clean, the cosine that schedule.horizon sets ended at epoch 4, ends at 3",
        ),
        (
            {"arms": arms(mild={"set": ["augment.erase=0.5", "curriculum=" + PHASES.format("clean", "clean")]})},
            "against clean, augment.erase was 0.0, is 0.5",
        ),
        (
            {"arms": arms(whole={"set": ["curriculum=[{data: clean, until_epoch: 4}]"]})},
            "other phases in epoch 1: let a phase of both end where they part",
        ),
        ({"arms": arms(ends={"set": ["curriculum=[{data: clean, until_epoch: 2}]"]})}, "arms.ends: it ends at epoch 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(betons: Path, changes: dict[str, Any], message: str) -> None:
    path = write_study(betons, **changes)
    with pytest.raises(RecipeError, match=message):
        load_study(path)


def test_maps_and_lists_of_overrides_mean_the_same(betons: Path) -> None:
    """Inner maps are merged, lists replace; what is set for all arms comes first."""
    path = write_study(
        betons,
        fork=None,
        set={"schedule": {"lr": 1e-5, "warmup_epochs": 0}},
        arms={
            "clean": {"set": {"schedule": {"min_lr": 1e-6}, "ema.decay": 0.5}},
            "swap": {"set": ["schedule.min_lr=1e-6", "ema.decay=0.5", "schedule.lr=0.5", "batch.size=8"]},
        },
    )
    clean, swap = load_study(path).recipes.values()
    assert (clean.schedule.lr, clean.schedule.min_lr, clean.schedule.warmup_epochs, clean.ema.decay) == (1e-5, 1e-6, 0, 0.5)
    assert swap.model_copy(update={"schedule": clean.schedule, "batch": clean.batch}) == clean
    assert swap.schedule.lr == 0.5


def test_an_arm_that_forks_ends_in_the_weights_of_one_that_ran_whole(betons: Path, cpu: Runtime) -> None:
    """Bit by bit, state and metrics; the trunk is trained once for both arms, and each seed has its own."""
    path = write_study(betons)
    notes, failed = run(path, Path("out"), cpu)
    assert failed == []
    trunks = [each for each in notes.begun if each.startswith("trunk-")]
    shared = {each.partition("/")[0] for each in trunks}
    (name,) = shared
    assert notes.begun == [
        f"{name}/seed-0", "clean/seed-0", "swap/seed-0", f"{name}/seed-1", "clean/seed-1", "swap/seed-1"
    ]  # fmt: skip
    study = load_study(path)
    for arm, seed in (("clean", 0), ("swap", 1)):
        whole, forked = Path(f"whole-{arm}"), Path(f"out/runs/{arm}/seed-{seed}")
        train(study.recipe(arm, seed), whole, runtime=cpu)
        assert weights(whole) == weights(forked)
        rows = [
            [
                {key: value for key, value in row.items() if key not in ("seconds", "data_wait", "images_per_second")}
                for row in each
            ]
            for each in (read_metrics(whole), read_metrics(forked))
        ]
        assert rows[0] == rows[1]
        assert (forked / "recipe.yaml").read_text() == (whole / "recipe.yaml").read_text()
    heads = [json.loads(Path(f"out/runs/{arm}/seed-0/run.json").read_text())["id"] for arm in ("clean", "swap")]
    assert heads[0] != heads[1]
    assert weights(Path("out/runs/clean/seed-0")) != weights(Path("out/runs/clean/seed-1"))


def test_arms_in_one_process_keep_the_compiled_step(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task has a model of its own; what was traced for the first serves all."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    notes, failed = run(write_study(betons, seeds=[0]), Path("out"), replace(cpu, compile=True))
    assert (len(notes.over), failed) == (3, [])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_study_that_is_stopped_goes_on_to_the_same_results(betons: Path, cpu: Runtime) -> None:
    """Stopped after every few steps, in trunks and in arms; nothing that was finished is done again."""
    path, asked = write_study(betons), [0]

    def soon() -> bool:
        asked[0] += 1
        return asked[0] % 11 == 0

    stops = 0
    while True:
        try:
            _, failed = run(path, Path("out"), cpu, soon)
        except Terminated:
            stops += 1
            continue
        break
    assert stops >= 3
    assert failed == []
    assert left_to_do(load_study(path), list_tasks(load_study(path)), Path("out")) == []
    run(path, Path("unbroken"), cpu)
    for arm in ("clean", "swap"):
        for seed in (0, 1):
            assert weights(Path(f"out/runs/{arm}/seed-{seed}")) == weights(Path(f"unbroken/runs/{arm}/seed-{seed}"))
    got, wanted = (gather(load_study(path), Path(name)) for name in ("out", "unbroken"))
    assert [run.scores for run in got.runs] == [run.scores for run in wanted.runs]
    assert got.verdict == wanted.verdict


def signalled(*numbers: signal.Signals, begun: bool = True) -> list[bool]:
    """Send signals within a step or, unless ``begun``, before the first; whether an end was asked for by each."""
    asked = []
    with stoppable() as stop:
        if begun:
            stop.begun()
        for number in numbers:
            asked.append(stop.asked())
            os.kill(os.getpid(), number)
        stop.check()
    return asked


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_step_under_way_is_saved(number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted) as left:
        signalled(number)
    assert left.value.exit_code == code
    with pytest.raises(Interrupted):
        signalled(number, signal.SIGTERM)  # of a scheduler that tells all its processes, and of their parent
    with pytest.raises(KeyboardInterrupt):
        signalled(number, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signalled(number, begun=False)  # there is nothing to save
    assert signalled() == []


def test_a_run_that_another_process_is_at_is_left_to_it(betons: Path, cpu: Runtime) -> None:
    path = write_study(betons, seeds=[0], fork=None)
    with locked(Path("out/runs/swap/.seed-0.lock"), Path("elsewhere")):
        _, failed = run(path, Path("out"), cpu)
    assert [each.reason for each in failed] == [
        "out/runs/swap/seed-0 is being trained by another process. Wait for it, or choose another place with --out."
    ]
    notes, failed = run(path, Path("out"), cpu)
    assert (notes.begun, failed) == (["swap/seed-0"], [])


def test_an_arm_that_fails_does_not_stop_the_others(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "q50")], "fork": False}
    write_study(betons, seeds=[0], arms={"clean": arms()["clean"], "bad": bad, "swap": arms()["swap"]})
    assert command("study small.yaml --out out --device cpu") == 1
    said = capsys.readouterr().err
    assert re.search(r"bad/seed-0: The (loss|weights' norm).* is (nan|inf)", said)
    assert "1 run failed; the others are done. To try again, give the same command." in said
    assert "Traceback" in Path("out/logs/bad/seed-0.log").read_text()
    known = json.loads(Path("out/study.json").read_text())
    assert (known["finished"], known["planned"]) == (2, 3)
    assert [each["arm"] for each in known["against_control"] if each["primary"]] == ["swap"]
    assert "So far: 2 of 3 runs are finished." in known["verdict"][0]
    # tried again, and nothing else is
    before = {file: file.stat().st_mtime_ns for file in Path("out").rglob("model.safetensors")}
    assert command("study small.yaml --out out --device cpu") == 1
    assert before == {file: file.stat().st_mtime_ns for file in Path("out").rglob("model.safetensors")}


def test_a_trunk_that_fails_fails_its_arms_and_no_others(betons: Path, cpu: Runtime) -> None:
    hot = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "q50")]}
    colder = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "clean")]}
    path = write_study(betons, seeds=[0], arms=arms(hot=hot, colder=colder))
    notes, failed = run(path, Path("out"), cpu)
    assert [each.task.arm for each in failed] == [None, "hot", "colder"]
    assert all("its trunk, trunk-" in each.reason for each in failed[1:])
    assert [each.task.arm for each in notes.over if each.end == "done"] == [None, "clean", "swap"]


def test_the_command_writes_a_page_and_every_figure(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons)
    assert command("study small.yaml --device cpu") == 0
    out = Path("studies/small")
    told = capsys.readouterr()
    known = json.loads((out / "study.json").read_text())
    assert known["verdict"][0] in told.out
    assert str(out / "study.html") in told.out
    page = (out / "study.html").read_text()
    for text in (known["verdict"][0], "swap to q50", "clean to 2, q50 to 4; one cosine", "shared first epochs", "after Holm"):
        assert text.replace("'", "&#39;") in page
    assert not re.search(r"(?:src|href)=\"?(?!data:|#)", page)  # offline
    assert page.count("<svg") == 4
    assert f"swap: {known['against_control'][0]['difference']:+.2f} (" in page, "a row of the chart of differences"
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2  # arms, seeds, weights, sets
    for row in rows:
        path = out / "outcomes" / row["arm"] / f"seed-{row['seed']}" / f"{row['weights']}-{row['data']}.npz"
        outcomes, facts = load_outcomes(path)
        assert float(row["top1"]) == 100 * outcomes.right.mean()
        assert facts["at_load"] == (None if row["data"] == "clean" else "quality 25, on the fly, before the crop")
    # the sets of the study are those that training saw, where both have them
    last = read_metrics(out / "runs/swap/seed-1")[-1]
    (mine,) = [row for row in rows if (row["arm"], row["seed"], row["weights"], row["data"]) == ("swap", "1", "ema", "clean")]
    assert float(mine["top1"]) == pytest.approx(last["val/clean/ema_top1"])
    primary = [each for each in known["against_control"] if each["primary"]]
    tops = {(row["arm"], row["seed"]): float(row["top1"]) for row in rows if (row["weights"], row["data"]) == ("raw", "clean")}
    differences = [tops["swap", seed] - tops["clean", seed] for seed in ("0", "1")]
    assert primary[0]["difference"] == pytest.approx(np.mean(differences))
    assert [pair["difference"] for pair in primary[0]["pairs"]] == pytest.approx(differences)
    # again: nothing is left to do, and the page is the same
    assert command("study small.yaml --device cpu") == 0
    assert "0 to" not in capsys.readouterr().err
    assert (out / "study.html").read_text() == page


def test_more_seeds_arms_and_sets_only_add(betons: Path, cpu: Runtime) -> None:
    path, out = write_study(betons, seeds=[0]), Path("out")
    assert command(f"study {path} --out out --device cpu -q") == 0
    before = {file: file.stat().st_mtime_ns for file in out.rglob("state.safetensors")}
    assert json.loads((out / "study.json").read_text())["against_control"][0]["low"] is None  # one seed
    q50 = {"beton": str(betons / "val-source.beton"), "quality": 50}
    late = {"set": ["curriculum=[{data: clean, until_epoch: 2}, {data: q50, until_epoch: 3}, {data: clean, until_epoch: 4}]"]}
    sets = {**yaml.safe_load(path.read_text())["evaluate"], "q50": q50}
    path = write_study(betons, seeds=[0, 1], arms=arms(late=late), evaluate=sets)
    study = load_study(path)
    check_folder(study, out)
    # every arm is measured on the new set; the trunk of seed 0 serves the new arm
    left = [task.name for task in left_to_do(study, list_tasks(study), out)]
    assert len(left) == 3 + 4
    assert command(f"study {path} --out out --device cpu -q") == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}
    results = gather(study, out)
    assert len(results.runs) == results.planned == 6
    assert set(results.columns) == {(weights, name) for weights in ("raw", "ema") for name in ("clean", "q25", "q50")}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": {"optim": {"weight_decay": 0.1}}}, RecipeError, r"arms.clean: .*\n  optim.weight_decay was 0.05, is 0.1"),
        (
            {
                "arms": arms(swap={"set": ["curriculum=[{data: clean, until_epoch: 2}, {data: q50, until_epoch: 5}]"]}),
                "fork": None,
            },
            RecipeError,
            r"arms.swap: it has runs in out, .*another name.*\n  curriculum.1.until_epoch was 4, is 5",
        ),
        ({"control": "swap"}, UsageError, "control was clean when this study began, and is swap"),
        ({"primary": {"data": "q25", "weights": "raw"}}, UsageError, "primary was clean, raw, top1 .* is q25, raw, top1"),
        ({"arms": {"clean": arms()["clean"], "other": arms()["swap"]}}, UsageError, "arms.swap is gone, which has results"),
        ({"seeds": [5]}, UsageError, "seeds: 0 is gone, which has results"),
    ],
)
def test_what_was_run_stays_what_it_was(
    betons: Path, cpu: Runtime, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_study(betons, seeds=[0])
    assert command("study small.yaml --out out --device cpu -q") == 0
    path = write_study(betons, **{"seeds": [0], **changes})
    with pytest.raises(error, match=message):
        check_folder(load_study(path), Path("out"))


def test_what_reads_or_ends_no_run_may_change(betons: Path) -> None:
    write_study(betons, seeds=[0])
    assert command("study small.yaml --out out --device cpu -q") == 0
    base = {"loader": {"kind": "plain", "workers": 1}, "save": {"last": 1}}
    check_folder(load_study(write_study(betons, seeds=[0], base=base)), Path("out"))


def test_data_is_made_and_held_against_each_other_before_any_run(
    betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quality that is missing is made once, whoever would need it first; other classes are refused."""
    mine = Path(shutil.copytree(betons, tmp_path / "mine"))
    for file in mine.glob("train-q50*"):
        file.unlink()
    write_study(mine, seeds=[0])
    check_data(load_study(Path("small.yaml")), ["clean", "swap"])
    assert (mine / "train-q50.beton").read_bytes() == (betons / "train-q50.beton").read_bytes()
    few = tmp_path / "few"
    encode_all(write_two_classes(tmp_path), few, ["source"])
    write_study(betons, seeds=[0], evaluate={"clean": str(few / "val-source.beton")})
    assert command("study small.yaml --device cpu") == 2
    assert "evaluate.clean: " in (said := capsys.readouterr().err)
    assert "has other classes than what the arms train on" in said
    assert not Path("studies/small/study.json").exists()


def write_two_classes(folder: Path) -> Path:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / "two" / split / label).mkdir(parents=True)
            (folder / "two" / split / label / "0.jpg").write_bytes(image(3))
    return folder / "two"


def test_a_folder_of_something_else_is_left_alone(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons)
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert command("study small.yaml --out out --device cpu") == 2
    assert "out exists and is not a study" in capsys.readouterr().err
    assert os.listdir("out") == ["mine.txt"]


def test_several_at_a_time_are_one_after_another(betons: Path, cpu: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    """Processes of their own end in the same weights; stopped half-way, they go on; one that fails says why."""
    bad = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "q50")], "fork": False}
    path = write_study(betons, seeds=[0], arms={"bad": bad, **arms()})
    arguments = f"study {path} --out out --device cpu --jobs 2"
    first = subprocess.Popen(
        [sys.executable, "-m", "jpegcurr", *arguments.split(), "-q", "--only", "clean"], stderr=subprocess.PIPE
    )
    while not list(Path("out").glob("trunks/*/seed-0/state.safetensors")):  # the trunk is under way, or done
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate()
    assert first.returncode == 130, said.decode()
    assert b"Finished work is kept. To resume: jpegcurr study" in said
    assert not list(Path("out").glob("outcomes/*"))
    launcher = shlex.join(["sh", "-c", 'echo launched; exec "$@"', "sh"])
    assert command(f"{arguments} --launch {shlex.quote(launcher)}") == 1
    assert re.search(r"bad/seed-0: The (loss|weights' norm).* is (nan|inf)", capsys.readouterr().err)
    assert json.loads(Path("out/study.json").read_text())["finished"] == 2
    assert "launched" in Path("out/logs/swap/seed-0.log").read_text()
    run(write_study(betons, seeds=[0]), Path("serial"), cpu)
    for arm in ("clean", "swap"):
        assert weights(Path(f"out/runs/{arm}/seed-0")) == weights(Path(f"serial/runs/{arm}/seed-0"))


def test_the_plan_counts_shared_epochs_once(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons, seeds=[0, 1, 2])
    assert command("study small.yaml --plan --json --images-per-second 100 --seed-spread 0.5 --device cpu") == 0
    known = json.loads(capsys.readouterr().out)
    assert (known["runs"], known["epochs"], known["apart"]) == (6, 3 * (2 + 2 + 2), 3 * 8)
    assert known["images"] == 18 * 48  # 48 images, three steps of 16
    # after every epoch 16 images of two sets, at the end of each run those of the matrix, raw and averaged
    assert known["seen"] == 2 * (18 * 2 * 16 + 6 * 2 * 16)
    assert known["hours"]["1"] == pytest.approx((known["images"] + known["seen"] / 3) / 100 / 3600)
    assert not Path("studies").exists()
    assert command("study small.yaml --plan --device cpu") == 0
    told = capsys.readouterr().out
    assert "measured: test_convnext at 32 pixels, CPU, float32" in told
    assert "Picard, arXiv 2109.08203" in told
    assert "Detectable with 80 % power by 3 seeds: 0.46 points in one comparison" in told


def test_devices_wait_for_trunks(betons: Path) -> None:
    study = load_study(write_study(betons, seeds=[0]))
    tasks = list_tasks(study)
    works = [Work(task, 2, 10, 10.0, 0) for task in tasks]
    assert [makespan(works, devices) for devices in (1, 2, 8)] == [30, 20, 20]
    assert estimate_study(study, tasks, speed=1, speed_from="", spread=1, spread_from="").detectable is None


def test_only_some_arms(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons, seeds=[0])
    assert command("study small.yaml --out out --device cpu --only swap") == 0
    assert [path.parent.name for path in Path("out/runs").glob("*/seed-0")] == ["swap"]
    assert "Nothing can be compared yet: no arm and clean have finished the same seed." in capsys.readouterr().out
    assert command("study small.yaml --out out --device cpu --only swop") == 2
    assert "--only swop: no such arm. Did you mean 'swap'?" in capsys.readouterr().err


def test_each_process_has_a_gpu_of_its_own_or_a_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "visible_gpus", lambda: ["3", "GPU-5f"])
    named = [each["CUDA_VISIBLE_DEVICES"] for each in parallel.LocalLauncher(3, "cuda").environments()]
    assert named == ["3", "GPU-5f", "3"]
    monkeypatch.setattr(parallel, "available_cpus", lambda: 7)
    assert {each["OMP_NUM_THREADS"] for each in parallel.LocalLauncher(3, "cpu").environments()} == {"2"}
    with pytest.raises(UsageError, match="--device cuda:1 is one GPU"):
        parallel.LocalLauncher(2, "cuda:1").environments()


def test_what_starts_a_process_gives_it_its_device(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(write_study(betons))
    workers = parallel.LocalLauncher(2, "cuda:1", launch=("srun", "--gpus", "1"))
    assert workers.environments() == [{}, {}]
    assert workers.command(study, list_tasks(study)[0], Path("out"))[:4] == ["srun", "--gpus", "1", sys.executable]
    assert command("study small.yaml --device cpu --launch nowhere-to-be-found") == 2
    assert "--launch: nowhere-to-be-found cannot be started: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told", "where"),
    [
        ("two_phase", "clean to 100, q50 to 150; the rate restarts with each phase", [(100, "q50")]),
        ("restart_only", "clean to 100, clean to 150; the rate restarts with each phase", []),
        ("mixture", "66.7% clean + 33.3% q50 to 150; one cosine", []),
        ("resnet50_standard", "clean to 90; the rate falls in steps", []),
    ],
)
def test_an_arm_in_words(name: str, told: str, where: list[tuple[int, str]]) -> None:
    recipe = load_recipe(find_recipe(Path(f"{name}.yaml")))
    assert (describe_arm(recipe), swaps(recipe)) == (told, where)


def test_verdicts_claim_no_more_than_they_hold() -> None:
    random = np.random.default_rng(0)
    flags = {seed: random.random(3000) < 0.7 for seed in range(4)}
    other = {seed: random.random(3000) < 0.7 for seed in range(4)}
    better = {seed: random.random(3000) < 0.8 for seed in range(4)}
    compared = compare_arms({"c": flags, "same": other}, "c")
    head, same = conclude("c", compared, ("ema", "clean"), 8, 8)
    assert head == "No detectable difference between c and same in top-1 of the ema weights on clean after the last epoch."
    assert re.search(
        r"no detectable difference. With 80 % power \d\.\d\d points or more would have shown; at this spread 0.2 points would",
        same,
    )
    head, *_ = conclude("c", compare_arms({"c": flags, "better": better, "same": other}, "c"), ("raw", "q50"), 9, 12)
    assert head.startswith(
        "better is higher than c in top-1 of the raw weights on q50 after the last epoch, at 5 %, corrected for 2"
    )
    assert head.endswith("So far: 9 of 12 runs are finished.")
    one = compare_arms({"c": {0: flags[0]}, "better": {0: better[0]}}, "c")
    head, only = conclude("c", one, ("raw", "q50"), 2, 2)
    assert head.endswith("better has one seed, which cannot be told from luck: that is about these weights, not the recipe.")
    assert only.endswith("No interval over seeds.")
