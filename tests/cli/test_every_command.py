"""What all commands have in common: help, --json, --quiet, --qualities, completion; and the commands that explain."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import features
from samples import SMALL

import jpegcurr
from jpegcurr.cli import main
from jpegcurr.cli.app import app
from jpegcurr.cli.options import parse_specs
from jpegcurr.recipe.loading import dump_recipe, find_recipe, load_recipe

GROUP = typer.main.get_command(app)
# Commands that have no progress to be quiet about.
AT_ONCE = {"board", "export", "models", "push", "recipe", "runs"}
Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def call(command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        output = capsys.readouterr()
        return int(left.value.code or 0), output.out, output.err

    return call


def option(command: str, name: str) -> Any:
    return next((parameter for parameter in GROUP.commands[command].params if name in parameter.opts), None)


@pytest.mark.parametrize("command", GROUP.commands)
def test_json_and_quiet_mean_one_thing_everywhere(command: str) -> None:
    json_option, quiet = option(command, "--json"), option(command, "--quiet")
    assert json_option is not None, "give the command cli.options.JsonOption"
    assert json_option.help == option("inspect", "--json").help
    assert (quiet is None) == (command in AT_ONCE), "give the command cli.options.QuietOption if it shows progress"
    assert quiet is None or (quiet.help, quiet.opts) == (option("inspect", "--quiet").help, ["--quiet", "-q"])


@pytest.mark.parametrize("name", ["--qualities", "--max-pixels", "--force", "--device"])
def test_an_option_of_several_commands_has_one_spelling_and_one_help(name: str) -> None:
    options = [found for command in GROUP.commands if (found := option(command, name))]
    assert len(options) > 2
    helps = {found.help.partition("; with --resume")[0].rstrip(".") for found in options}  # what encode adds to --force
    assert len({tuple(found.opts) for found in options}) == len(helps) == 1
    assert all((option(command, "--quality") is None) == (option(command, "--qualities") is None) for command in GROUP.commands)


def test_qualities_are_parsed_alike_however_they_are_given() -> None:
    for given in (["source", "90", "50"], ["source,90,50"], ["source", "90, 50"], ["source,90", "50,90"]):
        assert [spec.name for spec in parse_specs(given)] == ["source", "q90", "q50"]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["", *GROUP.commands])
def test_help_fits_the_terminal(command: str, columns: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run(f"{command} --help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns - 1
    assert not re.search(r"\{[A-Z]|<(path|str|int|float)>|<=x|x>=", out), "names as a reader writes them, limits in words"
    assert "hf-\n" not in out, "lines do not break at hyphens"
    if command:
        assert "......" not in out
    else:
        listed = dict(re.findall(r"^  (\w+) +(\S.*)$", out.partition("Commands:")[2], re.MULTILINE))
        assert listed == {name: one.short_help for name, one in GROUP.commands.items()}, "a summary is cut off or wrapped"


@pytest.fixture
def here(betons: Path, trained: Path, photos: Path) -> None:
    Path("betons").symlink_to(betons)
    shutil.copytree(trained, "run")
    shutil.copytree(photos / "val", "images")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("encode images --quality 50 -q -o out", "path images"),
        ("encode images --quality 50 -q --dry-run", "splits free_bytes"),
        ("audit images -q --sample 8 --permutations 99", "images splits classes predictions"),
        ("inspect betons/val-q50.beton --verify -q", "samples wrong qualities_of_tables"),
        (f"train --recipe two_phase --plan -q {SMALL}", "epoch lr_first"),
        ("cam run images -q --device cpu --qualities source --quality 10", "report summary comparisons skipped"),
        ("channels run -q --device cpu --qualities source,50", "run"),
        ("recipe schedule", "place default values meaning"),
        ("recipe --list", "small_data"),
        ("recipe --show small_data --resolved", "model ema"),
        ("--versions", "torch pillow"),
    ],
)
def test_json_is_one_document_and_quiet_is_silent(command: str, keys: str, run: Run) -> None:
    code, out, err = run(f"{command} --json")
    assert (code, err) == (0, ""), err
    document = json.loads(out)
    first = document[0] if isinstance(document, list) else document
    assert set(keys.split()) <= set(first), sorted(first)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("encode images --quality 50 -o out", ["encoding images: 16 images in"]),
        ("convert betons/val-q50.beton --to folder -o out", ["converting val-q50.beton: 16 images in"]),
        (
            "inspect betons/val-q50.beton --verify",
            [r"verifying val-q50.beton: \d+ of 16 images", "verifying val-q50.beton: 16"],
        ),
        (
            "evaluate run --device cpu --data images --qualities 50",
            ["evaluating run on images at 50: 8 of 16 images", "evaluating: 16 images in"],
        ),
        ("predict run images --device cpu", [r"classifying by run: \d+ of 16 images", "classifying by run: 16 images in"]),
        ("cam run images --device cpu --pictures 3", ["comparing maps of run: 16 images in"]),
        ("channels run --device cpu --qualities source,50", ["comparing channels: 32 images in"]),
    ],
)
def test_progress_is_on_stderr_in_words_and_numbers(
    command: str, lines: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jpegcurr.progress.FIRST", 0)  # seconds before the first line
    code, out, err = run(f"{command} --json")
    assert code == 0, err
    json.loads(out)
    for line in lines:
        assert re.search(f"^{line}", err, re.MULTILINE), err
    shown = [line for line in err.splitlines() if " images" in line and ": " in line]
    assert len(set(shown)) == len(shown)


@pytest.mark.usefixtures("here")
def test_predict_prints_every_file_as_json(run: Run) -> None:
    (Path("images/cat") / "bad.jpg").write_text("text")
    document = json.loads(run("predict run images --device cpu --json --quiet")[1])
    files = sorted(str(path) for path in Path("images").rglob("*.jpg"))
    assert [prediction["file"] for prediction in document["predictions"]] == files
    assert (document["unread"], document["files"]) == (1, len(files))
    assert sum(prediction["error"] is not None for prediction in document["predictions"]) == 1


def test_train_sends_metrics_to_the_trackers_of_the_command_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def train(recipe: Any, folder: Path, **_: Any) -> Any:
        asked.append((recipe.tracking, folder))
        raise KeyboardInterrupt

    monkeypatch.setattr("jpegcurr.training.train.train", train)
    code, _, err = run("train --recipe small_data --track tensorboard --track wandb --device cpu")
    assert asked == [(("tensorboard", "wandb"), Path("runs/small_data"))]
    assert (code, "--track tensorboard --track wandb" in err) == (130, True), "the command that resumes says so too"
    assert "Did you mean 'wandb'?" in run("train --recipe small_data --track wandbb")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 3", "--epochs: the number of epochs is curriculum.N.until_epoch of the last phase. Change it with --set"),
        ("--batch-size 3", "--batch-size: the images of an optimiser step are batch.size"),
        ("--amp", "--amp: the precision is an option, --precision.\n"),
        ("--xyzzy", "No such option: --xyzzy\n"),
    ],
)
def test_an_unknown_option_of_train_is_told_its_place(options: str, message: str, run: Run) -> None:
    code, _, err = run(f"train --recipe demo {options}")
    assert (code, message in err) == (2, True), err


def test_recipe_lists_fields_and_prints_recipes(run: Run) -> None:
    code, out, _ = run("recipe")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\n  schedule.lr = 0.004\n      number above 0\n      peak learning rate." in out
    assert "\n  model.name (required)\n" in out
    shipped = find_recipe(Path("mixture"))
    assert run("recipe --show mixture")[1] == shipped.read_text()
    assert run("recipe --show mixture --resolved")[1] == dump_recipe(load_recipe(shipped))
    assert "schedule.lr" not in run("recipe optim")[1]
    assert "mixture " in run("recipe --list")[1]
    for wrong in ("recipe --resolved", "recipe optim --list", "recipe --show nothing", "recipe nothing", "--json"):
        code, out, err = run(wrong)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")


def test_versions_name_the_libraries_and_their_libjpeg(run: Run) -> None:
    assert run("--version")[1] == f"jpegcurr {jpegcurr.__version__}\n"
    lines = dict(re.split(r"  +", line) for line in run("--versions")[1].splitlines())
    assert lines == json.loads(run("--versions --json")[1])
    assert lines["libjpeg-turbo of pillow"] == features.version("libjpeg_turbo")
    assert re.fullmatch(r"\d+\.\d+\.\d+", lines["libjpeg-turbo of simplejpeg"])
    assert {"Python", "platform", "torch", "timm", "numpy", "pillow", "simplejpeg", "ffcv"} <= set(lines)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("jpegcurr train --recipe small", ["small_data"]),
        ("jpegcurr train --recipe m", ["mixture", "mine/", "mine.yaml"]),
        ("jpegcurr train --set schedule.warm", ["schedule.warmup_epochs="]),
        ("jpegcurr train --track w", ["wandb"]),
        ("jpegcurr recipe --show two_phase_", ["two_phase_original", "two_phase_whole"]),
        ("jpegcurr recipe optim.w", ["optim.weight_decay"]),
        ("jpegcurr study two", ["two_phase_study"]),
        ("jpegcurr predict mi", ["mine/", "mine.yaml", "mixer_b16_224", "mixer_b32_224"]),
    ],
)
def test_the_shell_completes_names(
    words: str, completions: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine.yaml").touch()
    monkeypatch.setenv("_JPEGCURR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    printed = capsys.readouterr().out.split()
    assert printed[: len(completions)] == completions
    assert len(printed) == len(completions) or words.startswith("jpegcurr predict")
