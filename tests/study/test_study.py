"""A study from its file to its page: refusals, shared epochs, stops and results."""

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
from forked import PYTHON
from safetensors.torch import load_file
from samples import encode_all, image, tiny_recipe, tiny_tree
from studies import PHASES, arms, command, run, write_study

from jpegcurr.errors import Interrupted, RecipeError, Terminated, UsageError
from jpegcurr.files import locked
from jpegcurr.recipe.former import omit_former
from jpegcurr.recipe.loading import find_recipe, find_study, load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.study import parallel, worker
from jpegcurr.study import run as study_run
from jpegcurr.study.compare import compare_arms
from jpegcurr.study.config import Study, load_study
from jpegcurr.study.cost import Work, compute_makespan, estimate_study
from jpegcurr.study.folder import check_folder, validates_by, write_design
from jpegcurr.study.fork import _trunk_inputs, fork_run
from jpegcurr.study.measure import check_data, load_outcomes, save_outcomes
from jpegcurr.study.page import describe_arm, list_swaps
from jpegcurr.study.results import format_verdict, read_results
from jpegcurr.study.tasks import list_tasks, list_unfinished
from jpegcurr.system import stop_on_signals
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.run_folder import LOCK
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train

SHIPPED = sorted((Path(__file__).parent.parent.parent / "recipes/studies").glob("*.yaml"))


def weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the last weights, raw and averaged, of the best, and of the whole state."""
    files = ("model.safetensors", "ema/model.safetensors", "best/model.safetensors")
    tensors = {f"{file} {name}": tensor for file in files for name, tensor in load_file(folder / file).items()}
    tensors |= load_file(folder / "state.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def run_in(folder: Path, betons: Path, **changes: Any) -> Path:
    """Run the small study to its end in ``folder``; return the study's own folder, for tests to copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_study(betons, **changes)
        assert command("study small.yaml --out out --device cpu -q") == 0
    return folder / "out"


@pytest.fixture(scope="module")
def finished(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the arms of one seed from their trunk; tests must not change the folder."""
    return run_in(tmp_path_factory.mktemp("finished"), betons, seeds=[0])


@pytest.fixture(scope="module")
def whole(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the arms of one seed without a trunk; tests must not change the folder."""
    return run_in(tmp_path_factory.mktemp("whole"), betons, seeds=[0], fork=None)


@pytest.fixture(scope="module")
def unbroken(betons: Path, cpu: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run two arms of two seeds in this process; return the folder, which tests must not change, and the tasks in order."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        notes, failed = run(write_study(betons), Path("out"), cpu)
    assert failed == []
    return folder / "out", notes.started_tasks


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_study_is_valid_and_explained(path: Path, betons: Path) -> None:
    Path("betons").symlink_to(betons)
    assert find_study(Path(path.name)).read_text() == path.read_text()
    study = load_study(Path(path.name))
    assert path.read_text().startswith("# ")
    assert all(len(plan_epochs(recipe)) == recipe.epochs for recipe in study.recipes.values())


def test_the_study_of_the_readme_is_planned_as_written(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(parallel.__file__).parent / "README.md").read_text()
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "small_study.yaml" in block)
    Path("small_study.yaml").write_text(block.replace("set: {image", "set: {batch.size: 16, batch.per_device: 16, image"))
    Path("betons").symlink_to(betons)
    study = load_study(Path("small_study.yaml"))
    assert [trunk.arms for trunk in study.trunks] == [("clean", "swap")]
    assert {recipe.epochs for recipe in study.recipes.values()} == {16}
    (plan, _) = re.findall(r"^jpegcurr (study .*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert command(f"{plan} --images-per-second 100") == 0
    assert "144 without the fork at epoch 12" in capsys.readouterr().out
    modules = {path.name for path in Path(parallel.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert modules <= set(re.findall(r"`([a-z_]+\.py)`", readme))


def test_the_shipped_study_has_the_arms_of_a_controlled_experiment(betons: Path) -> None:
    """All arms have as many epochs and their shares of quality 50; there are three trunks, and one arm without."""
    Path("betons").symlink_to(betons)
    study = load_study(Path("two_phase_study.yaml"))
    plans = {arm: plan_epochs(recipe) for arm, recipe in study.recipes.items()}
    assert {len(epochs) for epochs in plans.values()} == {150}
    shares = {arm: sum(dict(plan.shares).get("q50", 0) for plan in epochs) for arm, epochs in plans.items()}
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
    assert all(recipe == others["clean_clean"] for recipe in others.values())
    tasks = list_tasks(study)
    assert sum(task.last - task.first for task in tasks) == 5 * (3 * 100 + 7 * 50 + 150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "cleen"}, r"control: no arm 'cleen'. Did you mean 'clean'\?"),
        ({"sedes": [0]}, r"line \d+: sedes: unknown key. Did you mean 'seeds'\?"),
        ({"seeds": [1, 1]}, "seeds: a seed is listed twice"),
        ({"primary": {"data": "q50", "weights": "raw"}}, r"line \d+: primary.data: no validation set 'q50'"),
        ({"primary": {"data": "clean", "weights": "best"}}, "primary.weights: is 'best' and should be 'raw' or 'ema'"),
        ({"evaluate": {"clean": "gone.beton"}}, r"line \d+: evaluate.clean: gone.beton does not exist"),
        ({"recipe": "gone.yaml"}, "gone.yaml does not exist"),
        (
            {"arms": arms(bad={"set": ["model.nam=x"]})},
            r"line \d+: arms.bad: base.yaml:\n  model.nam: unknown key. Did you mean",
        ),
        ({"arms": arms(bad={"sett": []})}, r"line \d+: arms.bad.sett: unknown key. Did you mean 'set'\?"),
        ({"arms": arms(bad={"set": ["seed=1"]})}, "arms.bad.set: it cannot set the seed"),
        (
            {"arms": arms(again={"set": {"curriculum": yaml.safe_load(PHASES.format("clean", "q50"))}})},
            "again: its recipe is the same as that of swap",
        ),
        ({"arms": arms(**{"../x": {}})}, "String should match pattern"),
        ({"arms": {"clean": {}}}, "arms: a study compares two arms at least, and has 1"),
        ({"fork": None, "arms": arms(alone={"fork": False})}, "fork: false has no effect in a study without fork"),
        (
            {"arms": arms(late={"set": ["curriculum=" + PHASES.format("q50", "q50")]})},
            r"line \d+: arms.late: it shares its first 2 epochs with no other arm: compared with clean, curriculum was clean, "
            r"is q50 in epoch 0\. .* fork: false",
        ),
        (
            {"arms": arms(fast={"set": ["schedule.lr=1e-2", "curriculum=" + PHASES.format("clean", "clean")]})},
            "compared with clean, schedule.lr was 0.002, is 0.01",
        ),
        (
            {"arms": arms(short={"set": ["curriculum=[{data: clean, until_epoch: 3}]"]})},
            "compared with clean, the cosine that schedule.horizon sets ended at epoch 4, ends at 3",
        ),
        (
            {"arms": arms(mild={"set": ["augment.erase=0.5", "curriculum=" + PHASES.format("clean", "clean")]})},
            "compared with clean, augment.erase was 0.0, is 0.5",
        ),
        (
            {"arms": arms(whole={"set": ["curriculum=[{data: clean, until_epoch: 4}]"]})},
            "other phases in epoch 1: let a phase of both arms end at the fork",
        ),
        ({"arms": arms(ends={"set": ["curriculum=[{data: clean, until_epoch: 2}]"]})}, "arms.ends: it ends at epoch 2"),
    ],
)
def test_errors_name_the_line_and_the_field(betons: Path, changes: dict[str, Any], message: str) -> None:
    path = write_study(betons, **changes)
    with pytest.raises(RecipeError, match=message):
        load_study(path)


def test_maps_and_lists_of_overrides_mean_the_same(betons: Path) -> None:
    """Inner maps are merged, lists replace; the changes for all arms come first."""
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


def test_an_arm_has_only_the_data_that_it_uses(betons: Path) -> None:
    """The base recipe may name the data of all arms; a set that none uses is an error, as in a recipe."""
    data = tiny_tree(betons)["data"]
    drawn = {"train": {"beton": str(betons / "train-source.beton"), "quality": [20, 95]}}
    trunk = load_study(write_study(betons)).trunks[0].name
    curricula = arms(drawn={"set": ["curriculum=" + PHASES.format("clean", "drawn")]})
    study = load_study(write_study(betons, base={"data": data | {"drawn": drawn}, "evaluate": []}, arms=curricula))
    assert [set(recipe.data) for recipe in study.recipes.values()] == [{"clean"}, {"clean", "q50"}, {"clean", "drawn"}]
    assert study.trunks[0].arms == ("clean", "swap", "drawn")
    assert study.trunks[0].name == trunk, "a study that has begun keeps its trunks"
    with pytest.raises(RecipeError, match=r"base\.yaml: data\.drawn is used in no arm: name it in a phase or in evaluate"):
        load_study(write_study(betons, base={"data": data | {"drawn": drawn}}))


def test_an_arm_that_forks_ends_in_the_weights_of_one_that_ran_whole(
    betons: Path, cpu: Runtime, unbroken: tuple[Path, list[str]]
) -> None:
    """State and metrics agree bit for bit; a trunk is trained once per seed for both arms."""
    out, started = unbroken
    (name,) = {task.partition("/")[0] for task in started if task.startswith("trunk-")}
    assert started == [
        f"{name}/seed-0", "clean/seed-0", "swap/seed-0", f"{name}/seed-1", "clean/seed-1", "swap/seed-1"
    ]  # fmt: skip
    study = load_study(write_study(betons))
    for arm, seed in (("clean", 0), ("swap", 1)):
        whole, forked = Path(f"whole-{arm}"), out / f"runs/{arm}/seed-{seed}"
        train(study.recipe(arm, seed), whole, runtime=cpu)
        assert weights(whole) == weights(forked)
        rows = [
            [
                {key: value for key, value in row.items() if key not in ("seconds", "data_wait", "images_per_second")}
                for row in metrics
            ]
            for metrics in (read_metrics(whole), read_metrics(forked))
        ]
        assert rows[0] == rows[1]
        assert (forked / "recipe.yaml").read_text() == (whole / "recipe.yaml").read_text()
    heads = [json.loads((out / f"runs/{arm}/seed-0/run.json").read_text())["id"] for arm in ("clean", "swap")]
    assert heads[0] != heads[1]
    assert weights(out / "runs/clean/seed-0") != weights(out / "runs/clean/seed-1")


def test_arms_in_one_process_keep_the_compiled_step(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task has a model of its own; the graph traced for the first serves all."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: real(model, backend="eager", dynamic=dynamic))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    notes, failed = run(write_study(betons, seeds=[0]), Path("out"), replace(cpu, compile=True))
    assert (len(notes.results), failed) == (3, [])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_study_that_is_stopped_resumes_to_the_same_results(
    betons: Path, cpu: Runtime, unbroken: tuple[Path, list[str]]
) -> None:
    """Stopped after every few steps, in trunks and in arms; finished tasks are not repeated."""
    path, calls = write_study(betons), [0]

    def soon() -> bool:
        calls[0] += 1
        return calls[0] % 11 == 0

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
    assert list_unfinished(load_study(path), list_tasks(load_study(path)), Path("out")) == []
    folder, _ = unbroken
    for arm in ("clean", "swap"):
        for seed in (0, 1):
            assert weights(Path(f"out/runs/{arm}/seed-{seed}")) == weights(folder / f"runs/{arm}/seed-{seed}")
    stopped, whole = (read_results(load_study(path), out) for out in (Path("out"), folder))
    assert [run.scores for run in stopped.runs] == [run.scores for run in whole.runs]
    assert stopped.verdict == whole.verdict


def send_signals(*numbers: signal.Signals, in_step: bool = True) -> list[bool]:
    """Send signals in a step or before the first; return whether a stop was requested before each of them."""
    requested = []
    with stop_on_signals(signal.SIGINT, signal.SIGTERM) as stop:
        if in_step:
            stop.defer()
        for number in numbers:
            requested.append(stop.requested())
            os.kill(os.getpid(), number)
        stop.check()
    return requested


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_step_under_way_is_saved(number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted) as left:
        send_signals(number)
    assert left.value.exit_code == code
    with pytest.raises(Interrupted):
        send_signals(number, signal.SIGTERM)  # from a scheduler to all its processes, and from their parent
    with pytest.raises(KeyboardInterrupt):
        send_signals(number, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send_signals(number, in_step=False)  # there is nothing to save
    assert send_signals() == []


def test_a_run_that_another_process_trains_is_left_alone(betons: Path, cpu: Runtime) -> None:
    path = write_study(betons, seeds=[0], fork=None)
    with locked(Path("out/runs/swap/.seed-0.lock"), Path("elsewhere")):
        _, failed = run(path, Path("out"), cpu)
    (reason,) = [result.reason for result in failed]
    assert reason.startswith(f"out/runs/swap/seed-0 is being trained by another process ({os.getpid()} on ")
    assert reason.endswith("or choose another place with --out.")
    notes, failed = run(path, Path("out"), cpu)
    assert (notes.started_tasks, failed) == (["swap/seed-0"], [])


def test_a_fork_does_not_replace_a_run_that_another_process_trains(betons: Path, trained: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path)
    with locked(Path("seed-0", LOCK), Path("x")), pytest.raises(UsageError, match="seed-0 is being trained by another process"):
        fork_run(trained, recipe, Path("seed-0"))
    assert not Path("seed-0").exists()
    fork_run(trained, recipe, Path("seed-0"))
    assert (Path("seed-0") / "state.safetensors").is_file()
    assert not Path("seed-0", LOCK).exists()


def test_an_arm_that_fails_does_not_stop_the_others(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "q50")], "fork": False}
    write_study(betons, seeds=[0], arms={"clean": arms()["clean"], "bad": bad, "swap": arms()["swap"]})
    assert command("study small.yaml --out out --device cpu") == 1
    err = capsys.readouterr().err
    assert re.search(r"bad/seed-0: The (loss|weights' norm).* is (nan|inf)", err)
    assert "1 run failed; the others are done. To try again, give the same command." in err
    assert "Traceback" in Path("out/logs/bad/seed-0.log").read_text()
    known = json.loads(Path("out/study.json").read_text())
    assert (known["finished"], known["planned"]) == (2, 3)
    assert [row["arm"] for row in known["against_control"] if row["primary"]] == ["swap"]
    assert "So far: 2 of 3 runs are finished." in known["verdict"][0]
    # the failed task alone is tried again
    before = {file: file.stat().st_mtime_ns for file in Path("out").rglob("model.safetensors")}
    assert command("study small.yaml --out out --device cpu") == 1
    assert before == {file: file.stat().st_mtime_ns for file in Path("out").rglob("model.safetensors")}


def test_a_trunk_that_fails_fails_its_arms_and_no_others(betons: Path, cpu: Runtime) -> None:
    hot = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "q50")]}
    colder = {"set": ["schedule.lr=1e30", "curriculum=" + PHASES.format("clean", "clean")]}
    path = write_study(betons, seeds=[0], arms=arms(hot=hot, colder=colder))
    notes, failed = run(path, Path("out"), cpu)
    assert [result.task.arm for result in failed] == [None, "hot", "colder"]
    assert all("its trunk, trunk-" in result.reason for result in failed[1:])
    assert [result.task.arm for result in notes.results if result.status == "done"] == [None, "clean", "swap"]


def test_the_command_writes_a_page_and_tables(
    betons: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jpegcurr.progress.FIRST", 0)  # seconds before the first line of progress
    write_study(betons)
    assert command("study small.yaml --device cpu") == 0
    out = Path("studies/small")
    printed = capsys.readouterr()
    assert re.search(r"^small: 0 of \d+ epochs$", printed.err, re.MULTILINE), printed.err
    known = json.loads((out / "study.json").read_text())
    assert known["verdict"][0] in printed.out
    assert str(out / "study.html") in printed.out
    page = (out / "study.html").read_text()
    for text in (known["verdict"][0], "swap to q50", "clean to 2, q50 to 4; one cosine", "shared first epochs", "after Holm"):
        assert text.replace("'", "&#39;") in page
    assert not re.search(r"(?:src|href)=\"?(?!data:|#)", page)  # offline
    assert page.count("<svg") == 1 + 2 * 3, "the differences; rates and two curves, each wide and narrow"
    swap = next(row for row in known["against_control"] if row["primary"])
    assert f"swap{' †' * swap['spread_floored']}: {swap['difference']:+.2f} (" in page, "a row of the chart of differences"
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2  # arms, seeds, weights, sets
    for row in rows:
        path = out / "outcomes" / row["arm"] / f"seed-{row['seed']}" / f"{row['weights']}-{row['data']}.npz"
        outcomes, facts = load_outcomes(path)
        assert float(row["top1"]) == 100 * outcomes.right.mean()
        assert facts["at_load"] == (None if row["data"] == "clean" else "quality 25, on the fly, before the crop")
    # the study and the training evaluate the same images, where both have the set
    last = read_metrics(out / "runs/swap/seed-1")[-1]
    (mine,) = [row for row in rows if (row["arm"], row["seed"], row["weights"], row["data"]) == ("swap", "1", "ema", "clean")]
    assert float(mine["top1"]) == pytest.approx(last["val/clean/ema_top1"])
    primary = [row for row in known["against_control"] if row["primary"]]
    tops = {(row["arm"], row["seed"]): float(row["top1"]) for row in rows if (row["weights"], row["data"]) == ("raw", "clean")}
    differences = [tops["swap", seed] - tops["clean", seed] for seed in ("0", "1")]
    assert primary[0]["difference"] == pytest.approx(np.mean(differences))
    assert [pair["difference"] for pair in primary[0]["pairs"]] == pytest.approx(differences)
    # a second call has nothing to do, and writes the same page
    assert command("study small.yaml --device cpu") == 0
    assert "0 to" not in capsys.readouterr().err
    assert (out / "study.html").read_text() == page


def test_more_seeds_arms_and_sets_only_add(betons: Path, finished: Path) -> None:
    path, out = write_study(betons, seeds=[0]), Path("out")
    shutil.copytree(finished, out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("state.safetensors")}
    assert json.loads((out / "study.json").read_text())["against_control"][0]["low"] is None  # one seed
    q50 = {"beton": str(betons / "val-source.beton"), "quality": 50}
    late = {"set": ["curriculum=[{data: clean, until_epoch: 2}, {data: q50, until_epoch: 3}, {data: clean, until_epoch: 4}]"]}
    sets = {**yaml.safe_load(path.read_text())["evaluate"], "q50": q50}
    path = write_study(betons, seeds=[0, 1], arms=arms(late=late), evaluate=sets)
    study = load_study(path)
    check_folder(study, out)
    # every arm is measured on the new set; the trunk of seed 0 serves the new arm
    unfinished = [task.name for task in list_unfinished(study, list_tasks(study), out)]
    assert len(unfinished) == 3 + 4
    assert command(f"study {path} --out out --device cpu -q") == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}
    results = read_results(study, out)
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
            r"arms.swap: it has runs in out that were trained with another recipe.*\n  curriculum.1.until_epoch was 4, is 5",
        ),
        ({"control": "swap"}, UsageError, "control was clean when this study began, and is swap"),
        ({"primary": {"data": "q25", "weights": "raw"}}, UsageError, "primary was clean, raw, top1 .* is q25, raw, top1"),
        (
            {"arms": {"clean": arms()["clean"], "other": arms()["swap"]}},
            UsageError,
            "arms.swap has results and is no longer in the study file",
        ),
        ({"seeds": [5]}, UsageError, "seeds: 0 has results and is no longer in the study file"),
    ],
)
def test_the_design_is_locked_once_there_are_results(
    betons: Path, finished: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    shutil.copytree(finished, "out")
    path = write_study(betons, **{"seeds": [0], **changes})
    with pytest.raises(error, match=message):
        check_folder(load_study(path), Path("out"))


def test_a_changed_arm_is_added_beside_the_one_that_has_runs_as_its_refusal_says(betons: Path, whole: Path) -> None:
    shutil.copytree(whole, "out")
    changed = {"set": ["curriculum=" + PHASES.format("clean", "q50"), "optim.weight_decay=0.1"]}
    with pytest.raises(RecipeError, match=r"Keep it as it was and add the changed arm under another name, or start"):
        check_folder(load_study(write_study(betons, seeds=[0], fork=None, arms=arms(swap=changed))), Path("out"))
    check_folder(load_study(write_study(betons, seeds=[0], fork=None, arms=arms(swap2=changed))), Path("out"))


def test_runs_that_were_measured_on_other_images_are_measured_again_as_the_message_says(
    betons: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(betons, seeds=[0], fork=None)
    shutil.copytree(whole, "out")
    for path in Path("out/outcomes/swap").rglob("*-clean.npz"):
        outcomes, facts = load_outcomes(path)
        save_outcomes(path, outcomes, {**facts, "keys": "other"})
    capsys.readouterr()
    assert command("study small.yaml --out out --device cpu -q") == 2
    (pattern,) = re.findall(r"delete (\S+), and the study measures all runs again", " ".join(capsys.readouterr().err.split()))
    for path in Path().glob(pattern):
        path.unlink()
    assert command("study small.yaml --out out --device cpu -q") == 0


def test_a_study_of_version_0_1_continues(betons: Path) -> None:
    """Its design names the stage of an on-the-fly JPEG ``where: stored`` or ``view``; these are the stages of today."""
    val = str(betons / "val-source.beton")

    def study(train_stage: str = "after_resize", val_stage: str = "after_resize") -> Study:
        train = f"data.q50.train={{beton: {betons / 'train-source.beton'}, quality: 50, stage: {train_stage}}}"
        swap = {"set": [train, "curriculum=" + PHASES.format("clean", "q50")]}
        q9 = {"beton": val, "quality": 9, "stage": val_stage}
        return load_study(write_study(betons, seeds=[0], evaluate={"clean": val, "q9": q9}, arms=arms(swap=swap)))

    out = Path("out")
    write_design(study(), out)
    design = (out / "study.json").read_text()
    old = design.replace('"stage": "before_crop"', '"where": "stored"').replace('"stage": "after_resize"', '"where": "view"')
    old = old.replace('"stage": null', '"where": null')
    assert old.count('"where": "view"') == 2
    assert "stage" not in old
    (out / "study.json").write_text(old)
    for arm in ("clean", "swap"):
        (out / f"runs/{arm}/seed-0").mkdir(parents=True)
        (out / f"outcomes/{arm}/seed-0").mkdir(parents=True)
        (out / f"outcomes/{arm}/seed-0/raw-clean.npz").touch()
    check_folder(study(), out)
    with pytest.raises(UsageError, match=r"evaluate.q9 was .*, 9, after_resize, and is .*, 9, before_crop"):
        check_folder(study(val_stage="before_crop"), out)
    with pytest.raises(RecipeError, match=r"data.q50.train.stage was after_resize, is before_crop"):
        check_folder(study(train_stage="before_crop"), out)
    write_design(study(), out)
    assert (out / "study.json").read_text() == design


def test_fields_that_do_not_change_what_a_run_learns_may_change(betons: Path, finished: Path) -> None:
    shutil.copytree(finished, "out")
    base = {"loader": {"kind": "plain", "workers": 1}, "save": {"last": 1}}
    check_folder(load_study(write_study(betons, seeds=[0], base=base)), Path("out"))


def test_data_is_encoded_and_compared_before_any_run(betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing quality is encoded once, whichever arm needs it first; other classes are refused."""
    mine = Path(shutil.copytree(betons, tmp_path / "mine"))
    for file in mine.glob("train-q50*"):
        file.unlink()
    write_study(mine, seeds=[0])
    check_data(load_study(Path("small.yaml")), ["clean", "swap"], Path("out"))
    assert (mine / "train-q50.beton").read_bytes() == (betons / "train-q50.beton").read_bytes()
    few = tmp_path / "few"
    encode_all(write_two_classes(tmp_path), few, ["source"])
    write_study(betons, seeds=[0], evaluate={"clean": str(few / "val-source.beton")})
    assert command("study small.yaml --device cpu") == 2
    assert "evaluate.clean: " in (err := capsys.readouterr().err)
    assert "classes that" in err
    assert not Path("studies/small/study.json").exists()


def write_two_classes(folder: Path) -> Path:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / "two" / split / label).mkdir(parents=True)
            (folder / "two" / split / label / "0.jpg").write_bytes(image(3))
    return folder / "two"


def test_a_folder_that_is_no_study_is_left_alone(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons)
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert command("study small.yaml --out out --device cpu") == 2
    assert "out exists and is not a study" in capsys.readouterr().err
    assert os.listdir("out") == ["mine.txt"]


def test_parallel_runs_end_in_the_weights_of_serial_ones(
    betons: Path, cpu: Runtime, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they are stopped half-way and resumed; a process that fails says why."""
    monkeypatch.setattr(sys, "executable", PYTHON)
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
    _, err = first.communicate()
    assert first.returncode == 130, err.decode()
    assert b"Finished work is kept. To resume: jpegcurr study" in err
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
    # 16 images of two sets after every epoch, and those of the matrix after each run; with raw and averaged weights
    assert known["seen"] == 2 * (18 * 2 * 16 + 6 * 2 * 16)
    assert known["hours"]["1"] == pytest.approx((known["images"] + known["seen"] / 3) / 100 / 3600)
    assert not Path("studies").exists()
    assert command("study small.yaml --plan --device cpu") == 0
    printed = capsys.readouterr().out
    assert "measured: test_convnext at 32 pixels, CPU, float32" in printed
    assert "Picard, arXiv 2109.08203" in printed
    assert "Detectable with 80 % power by 3 seeds: 0.46 points in one comparison" in printed


def test_a_plan_before_anything_is_encoded_is_that_of_the_files(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "study small.yaml --plan --images-per-second 100 --device cpu"
    write_study(betons, seeds=[0, 1])
    assert command(f"{arguments} --json") == 0
    known = json.loads(capsys.readouterr().out)
    write_study(Path("nowhere"), seeds=[0, 1])
    assert command(f"{arguments} --json") == 2
    assert "nowhere/train-source.beton does not exist" in capsys.readouterr().err
    assert command(f"{arguments} --images 48 --val-images 16 --json") == 0
    assert json.loads(capsys.readouterr().out) == known
    assert command(f"{arguments} --images 48") == 0
    assert "not counted: no validation set is encoded yet; give --val-images N" in capsys.readouterr().out
    assert command("study small.yaml --images 48") == 2
    assert "--images is for --plan" in capsys.readouterr().err


def test_devices_wait_for_trunks(betons: Path) -> None:
    study = load_study(write_study(betons, seeds=[0]))
    tasks = list_tasks(study)
    works = [Work(task, 2, 10, 10.0, 0) for task in tasks]
    assert [compute_makespan(works, devices) for devices in (1, 2, 8)] == [30, 20, 20]
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
    monkeypatch.setattr(parallel, "available_cpus", lambda: 7)
    environments = parallel.LocalLauncher(3, "cuda").environments()
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["3", "GPU-5f", "3"]
    environments += parallel.LocalLauncher(3, "cpu").environments()
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"2"}
    assert {environment["JPEGCURR_CPUS"] for environment in environments} == {"2"}, "or every task's loader takes all of them"
    with pytest.raises(UsageError, match="--device cuda:1 is one GPU"):
        parallel.LocalLauncher(2, "cuda:1").environments()


def test_a_launching_command_assigns_devices(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(write_study(betons))
    launcher = parallel.LocalLauncher(2, "cuda:1", launch=("srun", "--gpus", "1"))
    assert launcher.environments() == [{}, {}]
    task = list_tasks(study)[0]
    assert launcher.command(study, task, Path("out"))[:4] == ["srun", "--gpus", "1", sys.executable]
    for given, last in ((None, "auto"), (True, "--compile"), (False, "--no-compile")):
        assert parallel.LocalLauncher(2, compile=given).command(study, task, Path("out"))[-1] == last
    assert command("study small.yaml --device cpu --launch nowhere-to-be-found") == 2
    assert "--launch: nowhere-to-be-found cannot be started: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "description", "swap_epochs"),
    [
        ("two_phase", "clean to 100, q50 to 150; the learning rate restarts with each phase", [(100, "q50")]),
        ("restart_only", "clean to 100, clean to 150; the learning rate restarts with each phase", []),
        ("mixture", "66.7% clean + 33.3% q50 to 150; one cosine", []),
        ("resnet50_standard", "clean to 90; learning rate in steps", []),
    ],
)
def test_an_arm_in_words(name: str, description: str, swap_epochs: list[tuple[int, str]]) -> None:
    recipe = load_recipe(find_recipe(Path(f"{name}.yaml")))
    assert (describe_arm(recipe), list_swaps(recipe)) == (description, swap_epochs)


def test_verdicts_claim_no_more_than_the_tests_show() -> None:
    random = np.random.default_rng(0)
    flags = {seed: random.random(3000) < 0.7 for seed in range(4)}
    other = {seed: random.random(3000) < 0.7 for seed in range(4)}
    better = {seed: random.random(3000) < 0.8 for seed in range(4)}
    compared = compare_arms({"c": flags, "same": other}, "c")
    head, same = format_verdict("c", compared, ("ema", "clean"), 8, 8)
    assert head == "No detectable difference between c and same in top-1 of the ema weights on clean after the last epoch."
    assert re.search(
        r"no detectable difference. The study would have found \d\.\d\d points or more with 80 % power; at this spread, 0.2 ",
        same,
    )
    head, *_ = format_verdict("c", compare_arms({"c": flags, "better": better, "same": other}, "c"), ("raw", "q50"), 9, 12)
    assert head.startswith(
        "better is higher than c in top-1 of the raw weights on q50 after the last epoch, at 5 %, corrected for 2"
    )
    assert head.endswith("So far: 9 of 12 runs are finished.")
    assert "two seeds one image apart" not in same, "nothing was raised"
    one = compare_arms({"c": {0: flags[0]}, "better": {0: better[0]}}, "c")
    head, only = format_verdict("c", one, ("raw", "q50"), 2, 2)
    assert head.endswith(
        "better has one seed, which cannot be told from chance: this is about the trained weights, not about the recipe."
    )
    assert only.endswith("There is no interval over seeds.")


def test_a_study_from_before_val_resize_continues_by_the_box(
    betons: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arms, and new ones, are trained by the box, in the command's process and in others."""
    path, out = write_study(betons, seeds=[0]), Path("out")
    assert validates_by(out) is None
    write_design(load_study(path), out)
    design = (out / "study.json").read_text()
    (out / "study.json").write_text(re.sub(r',\s*"val_resize": "shorter_side"', "", design))
    assert ("val_resize" in design, "val_resize" in (out / "study.json").read_text()) == (True, False)
    (out / "runs/swap/seed-0").mkdir(parents=True)
    assert validates_by(out) == "box"
    trained: list[Study] = []

    def stop_instead(study: Study, *_others: object) -> None:
        trained.append(study)
        raise Terminated("stopped.")

    for module in (study_run, worker):
        monkeypatch.setattr(module, "run_all" if module is study_run else "run_task", stop_instead)
    swap = arms(more={"set": ["curriculum=" + PHASES.format("q50", "q50")], "fork": False})
    write_study(betons, seeds=[0, 1], arms=swap)
    assert command(f"study {path} --out out --device cpu -q") == Terminated.exit_code
    monkeypatch.setattr(sys, "argv", ["worker", str(path), "out", "more/seed-1", "--device", "cpu"])
    assert worker.main() == Terminated.exit_code
    for study in trained:
        assert [recipe.image.val_resize for recipe in study.recipes.values()] == ["box"] * 3
    assert len(trained) == 2
    assert validates_by(out) == "box"
    write_study(betons, seeds=[0], base={"image": {"size": 32, "val_resize": "shorter_side"}})
    capsys.readouterr()
    assert command(f"study {path} --out out --device cpu -q") == 2
    assert "image.val_resize was box, is shorter_side" in capsys.readouterr().err


def test_a_trunk_from_before_val_resize_keeps_its_name(betons: Path) -> None:
    """The name is a hash of what the trunk depends on, and then there was no such field."""
    path = write_study(betons)
    for way, named in (("box", False), ("shorter_side", True)):
        recipe = load_study(path, way).recipes["clean"]
        assert ("val_resize" in omit_former(_trunk_inputs(recipe, 2)["fixed"])["image"]) == named
