"""Pushing a run to the Hugging Face hub: the folder that is sent, its card, and what is refused; nothing leaves the machine."""

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from jpegcurr.analysis.hub.folder import FILES
from jpegcurr.analysis.stats import accuracy_interval
from jpegcurr.cli import main
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import load_run
from jpegcurr.training.tracking import read_metrics

PRIVATE = "private-folder-of-ada"


@pytest.fixture
def run(trained: Path) -> Path:
    """Copy the run to where the command finds it; its recipe and its description name folders of the machine."""
    shutil.copytree(trained, "run")
    recipe = Path("run/recipe.yaml")
    head = json.loads(Path("run/run.json").read_text())
    for facts in head["data"].values():
        private = f"/home/{PRIVATE}/data/{Path(facts['path']).name}"
        recipe.write_text(recipe.read_text().replace(facts["path"], private))
        facts["path"] = private
    head["command"] = ["jpegcurr", "train", "--out", f"/home/{PRIVATE}/run"]
    Path("run/run.json").write_text(json.dumps(head))
    return Path("run")


def push(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["push", *shlex.split(words)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out + captured.err


def test_a_dry_run_writes_a_folder_that_timm_and_transformers_load(run: Path, cpu: Runtime, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    code, printed = push("run ada/net --dry-run --license mit --dataset ada/photographs", capsys)
    assert code == 0, printed
    folder = Path("hub/net")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    for name in FILES:
        assert f"hub/net/{name}" in printed
        assert PRIVATE.encode() not in (folder / name).read_bytes()
    ours = load_run(run, cpu)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = ours.model(images)
        torch.testing.assert_close(timm.create_model("local-dir:hub/net", pretrained=True).eval()(images), expected)
        theirs = transformers.AutoModelForImageClassification.from_pretrained("hub/net").eval()
        torch.testing.assert_close(theirs(images).logits, expected)
    assert tuple(theirs.config.id2label.values()) == ours.classes
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.data["clean"].train == Path("train-source.beton")
    assert recipe.model_copy(update={"data": ours.recipe.data}) == ours.recipe


def test_the_card_states_what_the_run_recorded(run: Path, capsys) -> None:
    assert push("run ada/my_net --dry-run -o card --license mit --dataset ada/photographs", capsys)[0] == 0
    _, front, text = Path("card/README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert (matter["library_name"], matter["license"], matter["datasets"]) == ("timm", "mit", ["ada/photographs"])
    assert {"image-classification", "transformers"} <= set(matter["tags"])
    row, head = read_metrics(run)[-1], json.loads((run / "run.json").read_text())
    for name, quality in (("clean", "source"), ("q50", "50")):
        top1, images = float(row[f"val/{name}/top1"]), head["data"][f"val/{name}"]["images"]
        low, high = accuracy_interval(round(top1 * images / 100), images)
        assert f"| {name} | {quality} | {images} | {top1:.2f} | {low:.2f} to {high:.2f} | " in text
        facts = head["data"][f"train/{name}"]
        assert f"| train | {name} | {quality} | {facts['images']} | {facts['keys_sha256'][:12]} | " in text
    assert "`test_convnext`, trained" in text
    assert "| 0 to 1 | clean | 32 |" in text
    assert "| 2 to 3 | q50 | 32 |" in text
    assert f"torch {head['versions']['torch']}," in text
    assert f"jpegcurr's commit: {head['commit'] or 'not recorded'}" in text
    assert "after epoch 3 " in text
    assert '"hf-hub:ada/my_net"' in text
    assert "\n\n\n" not in text


def test_the_averages_and_the_best_weights_state_their_own_accuracy(run: Path, capsys) -> None:
    assert push("run ada/net --dry-run -o ema --weights ema", capsys)[0] == 0
    assert f"| {float(read_metrics(run)[-1]['val/q50/ema_top1']):.2f} | " in Path("ema/README.md").read_text()
    assert Path("ema/model.safetensors").read_bytes() == Path("run/ema/model.safetensors").read_bytes()
    best = json.loads(Path("run/best/best.json").read_text())
    assert push("run ada/net --dry-run -o best --weights best", capsys)[0] == 0
    card = Path("best/README.md").read_text()
    assert f"after epoch {best['epoch']} " in card
    assert "chosen and optimistic" in card
    assert "Its licence was not stated." in card


def test_names_of_data_are_text_in_the_card(run: Path, capsys) -> None:
    head = json.loads(Path("run/run.json").read_text())
    head["data"]["val/<b>|x"] = head["data"].pop("val/q50")
    Path("run/run.json").write_text(json.dumps(head | {"runtime": "CPU [x](http://x)\n# Title"}))
    assert push("run ada/net --dry-run", capsys)[0] == 0
    card = Path("hub/net/README.md").read_text()
    assert r"\<b\>\|x" in card
    assert r"\[x\](http://x)" in card
    assert "\n# Title" not in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run ada", "ada is not a repository of the hub. Give user/name"),
        ("run ada/../net", "is not a repository of the hub"),
        ("run ada/net -o folder", "-o folder is of --dry-run"),
        ("run ada/net", "push needs a token of the Hugging Face hub with write access: hf auth login, or set HF_TOKEN."),
        ("run ada/net --dry-run -o full", "full holds more than a model for the hub: notes.txt"),
        ("nothing ada/net --dry-run", "nothing does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: str, message: str, run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    code, printed = push(words, capsys)
    assert code == 2
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed


def test_an_existing_folder_is_replaced_only_by_force(run: Path, capsys) -> None:
    assert push("run ada/net --dry-run", capsys)[0] == 0
    code, printed = push("run ada/net --dry-run", capsys)
    assert (code, "hub/net exists" in printed) == (2, True)
    assert push("run ada/net --dry-run --force --license mit", capsys)[0] == 0
    assert "license: mit" in Path("hub/net/README.md").read_text()
    assert os.listdir("hub") == ["net"]


def test_an_unfinished_run_and_weights_that_are_not_finite_are_refused(run: Path, capsys) -> None:
    rows = Path("run/metrics.jsonl").read_text().splitlines(keepends=True)
    Path("run/metrics.jsonl").write_text("".join(rows[:3]))
    code, printed = push("run ada/net --dry-run", capsys)
    assert (code, "run is unfinished: 3 of 4 epochs are trained" in printed) == (2, True)
    assert push("run ada/net --dry-run --allow-unfinished", capsys)[0] == 0
    assert "**Unfinished: 3 of 4 epochs are trained.**" in Path("hub/net/README.md").read_text()
    weights = load_file("run/model.safetensors")
    next(iter(weights.values()))[0] = torch.nan
    save_file(weights, "run/model.safetensors", {"format": "pt"})
    code, printed = push("run ada/net --dry-run --allow-unfinished -o other", capsys)
    assert (code, "infinite or not a number" in printed) == (2, True)
    assert not Path("other").exists()


def test_networks_from_a_folder_lose_it_and_those_of_ones_own_are_refused(run: Path, capsys) -> None:
    recipe = Path("run/recipe.yaml")
    recipe.write_text(recipe.read_text().replace("name: test_convnext", f"name: local-dir:/srv/{PRIVATE}/net"))
    assert push("run ada/net --dry-run", capsys)[0] == 0
    assert "`local-dir:net`, trained" in Path("hub/net/README.md").read_text()
    assert "name: local-dir:net" in Path("hub/net/recipe.yaml").read_text()
    recipe.write_text(recipe.read_text().replace(f"local-dir:/srv/{PRIVATE}/net", "nets:build"))
    code, printed = push("run ada/other --dry-run", capsys)
    assert (code, "run is of a network of your own, nets:build, which timm" in " ".join(printed.split())) == (2, True)


def test_a_path_of_a_machine_is_not_sent(run: Path, capsys) -> None:
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, "note": f"/home/{PRIVATE}/weights.pth"}))
    code, printed = push("run ada/net --dry-run", capsys)
    assert (code, f"config.json would tell the hub of /home/{PRIVATE}" in " ".join(printed.split())) == (2, True)
    assert not Path("hub/net").exists()


class FakeHub:
    """The calls of ``HfApi`` that push makes, recorded."""

    def __init__(self, *, exists: bool = False, private: bool = False, fails: bool = False) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.sent: set[str] = set()
        self._exists, self._private, self._fails = exists, private, fails

    def repo_exists(self, _name: str) -> bool:
        return self._exists

    def model_info(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(private=self._private)

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append((f"create {name}", options))

    def create_branch(self, name: str, **options: Any) -> None:
        self.calls.append((f"branch of {name}", options))

    def upload_folder(self, **options: Any) -> SimpleNamespace:
        if self._fails:
            raise OSError("the hub is\nnot there")
        self.sent = {path.name for path in Path(options.pop("folder_path")).iterdir()}
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.mark.parametrize(
    ("words", "hub", "code", "message"),
    [
        ("--private --revision trial", FakeHub(), 0, "https://hub/commit/1"),
        ("", FakeHub(exists=True), 2, "ada/net exists at the hub. Choose another name, or replace its files with --force."),
        ("--force", FakeHub(exists=True), 0, "https://hub/commit/1"),
        ("--force --private", FakeHub(exists=True), 2, "--private: ada/net exists and is public"),
        ("", FakeHub(fails=True), 1, "ada/net could not be pushed: the hub is not there. Check"),
    ],
)
def test_a_push_creates_the_repository_and_sends_the_files(
    words: str, hub: FakeHub, code: int, message: str, run: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: hub)
    left, printed = push(f"run ada/net {words}", capsys)
    assert (left, message in printed) == (code, True), printed
    if code == 0:
        assert hub.sent == set(FILES)
        branch = "trial" if "trial" in words else None
        created = {"repo_type": "model", "private": "--private" in words, "exist_ok": "--force" in words}
        assert hub.calls[0] == ("create ada/net", created)
        assert [name for name, _ in hub.calls] == ["create ada/net", *(["branch of ada/net"] if branch else []), "upload"]
        assert (hub.calls[-1][1]["repo_id"], hub.calls[-1][1]["revision"]) == ("ada/net", branch)
    else:
        assert not hub.sent
    assert not Path("hub").exists()
