"""Folders of runs, studies and betons that a stranger made: every command ends in a sentence that names the file.

Nothing here may take long or much memory: that would be the bug. Each file is replaced by contents of any kind, and every
command that reads it is run in this process.
"""

import json
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import JSON, changed, each
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import encode_all, tiny_tree
from studies import PHASES, write_study

from jpegcurr.cli import main
from jpegcurr.encoding.resume import read_boot_id

DATA = "--data betons/val-source.beton --device cpu"
READ = (f"evaluate run {DATA}", "predict run photos/val/cat/00.jpg --device cpu")
# What a manifest has, and the plan of an unfinished encode has not.
RESULTS = {"images", "failures", "ignored", "copied", "scaled", "bytes_in", "bytes_out", "keys_sha256", "content_sha256"}
RESULTS |= {"index_sha256", "beton_bytes"}
RESUME = "train --recipe tiny.yaml --out run --resume --device cpu -q"
VERIFY = "inspect betons/val-q50.beton --verify"
INSPECT = "inspect betons/val-q50.beton"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a command that must fail with a message, and return that message."""

    def call(command: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        error = capsys.readouterr().err
        assert left.value.code in (1, 2), error
        assert "error: " in error
        return error

    return call


@pytest.fixture
def here(betons: Path, trained: Path, photos: Path) -> None:
    """Copy a run, betons and its recipe to the current folder."""
    shutil.copytree(trained, "run")
    shutil.copytree(betons, "betons")
    Path("photos").symlink_to(photos)
    Path("tiny.yaml").write_text(json.dumps(tiny_tree(betons)))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("content", each(JSON))
@pytest.mark.parametrize(
    ("file", "commands"),
    [
        ("run/config.json", READ),
        ("run/run.json", (*READ, RESUME)),
        ("run/metrics.jsonl", (RESUME,)),
        ("betons/val-q50.json", (INSPECT, "evaluate run --data betons/val-q50.beton --device cpu")),
        ("betons/val-q50.items.jsonl", (VERIFY,)),
    ],
    ids=["config", "run", "metrics", "manifest", "items"],
)
def test_a_file_of_anything_is_refused_by_name(file: str, commands: tuple[str, ...], content: bytes, fails: Any) -> None:
    if file.endswith("jsonl") and content == b"":
        pytest.skip("no rows are rows")
    Path(file).write_bytes(content)
    for command in commands:
        assert file in fails(command), command


def spoil(file: str, **fields: Any) -> None:
    Path(file).write_bytes(changed(Path(file).read_bytes(), **fields))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "fields",
    [
        {"label_names": [1, 2, 3, 4]},
        {"label_names": [["a"], "b", "c", "d"]},
        {"label_names": ["a"]},
        {"label_names": []},
        {"label_names": {"0": "a"}},
        {"num_classes": 10**9},
        {"num_classes": 5, "label_names": list("abcde")},
        {"architecture": "nothing"},
        {"architecture": "hf-hub:timm/resnet18.a1_in1k"},
        {"architecture": "resnet18"},
        {"architecture": "vit_giant_patch14_dinov2"},
        {"model_args": []},
        {"model_args": {"nonsense": 1}},
        {"model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_args": {"pretrained": True}},
        {"model_args": {"model_name": "resnet18"}},
        {"model_args": {"pretrained_cfg": {"a": 1}}},
        {"model_args": {"depths": [10**7] * 4}},
        {"model_args": {"depths": [4000] * 4}},
        {"model_args": {"dims": [10**6] * 4}},
        {"model_args": {"in_chans": 1}},
        {"model_args": {"patch_size": 0}},
        {"pretrained_cfg__mean": "grey"},
        {"pretrained_cfg__mean": [1e400, 0, 0]},
        {"pretrained_cfg__std": [0, 0, 0]},
        {"pretrained_cfg__std": [0.5]},
        {"pretrained_cfg__input_size": [3, 10**6, 10**6]},
        {"pretrained_cfg": None},
    ],
    ids=str,
)
def test_a_model_that_is_not_what_its_weights_are_is_refused(fields: dict[str, Any], fails: Any) -> None:
    spoil("run/config.json", **fields)
    for command in READ:
        assert "run" in fails(command)


@pytest.mark.usefixtures("here")
def test_fields_of_other_programs_and_versions_are_ignored(run_ends: Any) -> None:
    spoil("run/config.json", nonsense={"a": [1]}, label_descriptions=None, pretrained_cfg__tomorrow=[1])
    spoil("run/run.json", tomorrow={"a": 1}, data__tomorrow={"path": "x", "images": 1, "quality": None, "keys_sha256": None})
    for command in (*READ, RESUME):
        run_ends(command)
    assert json.loads(Path("run/run.json").read_text())["schema_version"] == 1


@pytest.fixture
def run_ends(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Run a command that must succeed."""

    def call(command: str) -> None:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        assert left.value.code == 0, capsys.readouterr().err
        for file in Path().glob("*.csv"):
            file.unlink()

    return call


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "fields",
    [
        {"loader": None},
        {"id": [1]},
        {"data": []},
        {"data__train/clean": []},
        {"data__train/clean__images": "many"},
        {"data__train/clean__at_load": [1]},
        {"runtime": {}},
        {"class_names": [1, 2]},
    ],
    ids=str,
)
def test_a_run_that_is_described_in_other_types_is_refused(fields: dict[str, Any], fails: Any) -> None:
    spoil("run/run.json", **fields)
    for command in (*READ, RESUME):
        assert "run/run.json cannot be read as a run's description" in fails(command)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "row",
    [
        {"status": "gone"},
        {"label": -1},
        {"label": "cat"},
        {"width": 70_000},
        {"bytes": 10**30},
        {"crc32": -1},
        {"key": 3},
        {"source_bytes": [1]},
        {"width": True},
    ],
    ids=str,
)
def test_a_row_of_items_that_is_none_is_named_by_its_line(row: dict[str, Any], fails: Any) -> None:
    items = Path("betons/val-q50.items.jsonl")
    lines = items.read_bytes().splitlines(keepends=True)
    items.write_bytes(b"".join([*lines[:2], changed(lines[2], **row) + b"\n", *lines[3:]]))
    assert "val-q50.items.jsonl cannot be read (line 3: " in fails(VERIFY)


@pytest.fixture(scope="module")
def encoded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode the photographs, as ``photos``, at quality 50 only."""
    folder = tmp_path_factory.mktemp("encoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("photos").symlink_to(photos)
        encode_all("photos", Path("betons"), [50])
    return folder / "betons"


@pytest.mark.parametrize("content", each(JSON))
@pytest.mark.parametrize("file", [".val-q50.plan", ".val-q50.items.jsonl.partial"])
def test_an_interrupted_encode_of_anything_is_refused(
    content: bytes, file: str, photos: Path, encoded: Path, capsys: Any
) -> None:
    Path("photos").symlink_to(photos)
    shutil.copytree(encoded, "betons")
    partial = Path("betons/.val-q50.beton.partial")
    Path("betons/val-q50.beton").replace(partial)
    Path("betons/val-q50.items.jsonl").replace("betons/.val-q50.items.jsonl.partial")
    manifest = json.loads(Path("betons/val-q50.json").read_text())
    Path("betons/val-q50.json").unlink()
    plan = {name: value for name, value in manifest.items() if name not in RESULTS}
    Path("betons/.val-q50.plan").write_text(json.dumps({"boot": read_boot_id(), "plan": plan}))
    if content == b"" and file.endswith("partial"):
        pytest.skip("no rows are rows")
    Path("betons", file).write_bytes(content + b"\n")
    with pytest.raises(SystemExit) as left:
        main(["encode", "photos", "--quality", "50", "-o", "betons", "--resume", "-q"])
    if left.value.code:
        assert left.value.code == 2
        assert file in capsys.readouterr().err
        main_ends(["encode", "photos", "--quality", "50", "-o", "betons", "--force", "-q"])
    assert Path("betons/val-q50.beton").is_file()


def main_ends(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0


@pytest.fixture(scope="module")
def study(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small study to its end, in ``out`` of a folder."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_study(betons, seeds=[0], fork=None, arms=arms())
        with pytest.raises(SystemExit) as left:
            main(shlex.split("study small.yaml --out out --device cpu"))
    assert left.value.code == 0
    return folder


def arms() -> dict[str, Any]:
    short = PHASES.replace("until_epoch: 2", "until_epoch: 1").replace("until_epoch: 4", "until_epoch: 2")
    common = "schedule.warmup_epochs=0"
    return {
        "clean": {"set": ["curriculum=" + short.format("clean", "clean"), common]},
        "swap": {"set": ["curriculum=" + short.format("clean", "q50"), common]},
    }


def test_a_study_that_is_done_prints_its_results_as_json(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        main_ends(shlex.split("study small --out out --device cpu --json --quiet"))
        output = capsys.readouterr()
        assert json.loads(output.out) == json.loads(Path("out/study.json").read_text())
        assert output.err == ""


def npz(path: Path, **columns: Any) -> None:
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    np.savez_compressed(path, **{**kept, **columns})


@pytest.mark.parametrize("content", each(JSON))
@pytest.mark.parametrize("file", ["study.json", "runs/clean/seed-0/metrics.jsonl", "outcomes/clean/seed-0/raw-clean.npz"])
def test_a_file_of_anything_in_a_study_is_refused_by_name(content: bytes, file: str, study: Path, fails: Any) -> None:
    if file.endswith("jsonl") and content == b"":
        pytest.skip("no rows are rows")
    shutil.copytree(study, "study")
    Path("study/out", file).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("study")
        assert f"out/{file}" in fails("study small.yaml --out out --device cpu")


@pytest.mark.parametrize(
    "spoil_it",
    [
        lambda path: npz(path, facts=np.array(json.dumps({"keys": 1}))),
        lambda path: npz(path, facts=np.array("[" * 100_000)),
        lambda path: npz(path, facts=np.array([{"a": 1}], object)),
        lambda path: npz(path, labels=np.zeros(3, np.int32)),
        lambda path: npz(path, loss=np.array(["a"])),
        lambda path: npz(path, confidence=np.zeros((16, 2), np.float32)),
        lambda path: bomb(path),
    ],
    ids=["facts of other types", "deep facts", "a pickle", "fewer rows", "texts", "two columns", "a bomb"],
)
def test_outcomes_of_another_shape_are_refused_by_name(spoil_it: Callable[[Path], None], study: Path, fails: Any) -> None:
    shutil.copytree(study, "study")
    path = "out/outcomes/clean/seed-0/raw-clean.npz"
    spoil_it(Path("study") / path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("study")
        assert f"{path} cannot be read" in fails("study small.yaml --out out --device cpu")


def bomb(path: Path) -> None:
    """Write an archive of a small file that unpacks to half a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.npy", "w", force_zip64=True) as file:
        for _ in range(33):
            file.write(bytes(1 << 24))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "header",
    ["[]", "[" * 100_000, "{}", '{"schema_version": 3}', '{"schema_version": 3, "epoch": ' + "9" * 6000 + "}", None],
    ids=["a list", "deep", "empty", "only a version", "6000 digits", "none"],
)
def test_a_checkpoint_with_another_header_is_refused_by_name(header: str | None, fails: Any) -> None:
    state = Path("run/state.safetensors")
    save_file(load_file(state), state, {"jpegcurr": header} if header else None)
    assert "run/state.safetensors cannot be resumed from" in fails(RESUME)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["optimizer.0.exp_avg", "optimizer.first.exp_avg", "optimizer.99999.exp_avg", "position.loss"])
def test_a_checkpoint_with_other_tensors_is_refused_by_name(name: str, fails: Any) -> None:
    state = Path("run/state.safetensors")
    with safe_open(state, "pt") as file:
        header = file.metadata()
    save_file(load_file(state) | {name: torch.zeros(2, 3)}, state, header)
    assert "run/state.safetensors cannot be resumed from" in fails(RESUME)
