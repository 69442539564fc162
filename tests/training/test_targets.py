"""Targets other than classes: distributions by class and by image, merged classes, losses, and how such runs are judged."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from samples import image, tiny_recipe, tiny_tree
from studies import write_study

from jpegcurr.analysis.evaluation.evaluate import evaluate, evaluate_run
from jpegcurr.analysis.evaluation.merge import Merge
from jpegcurr.cli import main
from jpegcurr.encoding.beton.manifest import items_path, read_manifest
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import BetonError, RecipeError, SourceError, Terminated, UsageError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe, TargetsSection
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.measure import check_data
from jpegcurr.training.augment.augment import Augment
from jpegcurr.training.data.classes import Classes, match_targets
from jpegcurr.training.data.datasets import open_datasets, open_weights
from jpegcurr.training.data.loaders import open_loader, open_loaders
from jpegcurr.training.data.sampling import EpochSampler
from jpegcurr.training.data.targets import Targets
from jpegcurr.training.loss import LOSSES, image_losses, smoothed, soft_targets
from jpegcurr.training.models.load import load_run
from jpegcurr.training.schedule import plan_run
from jpegcurr.training.train import train

AMBIGUOUS = ("amb_neg", "amb_pos", "negative", "positive")
SOFT = (
    "{astronaut: {person: 0.9, thing: 0.1}, cat: {thing: 0.3, animal: 0.7}, coffee: thing, grass: {thing: 0.95, animal: 0.05}}"
)
SOFT_SET = ("targets.outputs=[thing, person, animal]", f"targets.map={SOFT}")
MERGED = "{astronaut: person, cat: animal, coffee: thing, grass: LAST}"
TRUTHS = {"astronaut": "person", "cat": "animal", "coffee": "thing", "grass": "thing"}


def model(outputs: tuple[str, ...], rows: dict[str, Any], *, per_image: bool = False) -> Classes:
    section = TargetsSection(outputs=outputs, map=rows, per_image=per_image)
    return Classes(outputs, known=True, owner="run", targets=Targets.of(section, outputs))


@pytest.mark.parametrize(("loss", "value"), [("bce", 0.670095), ("cross_entropy", 0.948587), ("l1", 1.3), ("mse", 1.69)])
def test_losses_of_raw_logits(loss: str, value: float) -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.7, 0.3]])
    assert LOSSES[loss](logits, targets).item() == pytest.approx(value, abs=1e-6)
    twice = image_losses(loss, torch.cat([logits, logits.flip(1)]), torch.tensor([0, 1]), torch.cat([targets, targets.flip(1)]))
    assert twice.tolist() == pytest.approx([value] * 2, abs=1e-6)
    hard = image_losses(loss, logits, torch.tensor([0]))
    expected = "cross_entropy" if loss == "bce" else loss  # of labels, as such networks are published
    assert hard.item() == pytest.approx(LOSSES[expected](logits, torch.tensor([[1.0, 0.0]])).item(), abs=1e-6)


S, R = 0.7, 0.95


@pytest.mark.parametrize(
    ("outputs", "rows"),
    [
        (("negative", "positive"), [[S, 1 - S], [1 - R, R], [R, 1 - R], [1 - R, R]]),
        (AMBIGUOUS, [[S, 1 - S, 0, 0], [1 - S, S, 0, 0], [1 - R, 0, R, 0], [0, 1 - R, 0, R]]),
        (AMBIGUOUS, [[S, 0, 1 - S, 0], [0, S, 0, 1 - S], [1 - R, 0, R, 0], [0, 1 - R, 0, R]]),
    ],
)
def test_the_published_tables_of_soft_labels(outputs: tuple[str, ...], rows: list[list[float]]) -> None:
    table = {name: dict(zip(outputs, row, strict=True)) for name, row in zip(AMBIGUOUS, rows, strict=True)}
    labels = np.array([3, 0, 1, 2, 2])
    matched, soft = match_targets(labels, None, Classes(AMBIGUOUS, True, "val.beton"), model(outputs, table))
    assert soft is not None
    np.testing.assert_allclose(soft.of(np.arange(5)), np.array(rows)[labels], atol=1e-7)
    assert matched.tolist() == [int(np.argmax(rows[label])) for label in labels]


def test_names_go_through_the_map_and_outputs_are_their_own() -> None:
    merging = model(("negative", "positive"), {"amb": "negative", "bad": "negative", "good": "positive"})
    data = Classes(("good", "bad", "positive"), known=True, owner="val.beton")
    labels, soft = match_targets(np.array([0, 1, 2]), None, data, merging)
    assert (labels.tolist(), soft) == ([1, 0, 1], None), "one-hot rows are labels"
    with pytest.raises(UsageError, match=r"'dog'\. run has 'amb', 'bad', 'good', 'negative', 'positive'"):
        match_targets(np.array([0]), None, Classes(("dog",), known=True, owner="val.beton"), merging)
    with pytest.raises(UsageError, match=r"class names of val\.beton are not known"):
        match_targets(np.array([0]), None, Classes(("0",), known=False, owner="val.beton"), merging)


def test_shares_of_images_weigh_the_rows() -> None:
    data = Classes(("a", "b"), known=True, owner="val.beton")
    one = model(("x", "y"), {"a": {"x": 0.8, "y": 0.2}, "b": "y"}, per_image=True)
    labels, soft = match_targets(np.array([0, 0, 1]), [{"a": 1.0}, {"a": 0.6, "b": 0.4}, {"b": 1.0}], data, one)
    assert soft is not None
    np.testing.assert_allclose(soft.of(np.arange(3)), [[0.8, 0.2], [0.48, 0.52], [0, 1]], atol=1e-7)
    assert labels.tolist() == [0, 1, 1]
    labels, soft = match_targets(np.array([1, 0]), None, data, one)
    assert soft is not None, "without shares of its own an image has the row of its class"
    np.testing.assert_allclose(soft.of(np.arange(2)), [[0, 1], [0.8, 0.2]], atol=1e-7)
    even = model(("x", "y", "z"), {"a": "x", "b": "y", "c": "z"}, per_image=True)
    three = Classes(("a", "b", "c"), known=True, owner="val.beton")
    assert match_targets(np.array([1]), [{"a": 0.5, "b": 0.5}], three, even)[0].tolist() == [1], "its label decides"
    with pytest.raises(UsageError, match=r"an image of the class 'c' has equal shares of 'x' and 'y'"):
        match_targets(np.array([2]), [{"a": 0.4, "b": 0.4, "c": 0.2}], three, even)


def test_smoothing_of_a_distribution_is_that_of_a_label() -> None:
    labels = torch.tensor([2, 0])
    hard = soft_targets(labels, 3, 0.1)
    torch.testing.assert_close(smoothed(torch.eye(3)[labels], 0.1), hard)
    assert smoothed(torch.tensor([[0.7, 0.3]]), 0.2).tolist()[0] == pytest.approx([0.66, 0.34])


def weights_of(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("model.safetensors", "ema/model.safetensors")]


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key.startswith(("val/", "train/"))} for row in rows]


MIXED = ("mix.mixup=0.8", "mix.chunk=8", "optim.loss=bce", "curriculum.1.until_epoch=3")


def test_one_hot_rows_train_bit_for_bit_as_no_targets(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    one_hot = "targets.map={grass: grass, cat: {cat: 1}, coffee: {coffee: 1, cat: 0}, astronaut: astronaut}"
    for name, more in (("plain", ()), ("rows", (one_hot,))):
        train(tiny_recipe(betons, tmp_path, *MIXED, *more), name, runtime=cpu)
    assert weights_of(Path("plain")) == weights_of(Path("rows"))
    assert rows_of(Path("plain")) == rows_of(Path("rows"))


def test_a_run_on_soft_targets(betons: Path, photos: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Train, stop within an epoch and resume; its validation loss is evaluate's; data are matched through the map."""
    recipe = tiny_recipe(betons, tmp_path, *MIXED, *SOFT_SET, "batch.repeats=2")
    train(recipe, "whole", runtime=cpu)
    steps = iter([False] * 4 + [True])
    with pytest.raises(Terminated):
        train(recipe, "resumed", runtime=cpu, stop=lambda: next(steps, False))
    train(recipe, "resumed", runtime=cpu, resume=True)
    assert weights_of(Path("whole")) == weights_of(Path("resumed"))
    assert rows_of(Path("whole")) == rows_of(Path("resumed"))

    run = load_run(Path("whole"), cpu)
    assert run.classes == ("thing", "person", "animal")
    assert run.class_list.truths == TRUTHS | {name: name for name in run.classes}
    (result,) = evaluate_run(run, {"clean": betons / "val-source.beton"}, cpu)
    last = rows_of(Path("whole"))[-1]
    assert last["val/clean/loss"] == pytest.approx(result.scores.loss, abs=1e-6)
    assert last["val/clean/top1"] == result.scores.top1
    (averaged,) = evaluate_run(load_run(Path("whole"), cpu, "ema"), {"clean": betons / "val-source.beton"}, cpu)
    assert last["val/clean/ema_loss"] == pytest.approx(averaged.scores.loss, abs=1e-6)
    assert result.class_images() == {"thing": 8, "person": 4, "animal": 4}
    (folder,) = evaluate(run, photos / "val", runtime=cpu)
    np.testing.assert_array_equal(folder.outcomes.right, result.outcomes.right)
    np.testing.assert_allclose(folder.outcomes.loss, result.outcomes.loss, atol=1e-6)
    named = find_labelled([photos / "val"]).renamed(run.class_list.truths)
    assert set(named.classes) == {"thing", "person", "animal"}

    dataset = open_datasets(recipe).val["clean"]
    logits = torch.cat([run.model(run.normalise(batch.images)) for batch in open_loaders(recipe, runtime=cpu).val["clean"]])
    wanted = {"person": [0.1, 0.9, 0], "animal": [0.3, 0, 0.7]}
    of_class = {"astronaut": wanted["person"], "cat": wanted["animal"], "coffee": [1, 0, 0], "grass": [0.95, 0, 0.05]}
    targets = torch.tensor([of_class[dataset.classes.names[label]] for label in dataset.beton.labels.tolist()])
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(logits.detach(), targets).item()
    assert result.scores.loss == pytest.approx(by_hand, abs=1e-6)

    changed = tiny_recipe(betons, tmp_path, *MIXED, *SOFT_SET, "batch.repeats=2", "targets.map.coffee=animal")
    with pytest.raises(RecipeError, match=r"targets\.map\.coffee"):
        train(changed, "whole", runtime=cpu, resume=True)


def test_every_rank_has_the_distributions_of_its_images(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    dataset = open_datasets(tiny_recipe(betons, tmp_path, *SOFT_SET)).val["clean"]
    assert dataset.soft is not None
    whole = dataset.soft.of(np.arange(len(dataset)))
    for rank in range(2):
        sampler = EpochSampler.of(dataset.variant, tiny_recipe(betons, tmp_path).image, batch=3)
        batches = list(open_loader("plain", replace(sampler, rank=rank, ranks=2), cpu).at(0))
        targets = torch.cat([batch.targets for batch in batches if batch.targets is not None])
        np.testing.assert_array_equal(targets, whole[rank::2])


def test_augmentation_smooths_and_mixes_the_distributions(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    smoothing = ("optim.label_smoothing=0.1", "mix.cutmix=1", "mix.prob=0")
    recipe = tiny_recipe(betons, tmp_path, *SOFT_SET, *smoothing)
    loaders, augment = open_loaders(recipe, runtime=cpu), Augment.from_recipe(recipe)
    batch = next(iter(loaders.train))
    assert batch.targets is not None
    np.testing.assert_array_equal(batch.targets.argmax(1), batch.labels)
    _, targets = augment(batch)
    torch.testing.assert_close(targets, batch.targets * 0.9 + 0.1 / 3)
    assert augment.classes == 3
    _, mixed = Augment.from_recipe(tiny_recipe(betons, tmp_path, *SOFT_SET, *smoothing[:1], "mix.mixup=0.8"))(batch)
    assert not torch.allclose(mixed, targets)
    torch.testing.assert_close(mixed + mixed.flip(0), targets + targets.flip(0))  # as much of one as of its partner


def test_merged_probabilities(trained: Path, betons: Path, cpu: Runtime) -> None:
    run, data = load_run(trained, cpu), betons / "val-source.beton"
    (whole,) = evaluate(run, data, runtime=cpu)
    (merged,) = evaluate(run, data, runtime=cpu, merge="living=cat,astronaut;dead=grass,coffee")
    loader = open_loaders(tiny_recipe(betons, Path()), runtime=cpu).val["clean"]
    shares = torch.cat([run.model(run.normalise(batch.images)).softmax(1) for batch in loader]).detach()
    living = shares[:, [0, 1]].sum(1)
    assert merged.classes == ("living", "dead")
    np.testing.assert_array_equal(merged.outcomes.labels, whole.outcomes.labels >= 2)
    np.testing.assert_array_equal(merged.outcomes.predicted, (living < 0.5).numpy())
    np.testing.assert_allclose(merged.outcomes.confidence, torch.maximum(living, 1 - living).numpy(), atol=1e-6)
    right = torch.where(torch.from_numpy(merged.outcomes.labels) == 0, living, 1 - living)
    np.testing.assert_allclose(merged.outcomes.loss, -right.log().numpy(), atol=1e-5)
    assert merged.as_dict()["merged"] == {"living": ["cat", "astronaut"], "dead": ["grass", "coffee"]}
    assert "merged" not in whole.as_dict()


def test_a_merged_run_of_soft_targets_is_judged_by_its_truth_and_an_unmerged_one_as_it_is() -> None:
    four = model(AMBIGUOUS, {"amb_neg": {"amb_neg": S, "amb_pos": 1 - S}, **{name: name for name in AMBIGUOUS[1:]}})
    merge = Merge.parse("ambiguous=amb_neg,amb_pos; negative=negative; positive=positive")
    merged = merge.apply(four)
    labels, soft = match_targets(np.arange(4), None, Classes(AMBIGUOUS, True, "val.beton"), merged)
    assert (merged.names, labels.tolist()) == (("ambiguous", "negative", "positive"), [0, 0, 1, 2])
    assert soft is not None
    np.testing.assert_allclose(soft.of(np.array([0])), [[1, 0, 0]])
    other = Classes(("positive", "negative", "ambiguous"), known=True, owner="other")
    assert merge.numbers(other) == [[2], [1], [0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=cat,dog;b=grass,coffee,astronaut", "has no class 'dog'"),
        ("a=cat;b=grass,coffee", "leaves out 'astronaut'"),
        ("a=cat,grass;b=grass,coffee,astronaut", "has 'grass' twice"),
        ("a=cat;a=grass", "names the class 'a' twice"),
        ("cat,grass", "not of the form"),
        ("a=cat,grass,coffee,astronaut", "fewer than two classes"),
    ],
)
def test_a_merge_that_cannot_be(trained: Path, betons: Path, cpu: Runtime, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(trained, betons / "val-source.beton", runtime=cpu, merge=text)


def test_merged_scores_say_so(trained: Path, betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(merge: str, file: str) -> int:
        data = ["--data", str(betons / "val-source.beton"), "--device", "cpu", "--loader", "plain", "--quiet"]
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(trained), *data, "--merge", merge, "--csv", file])
        return int(str(ended.value.code))

    text = "living=cat,astronaut;dead=grass,coffee"
    assert run(text, "scores.csv") == 0
    assert f"The probabilities of outputs are added: {text}" in capsys.readouterr().out
    with Path("scores.csv").open(newline="") as file:
        assert [row["merged"] for row in csv.DictReader(file)] == [text]
    assert run("a=cat;b=grass", "none.csv") == 2
    assert not Path("none.csv").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("targets.map={cat: grass}", r"targets\.map: the class 'astronaut' of .* has no row"),
        (f"targets.map={SOFT[:-1]}, dog: thing}}", r"targets\.map\.dog: .* has no class 'dog'"),
        ("targets.map={cat: cat, coffee: cat, grass: grass, astronaut: cat}", "no class has a share of 'astronaut'"),
        ("targets.map={cat: dog, coffee: cat, grass: grass, astronaut: cat}", "'dog' is no class of"),
        ("targets.map.cat={thing: 0.3, animal: 0.6}", r"targets\.map\.cat: the shares sum to 0\.9, and must sum to 1"),
        ("targets.map.cat={thing: 0.5, animal: 0.5}", r"targets\.map\.cat: 'thing' and 'animal' have the same share"),
        ("targets.map.cat={thing: -0.5, animal: 1.5}", r"targets\.map\.cat: the share of 'thing' is -0\.5"),
        (
            "targets.map={astronaut: person, cat: thing, coffee: thing, grass: thing}",
            r"targets\.outputs: no class has a share of 'animal'",
        ),
        ("targets.map.cat=animals", r"targets\.map\.cat: 'animals' is not among targets\.outputs\. Did you mean 'animal'"),
        ("targets.map={1: thing}", "put the name of a class into quotes"),
        ("targets.per_image=true", r"data\.clean\.train: .* has no shares for each image"),
    ],
)
def test_targets_that_cannot_be(betons: Path, tmp_path: Path, more: str, message: str) -> None:
    alone = more.startswith("targets.map={c")
    before = SOFT_SET if not alone else ()
    with pytest.raises((RecipeError, BetonError), match=message):
        open_datasets(tiny_recipe(betons, tmp_path, *before, more))


def test_an_error_names_the_line_of_the_row(betons: Path) -> None:

    tree = tiny_tree(betons) | {"targets": {"map": {"great dane.x": {"a": 0.9}}}}
    text = yaml.safe_dump(tree, sort_keys=False)
    Path("r.yaml").write_text(text)
    line = 1 + next(number for number, content in enumerate(text.splitlines()) if "great dane.x" in content)
    with pytest.raises(RecipeError, match=rf"line {line}: targets\.map\.great dane\.x: the shares sum to 0\.9"):
        load_recipe("r.yaml")


def test_arms_of_a_study_may_differ_in_shares_but_not_in_what_is_right(betons: Path) -> None:
    def check(last: str) -> None:
        sets = {"soft": [*SOFT_SET, "optim.loss=bce"], "merged": [SOFT_SET[0], f"targets.map={MERGED.replace('LAST', last)}"]}
        of_arms = {name: {"set": overrides} for name, overrides in sets.items()}
        study = load_study(write_study(betons, seeds=[0], fork=None, control="soft", arms=of_arms))
        check_data(study, ["soft", "merged"], Path("out"))

    check("thing")
    with pytest.raises(UsageError, match=r"evaluate\.clean: by their targets, the arms soft and merged count other classes"):
        check("animal")


def table(path: str, rows: Mapping[str, tuple[Any, ...]], header: str = "path,p_ant,p_bee,p_cat", split: str = "") -> Path:
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header.split(","), *(["split"] if split else [])])
        for key, shares in rows.items():
            writer.writerow([key, *shares, *([split] if split else [])])
    return Path(path)


def shares_data() -> dict[str, tuple[float, ...]]:
    """Write 20 images into the folder ``own``, and return their shares of three classes."""
    Path("own").mkdir()
    rows = {}
    for number in range(20):
        Path("own", f"{number:02}.jpg").write_bytes(image(number * 7))
        rows[f"{number:02}.jpg"] = ((0.7, 0.3, 0.0), (0.05, 0.95, 0.0), (0.0, 0.25, 0.75))[number % 3]
    return rows


def own_recipe(folder: Path, *more: str) -> Recipe:
    """Return a recipe that trains on the shares of images in ``own-betons``, and validates on the same images."""
    sets = ("data={clean: {train: own-betons/train-source.beton, val: own-betons/train-source.beton}}", "evaluate=[clean]")
    phases = ("curriculum=[{data: clean, until_epoch: 2}]", "targets.per_image=true")
    return tiny_recipe(Path(), folder, *sets, *phases, *more)


def test_shares_of_images_travel_with_the_beton(cpu: Runtime, tmp_path: Path) -> None:
    rows = shares_data()
    labels = table("shares.csv", rows)
    (source,) = open_sources("own", labels=labels, splits=["train"])
    assert source.classes == ("ant", "bee", "cat")
    encode_dataset([source], ["source", 50], "own-betons")
    beton = Path("own-betons/train-source.beton")
    hard = table("hard.csv", {key: (("ant", "bee", "cat")[int(np.argmax(row))],) for key, row in rows.items()}, "path,label")
    encode_dataset(open_sources("own", labels=hard, splits=["train"]), ["source"], "hard-betons")
    assert beton.read_bytes() == Path("hard-betons/train-source.beton").read_bytes(), "a beton as any other to FFCV"

    recipe = own_recipe(tmp_path, "optim.loss=mse", "optim.label_smoothing=0")
    dataset = open_datasets(recipe).train["clean"]
    assert dataset.soft is not None
    manifest, items = read_manifest(beton), [json.loads(line) for line in items_path(beton).read_text().splitlines()]
    assert manifest is not None
    np.testing.assert_allclose(dataset.soft.of(np.arange(20)), [rows[item["key"]] for item in items], atol=1e-7)
    train(recipe, "run", runtime=cpu)
    run = load_run(Path("run"), cpu)
    (result,) = evaluate(run, beton, runtime=cpu)
    (folder,) = evaluate(run, "own", labels=labels, runtime=cpu)
    assert rows_of(Path("run"))[-1]["val/clean/loss"] == pytest.approx(result.scores.loss, abs=1e-6)
    assert folder.scores.loss == pytest.approx(result.scores.loss, abs=1e-6)

    # The shares are part of the data's identity: for encode --resume, for --resume of a run, and beside the beton.
    rows["03.jpg"] = (0.6, 0.4, 0.0)
    changed = open_sources("own", labels=table("shares.csv", rows), splits=["train"])
    with pytest.raises(UsageError, match=r"03\.jpg has other shares of classes since"):
        encode_dataset(changed, ["source"], "own-betons", resume=True)
    encode_dataset(changed, ["source"], "own-betons", force=True)
    with pytest.raises(UsageError, match="other shares of classes for each image"):
        train(recipe, "run", runtime=cpu, resume=True)
    pair = "data.q50={train: own-betons/train-q50.beton}", "curriculum.0.data={clean: 1, q50: 1}"
    with pytest.raises(BetonError, match="other shares of classes for the same images"):
        open_datasets(own_recipe(tmp_path, *pair))
    items_path(beton).write_text(items_path(beton).read_text().replace("0.75", "0.85"))
    with pytest.raises(BetonError, match="has other shares than"):
        open_datasets(recipe)


@pytest.mark.parametrize(
    ("shares", "header", "message"),
    [
        ((0.7, 0.2, 0.0), "path,p_ant,p_bee,p_cat", r"line 5: the shares sum to 0\.9, and must sum to 1"),
        ((0.7, "much", 0.0), "path,p_ant,p_bee,p_cat", r"line 5: p_bee is 'much'"),
        ((0.7, "nan", 0.0), "path,p_ant,p_bee,p_cat", r"line 5: the share of 'bee' is nan"),
        ((0.5, 0.5, 0.0), "path,p_ant,p_bee,p_cat", r"line 5: 'ant' and 'bee' have the same share"),
        ((0.5, 0.5, 0.0), "path,p_ant,p_bee,p_bee", "the column p_bee occurs twice"),
    ],
)
def test_a_table_of_shares_with_a_mistake(shares: tuple[Any, ...], header: str, message: str) -> None:
    rows = shares_data() | {"03.jpg": shares}
    with pytest.raises(SourceError, match=message):
        open_sources("own", labels=table("shares.csv", rows, header))


def test_a_column_of_labels_decides_between_equal_shares_and_must_not_contradict() -> None:
    rows = {key: ("bee", *shares) for key, shares in shares_data().items() if shares[1] == 0.95}
    header = "path,label,p_ant,p_bee,p_cat"
    (source,) = open_sources("own", labels=table("shares.csv", rows | {"00.jpg": ("bee", 0.5, 0.5, "")}, header))
    assert {source.classes[item.label] for item in source.items} == {"bee"}
    assert source.shares is not None
    assert source.shares["00.jpg"] == {"ant": 0.5, "bee": 0.5}
    with pytest.raises(SourceError, match="the label is 'bee', and the largest share that of 'ant'"):
        open_sources("own", labels=table("shares.csv", rows | {"00.jpg": ("bee", 0.6, 0.4, 0)}, header))
    with pytest.raises(SourceError, match="so none can be left out"):
        source.with_classes(["bee"])


def test_outputs_of_a_run_are_those_that_it_recorded_whatever_the_order_of_its_data(betons: Path, tmp_path: Path) -> None:
    rows = "targets.map={grass: {grass: 0.9, cat: 0.1}, cat: cat, coffee: coffee, astronaut: astronaut}"
    recorded = Classes(("grass", "cat", "coffee", "astronaut"), known=True, owner="run")
    datasets = open_datasets(tiny_recipe(betons, tmp_path, rows), recorded)
    assert datasets.classes.names == recorded.names
    dataset = datasets.val["clean"]
    assert dataset.soft is not None
    names = [dataset.classes.names[label] for label in dataset.beton.labels.tolist()]
    assert [recorded.names[label] for label in dataset.labels.tolist()] == names
    expected = [[0.9, 0.1, 0, 0] if name == "grass" else [float(name == other) for other in recorded.names] for name in names]
    np.testing.assert_allclose(dataset.soft.of(np.arange(len(dataset))), expected, atol=1e-7)


def test_weights_and_balance_are_of_the_outputs_in_their_order(betons: Path, tmp_path: Path) -> None:
    rows = "{astronaut: astronaut, cat: cat, coffee: coffee, grass: grass}"
    targets = f"targets={{outputs: [grass, coffee, cat, astronaut], map: {rows}}}"
    recipe = tiny_recipe(betons, tmp_path, targets, "optim.class_weights={cat: 4}", "batch.balance=sqrt")
    weights = open_weights(recipe)
    assert weights is not None
    assert weights / weights[0] == pytest.approx([1, 1, 4, 1])
    _, remarks = plan_run(recipe)
    assert any("(cat, 12 images)" in remark for remark in remarks), remarks
    with pytest.raises(RecipeError, match=r"class_weights are for cross_entropy and bce, not for loss: mse"):
        tiny_recipe(betons, tmp_path, "optim.class_weights=sqrt", "optim.loss=mse")
