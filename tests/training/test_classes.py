"""Classes of data and of models: matched by name, and whether names are known is recorded, not guessed."""

import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import encode_all, image, tiny_recipe

from jpegcurr.analysis.evaluation.evaluate import evaluate_run, evaluate_runs
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.encoding.beton.manifest import manifest_path
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.classes import Classes, describe_match, have_same_labels, match_labels
from jpegcurr.training.data.datasets import open_datasets
from jpegcurr.training.models.load import load_run
from jpegcurr.training.run_folder import classes_of
from jpegcurr.training.train import train

MODEL = Classes(("ant", "bee", "cat"), known=True, owner="run")


def data(*names: str, known: bool = True) -> Classes:
    return Classes(names, known=known, owner="val.beton")


def matched(labels: list[int], *names: str, model: Classes = MODEL, known: bool = True) -> list[int]:
    return match_labels(np.array(labels), data(*names, known=known), model).tolist()


def test_labels_are_matched_by_name_whatever_their_order() -> None:
    assert matched([0, 1, 2, 0], "cat", "ant", "bee") == [2, 0, 1, 2]
    assert matched([0, 1], "bee", "cat") == [1, 2]
    assert matched([1, 2], "a class without images", "cat", "ant") == [2, 0]


def test_names_that_look_like_numbers_are_names() -> None:
    as_text = tuple(sorted(map(str, range(12))))
    model = Classes(tuple(map(str, range(12))), known=True, owner="run")
    assert matched([2, 3, 4], *as_text, model=model) == [10, 11, 2]
    assert matched([0, 1], "007", "7", model=Classes(("7", "07", "007"), known=True, owner="run")) == [2, 0]


def test_a_class_that_the_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(
        UsageError, match=r"val\.beton has images of a class that run lacks: 'dog'\. run has 'ant', 'bee', 'cat'"
    ):
        matched([0, 1], "ant", "dog")
    with pytest.raises(UsageError, match=r"'c0', 'c1', 'c2', 'c3' and 'c4' and 3 more"):
        matched(list(range(8)), *(f"c{number}" for number in range(8)))


@pytest.mark.parametrize(
    ("theirs", "ours", "difference"),
    [
        ("Dog", "dog", "'Dog' and 'dog' differ only in capitals"),
        (
            unicodedata.normalize("NFD", "cáncer"),
            unicodedata.normalize("NFC", "cáncer"),
            r"a\\u0301.* differ only in Unicode's form",
        ),
        ("007", "7", "'007' and '7' differ only in zeros in front"),
        ("a ", "a", "'a ' and 'a' differ only in spaces"),
        ("golden-retriever", "golden_retriever", "differ only in spaces, separators"),
    ],
)
def test_names_that_differ_in_what_one_does_not_see_are_refused_with_that_remark(
    theirs: str, ours: str, difference: str
) -> None:
    with pytest.raises(UsageError, match=difference):
        matched([0], theirs, model=Classes((ours,), known=True, owner="run"))


def test_unknown_names_are_numbers_and_that_is_described() -> None:
    model = Classes(("0", "1"), known=False, owner="run")
    assert matched([1, 0], "ant", "bee", model=model) == [1, 0]
    assert "class names of run are not known" in describe_match(np.array([0]), data("ant", "bee"), model)
    assert "class names of val.beton are not known" in describe_match(np.array([0]), data("0", known=False), MODEL)
    with pytest.raises(UsageError, match="labels up to 3, but run has 3 classes"):
        matched([3], "0", "1", "2", "3", known=False)


def test_fewer_classes_are_described_and_all_are_not() -> None:
    assert describe_match(np.array([0, 0]), data("cat"), MODEL) == "val.beton has images of 1 of the 3 classes of run"
    assert describe_match(np.array([0, 1, 2]), data("cat", "bee", "ant"), MODEL) == ""


def test_the_same_labels_by_name() -> None:
    first, other = np.array([0, 1]), np.array([1, 0])
    assert have_same_labels(first, data("a", "b"), other, data("b", "a"))
    assert not have_same_labels(first, data("a", "b"), first, data("b", "a"))
    assert not have_same_labels(first, data("a", "b"), first, data("a", "c"))
    assert not have_same_labels(first, data("a", "b"), first[:1], data("a", "b"))


def put(root: str, classes: dict[str, str], split: str = "train", images: int = 4) -> Path:
    """Write folders of classes; the values of ``classes`` say which pictures, so that a name can change and not its images."""
    for name, pictures in classes.items():
        folder = Path(root, split, name)
        folder.mkdir(parents=True)
        for number in range(images):
            (folder / f"{pictures}{number}.jpg").write_bytes(image(ord(pictures) * 3 + number))
    return Path(root)


def recipe(*overrides: str):  # type: ignore[no-untyped-def]
    return tiny_recipe(Path("b"), Path(), "evaluate=[clean]", "batch.size=4", "batch.per_device=4", *overrides)


def encoded(classes: dict[str, str], root: str = "d") -> None:
    put(root, classes)
    encode_all(put(root, classes, "val", images=2), Path("b"), ["source", 50], force=True)


def test_a_validation_set_without_a_rare_class_is_allowed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    encoded({"ant": "a", "bee": "b", "cat": "c"})
    encode_all(put("few", {"cat": "c", "bee": "b"}, "val"), Path("few-b"), ["source"])
    for suffix in (".beton", ".json", ".items.jsonl"):
        shutil.copy(f"few-b/val-source{suffix}", f"b/val-source{suffix}")
    datasets = open_datasets(recipe())
    assert datasets.val["clean"].labels.tolist() == [1] * 4 + [2] * 4
    assert "has images of 2 of the 3 classes of" in caplog.text


def test_a_validation_set_with_another_class_is_refused_by_name() -> None:
    encoded({"ant": "a", "bee": "b"})
    encode_all(put("more", {"ant": "a", "wasp": "w"}, "val"), Path("more-b"), ["source"])
    for suffix in (".beton", ".json", ".items.jsonl"):
        shutil.copy(f"more-b/val-source{suffix}", f"b/val-source{suffix}")
    with pytest.raises(BetonError, match=r"data\.clean\.val: .*has images of a class that b/train-source\.beton lacks: 'wasp'"):
        open_datasets(recipe())


def test_a_run_keeps_the_meaning_of_its_outputs(cpu: Runtime) -> None:
    """The classes of the data are in another order when the run is resumed, as after a class before them was renamed."""
    encoded({"ant": "a", "bee": "b"})
    train(recipe(), Path("run"), runtime=cpu, until=1)
    assert classes_of(Path("run")) == Classes(("ant", "bee"), known=True, owner="run")
    manifest = json.loads(manifest_path(Path("b/train-source.beton")).read_text())
    assert manifest["classes"] == ["ant", "bee"]
    encoded({"zebra": "a", "bee": "b"}, root="renamed")
    with pytest.raises(BetonError, match="has images of a class that run lacks: 'zebra'"):
        train(recipe(), Path("run"), runtime=cpu, resume=True)
    encoded({"ant": "b", "bee": "a"}, root="swapped")
    with pytest.raises(UsageError, match=r"--resume: train/clean .* is not the data that run was trained on so far: .*other"):
        train(recipe(), Path("run"), runtime=cpu, resume=True)


def test_a_run_is_not_resumed_on_images_of_another_size(cpu: Runtime) -> None:
    encoded({"ant": "a", "bee": "b"})
    train(recipe(), Path("run"), runtime=cpu, until=1)
    facts = json.loads(Path("run/run.json").read_text())
    facts["data"]["train/clean"]["max_side"] = 64
    Path("run/run.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="max_side was 64, is None"):
        train(recipe(), Path("run"), runtime=cpu, resume=True)


def test_a_run_of_the_former_version_is_resumed(cpu: Runtime) -> None:
    """It recorded neither class names nor labels nor content; its names are in the model's description."""
    encoded({"ant": "a", "bee": "b"})
    train(recipe(), Path("run"), runtime=cpu, until=1)
    head = json.loads(Path("run/run.json").read_text())
    del head["class_names"], head["class_names_known"]
    for facts in head["data"].values():
        for name in set(facts) - {"path", "images", "quality", "at_load", "keys_sha256"}:
            del facts[name]
    Path("run/run.json").write_text(json.dumps(head))
    assert classes_of(Path("run")) == Classes(("ant", "bee"), known=True, owner="run")
    train(recipe(), Path("run"), runtime=cpu, resume=True)
    assert json.loads(Path("run/run.json").read_text())["class_names"] == ["ant", "bee"]


def test_whether_names_are_known_is_recorded(cpu: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers that are names match by name; numbers of a file without a manifest match by number, which is logged."""
    numbered = {str(number): chr(ord("a") + number) for number in (2, 10)}
    encoded(numbered)
    train(recipe(), Path("named"), runtime=cpu, until=1)
    for path in Path("b").glob("*.json*"):
        path.rename(f"{path}.away")
    train(recipe(), Path("unnamed"), runtime=cpu, until=1)
    for path in Path("b").glob("*.away"):
        path.rename(str(path).removesuffix(".away"))
    named, unnamed = (load_run(Path(name), cpu) for name in ("named", "unnamed"))
    assert (named.names_known, unnamed.names_known) == (True, False)
    encode_all(put("more", {"10": "k", "3": "d"}, "val"), Path("more-b"), ["source"])
    with pytest.raises(UsageError, match="lacks: '3'"):
        open_sets([named], {"": Path("more-b/val-source.beton")})
    caplog.clear()
    open_sets([unnamed], {"": Path("more-b/val-source.beton")})
    assert "the class names of unnamed are not known: labels are compared as numbers" in caplog.text


def test_every_image_is_judged_by_its_class_whatever_the_order_of_the_files_classes(
    trained: Path, betons: Path, cpu: Runtime
) -> None:
    """The planted truth: a data set whose classes are listed backwards, with the labels to match."""
    run = load_run(trained, cpu)
    (before,) = evaluate_run(run, {"": betons / "val-source.beton"}, cpu)
    (dataset,) = open_sets([run], {"": betons / "val-source.beton"})
    assert dataset.manifest is not None
    backwards = dataset.manifest.model_copy(update={"classes": dataset.manifest.classes[::-1]})
    beton = Beton(betons / "val-source.beton")
    beton.labels = len(backwards.classes) - 1 - beton.labels
    (after,) = evaluate_runs([run], [replace(dataset, beton=beton, manifest=backwards)], cpu)
    assert after.outcomes.labels.tolist() == before.outcomes.labels.tolist()
    assert after.scores == before.scores
