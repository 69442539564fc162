"""The data sets of a recipe: betons that belong together, and missing ones that are encoded."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import encode_all, image, jpeg, photograph, tiny_recipe, tiny_tree, write_beton

from jpegcurr.cli import main
from jpegcurr.encoding.beton.manifest import items_path, manifest_path
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.verify import inspect_beton
from jpegcurr.encoding.resume import lock_file
from jpegcurr.errors import BetonError, EncodeError, RecipeError, UsageError
from jpegcurr.files import locked
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import ImageSection, Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.crops import images_at_once
from jpegcurr.training.data.datasets import open_dataset, open_datasets
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant

OpenAndLog = Callable[[Recipe], list[str]]


def put(root: str, *labels: str, images: int = 3) -> Path:
    for split in ("train", "val"):
        for label in labels:
            Path(root, split, label).mkdir(parents=True)
            for number in range(images):
                Path(root, split, label, f"{number}.jpg").write_bytes(
                    jpeg(photograph("cat").crop((number, 0, number + 40, 40)))
                )
    return Path(root)


def recipe_on(**paths: Path) -> Recipe:
    """Return a recipe with a data set for every folder of betons: ``clean`` from source files, the others from q50."""
    tree = tiny_tree(Path())
    data = {}
    for name, folder in paths.items():
        file, quality = ("source", "source") if name == "clean" else ("q50", 50)
        data[name] = {"train": folder / f"train-{file}.beton", "val": folder / f"val-{file}.beton", "quality": quality}
    phases = [{"data": name, "until_epoch": number + 1} for number, name in enumerate(data)]
    small = {"schedule": {"warmup_epochs": 0}, "batch": {"size": 2}}
    return Recipe.model_validate(tree | {"data": data, "curriculum": phases, "evaluate": list(data)} | small)


@pytest.fixture
def log_of(caplog: pytest.LogCaptureFixture) -> OpenAndLog:
    """Return a function that opens a recipe's data sets and returns the log messages."""
    caplog.set_level(logging.INFO, "jpegcurr")

    def open_them(recipe: Recipe) -> list[str]:
        caplog.clear()
        open_datasets(recipe)
        return caplog.messages

    return open_them


def test_betons_that_belong_together_are_opened_silently(log_of: OpenAndLog, betons: Path, tmp_path: Path) -> None:
    assert log_of(tiny_recipe(betons, tmp_path)) == []


def test_another_number_of_classes_is_refused(log_of: OpenAndLog) -> None:
    encode_all(put("a", "x", "y"), Path("a-betons"), ["source"])
    encode_all(put("b", "x", "y", "zebra"), Path("b-betons"), [50])
    with pytest.raises(
        BetonError, match=r"data\.q50\.train: b-betons/train-q50\.beton has images of a class that a-betons/.* lacks: 'zebra'\."
    ):
        log_of(recipe_on(clean=Path("a-betons"), q50=Path("b-betons")))


def test_another_number_of_images_is_refused(log_of: OpenAndLog) -> None:
    encode_all(put("a", "x", "y"), Path("a-betons"), ["source"])
    encode_all(put("b", "x", "y", images=4), Path("b-betons"), [50])
    with pytest.raises(BetonError, match=r"8 images instead of 6.*--quality source --quality 50"):
        log_of(recipe_on(clean=Path("a-betons"), q50=Path("b-betons")))


def test_other_images_are_refused(log_of: OpenAndLog) -> None:
    encode_all(put("a", "x", "y"), Path("a-betons"), ["source"])
    root = put("b", "x", "y")
    (root / "train/x/2.jpg").rename(root / "train/x/9.jpg")
    encode_all(root, Path("b-betons"), [50])
    with pytest.raises(BetonError, match=r"other images, or the same in another order"):
        log_of(recipe_on(clean=Path("a-betons"), q50=Path("b-betons")))


def test_another_quality_than_the_recipe_says_is_refused(log_of: OpenAndLog, betons: Path, tmp_path: Path) -> None:
    with pytest.raises(BetonError, match=r"data\.q50\.train: .*train-q50\.beton has quality 50, the recipe says 90"):
        log_of(tiny_recipe(betons, tmp_path, "data.q50.quality=90"))


def test_a_missing_beton_is_encoded_like_the_other_of_its_role(log_of: OpenAndLog, betons: Path, tmp_path: Path) -> None:
    for path in betons.glob("*q50*"):
        shutil.copy(path, path.name)
    recipe = tiny_recipe(Path(), tmp_path)
    lines = log_of(recipe)
    assert len(lines) == 2
    assert "train-source.beton is missing; encoding it from" in lines[0]
    for split in ("train", "val"):
        assert Path(f"{split}-source.beton").read_bytes() == (betons / f"{split}-source.beton").read_bytes()
    assert log_of(recipe) == []
    Path("train-source.beton").unlink()
    assert len(log_of(recipe)) == 1, "the manifest that remains of it is replaced"


def test_a_missing_beton_of_two_data_sets_is_encoded_once(
    log_of: OpenAndLog, photos: Path, betons: Path, tmp_path: Path
) -> None:
    for path in betons.glob("*q50*"):
        shutil.copy(path, path.name)
    any_quality = "{train: {beton: train-source.beton, quality: [30, 95]}%s}"
    phases = (
        "curriculum=[{data: any, until_epoch: 1}, {data: clean, until_epoch: 2}, {data: q50, until_epoch: 3}]",
        "evaluate=[]",
    )
    with pytest.raises(RecipeError, match=r"data\.any\.train and data\.clean\.train are one file, .* quality 90 and source"):
        log_of(tiny_recipe(Path(), tmp_path, f"data.any={any_quality % ', quality: 90'}", *phases))
    assert not Path("train-source.beton").exists()
    lines = log_of(tiny_recipe(Path(), tmp_path, f"data.any={any_quality % ''}", *phases))
    assert ["is missing; encoding it" in line for line in lines] == [True]


def test_a_missing_beton_without_a_template_or_a_source_is_an_error(log_of: OpenAndLog, betons: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BetonError, match=r"data\.clean\.train: train-source\.beton does not exist.*jpegcurr encode --quality source\."
    ):
        log_of(tiny_recipe(Path(), tmp_path))
    for path in betons.glob("*q50*"):
        shutil.copy(path, path.name)
    text = Path("train-q50.json").read_text()
    Path("train-q50.json").write_text(text.replace('"source": "', '"source": "gone'))
    with pytest.raises(BetonError, match=r"train-source\.beton does not exist and cannot be encoded: gone"):
        log_of(tiny_recipe(Path(), tmp_path))
    assert not list(Path().glob("*source*"))


def test_a_beton_without_a_manifest_is_checked_by_its_labels(log_of: OpenAndLog, betons: Path, tmp_path: Path) -> None:
    for path in betons.glob("*.beton"):
        shutil.copy(path, path.name)
    assert not manifest_path(Path("train-q50.beton")).exists()
    assert not items_path(Path("train-q50.beton")).exists()
    lines = log_of(tiny_recipe(Path(), tmp_path))
    assert len(lines) == 4
    assert "has no manifest" in lines[0]
    datasets = open_datasets(tiny_recipe(Path(), tmp_path))
    assert (datasets.classes.names, datasets.classes.known) == (("0", "1", "2", "3"), False)


def test_a_validation_set_that_the_source_lacks_is_omitted(log_of: OpenAndLog, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "train", "d/train")
    encode_all(Path("d"), Path(), [50])
    lines = log_of(tiny_recipe(Path(), tmp_path))
    assert [line.split(":")[0] for line in lines] == ["data.clean.val", "data.q50.val", "data.clean.train"]
    assert "its source has no val split" in lines[0]
    assert {path.name for path in Path().glob("*.beton")} == {"train-q50.beton", "train-source.beton"}


def test_nothing_is_encoded_for_a_batch_that_is_too_large(log_of: OpenAndLog, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, "d")
    encode_all(Path("d"), Path(), [50])
    with pytest.raises(RecipeError, match=r"batch\.size 64 is larger than data\.q50\.train, 48 images"):
        log_of(tiny_recipe(Path(), tmp_path, "batch.size=64"))
    assert not list(Path().glob("*source*"))


def test_nothing_is_encoded_if_a_file_is_missing_for_good(log_of: OpenAndLog, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, "d")
    encode_all(Path("d"), Path(), [50])
    with pytest.raises(BetonError, match=r"data\.q50\.val: gone\.beton does not exist. Write it with jpegcurr encode\."):
        log_of(tiny_recipe(Path(), tmp_path, "data.q50.val=gone.beton", "data.q50.quality=null"))
    assert not list(Path().glob("*source*"))


def test_a_missing_beton_omits_the_images_that_failed_in_the_other(log_of: OpenAndLog, photos: Path, tmp_path: Path) -> None:
    """Use a damaged scan, which cannot be encoded at quality 50 but which source would copy."""
    shutil.copytree(photos, "d")
    broken = Path("d/train/cat/03.jpg")
    data = broken.read_bytes()
    table = data.index(b"\xff\xc4")
    broken.write_bytes(data[: table + 5] + bytes([255] * 8) + data[table + 13 :])
    encode_all(Path("d"), Path(), [50], max_failures=1)
    assert len(log_of(tiny_recipe(Path(), tmp_path))) == 2
    assert len(Beton(Path("train-source.beton"))) == len(Beton(Path("train-q50.beton"))) == 47


def test_an_encode_that_a_run_cannot_do_names_the_command_that_can(photos: Path, tmp_path: Path) -> None:
    """Follow the advice, which is not encode's own: a run has neither its options nor a --resume for it."""
    shutil.copytree(photos, "d")
    encode_all(Path("d"), Path(), [50])
    broken = Path("d/train/cat/03.jpg")
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    recipe = tiny_recipe(Path(), tmp_path)
    with pytest.raises(EncodeError, match=r"^train-source\.beton is missing, and this run cannot encode it: 1 image") as left:
        open_datasets(recipe)
    assert "continue with the same command and --resume" not in str(left.value)
    assert str(left.value).endswith("are those of `jpegcurr encode`, which can encode train-source.beton beforehand.")
    held = locked(lock_file(Path("train-source.beton")), Path("x"))
    with held, pytest.raises(UsageError, match=r"by another process .* beforehand\.$"):
        open_datasets(recipe)
    broken.write_bytes(whole)  # repaired: the same command continues
    open_datasets(recipe)
    for file in Path().glob("train-source*"):
        file.unlink()
    encode_all(Path("d"), Path(), ["source"], resume=True)
    open_datasets(recipe)


def test_another_file_of_the_same_size_under_the_manifest_is_refused(
    log_of: OpenAndLog, photos: Path, betons: Path, tmp_path: Path
) -> None:
    encode_all(photos, Path(), ["source", 50])
    data = bytearray(Path("val-q50.beton").read_bytes())
    data[24 + 2 * 1041 + 16] ^= 1  # the first label
    Path("val-q50.beton").write_bytes(data)
    with pytest.raises(BetonError, match=r"val-q50\.beton is not the file that its manifest describes"):
        log_of(tiny_recipe(Path(), tmp_path))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (-1, "that of sample 2 is -1"),
        (2**20, "that of sample 2 is 1048576"),
        (10**9, "that of sample 2 is 1000000000"),
        (2**62, "that of sample 2 is"),
        (10**6, "has 4 images and labels up to 1000000, which number no classes"),
    ],
)
def test_labels_that_number_no_classes_are_refused_before_a_model_is_made(
    label: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of FFCV's has no manifest; each class would be an output of the model."""
    labels = [0, 1, label, 2]
    file = write_beton(tmp_path / "foreign.beton", [(image(number), 40, 30, labels[number]) for number in range(4)])
    data = {"train": str(file), "val": str(file)}
    tree = tiny_tree(tmp_path) | {"data": {"clean": data}, "batch": {"size": 4, "per_device": 4}, "evaluate": []}
    tree["curriculum"] = [{"data": "clean", "until_epoch": 2}]
    Path("recipe.yaml").write_text(json.dumps(tree))
    with pytest.raises(SystemExit) as left:
        main(["train", "-r", "recipe.yaml", "--device", "cpu", "--out", "run"])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(file)])
    shown = capsys.readouterr()
    if label == 10**6:
        assert left.value.code == 0
        assert "4 labels, up to 1000000: a model would have 1,000,001 classes, more than there are samples" in shown.out
    else:
        assert left.value.code == 2
        assert said in shown.err


def test_a_few_images_of_many_classes_are_trained_with_a_warning(
    tmp_path: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be the first of a large data set."""
    file = write_beton(tmp_path / "few.beton", [(image(number), 40, 30, 100 * number) for number in range(4)])
    tree = tiny_tree(tmp_path) | {
        "data": {"clean": {"train": str(file)}},
        "batch": {"size": 4, "per_device": 4},
        "evaluate": [],
    }
    tree["curriculum"] = [{"data": "clean", "until_epoch": 1}]
    Path("recipe.yaml").write_text(json.dumps(tree | {"schedule": {"warmup_epochs": 0}}))
    datasets = open_datasets(load_recipe(Path("recipe.yaml")))
    assert len(datasets.classes) == 301
    assert "has 4 images and labels up to 300: the model gets 301 classes, and most of them no image" in caplog.text


def test_a_label_that_the_manifest_does_not_name_is_refused(betons: Path) -> None:
    for suffix in (".beton", ".json", ".items.jsonl"):
        shutil.copy(betons / f"val-source{suffix}", f"val{suffix}")
    manifest = json.loads(Path("val.json").read_text())
    Path("val.json").write_text(json.dumps(manifest | {"classes": manifest["classes"][:2]}))
    for read in (open_dataset, inspect_beton):
        with pytest.raises(BetonError, match=r"val\.beton has the label 3, but its manifest names 2 classes"):
            read(Path("val.beton"))


def test_batches_that_no_memory_holds_are_refused_before_they_are_made(
    betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = EpochSampler.of(Variant(Beton(betons / "val-source.beton")), ImageSection(size=4096), batch=1 << 20)
    monkeypatch.setattr("jpegcurr.training.data.loaders.available_memory", lambda: 1 << 30)
    with pytest.raises(RecipeError, match=r"3 batches of 16 images of 4096 x 4096 pixels take 2\.4 GB, and 1\.1 GB of memory"):
        open_loader("plain", sampler, cpu)


def test_large_crops_are_classified_a_few_at_a_time() -> None:
    assert [images_at_once(size, 64) for size in (32, 224, 1024, 2048, 4096)] == [64, 64, 64, 16, 4]
