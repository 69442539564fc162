"""The list of fields, and the words of other programs for them: both agree with the schema."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from samples import tiny_tree

from jpegcurr.cli.app import app
from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.recipe import other_words
from jpegcurr.recipe.fields import all_fields, explain_word, find_fields, section_meanings
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe

TABLES = {"anywhere": other_words.ANYWHERE, "phase": other_words.IN_PHASE, "data": other_words.IN_DATA}
PLACES = {field.place for field in all_fields()}
SECTIONS = set(Recipe.model_fields)


def test_every_field_is_listed_with_its_default_and_meaning(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    assert {field.section for field in all_fields()} == SECTIONS
    for name, section in Recipe.model_fields.items():
        value = section.get_default()
        inner = getattr(type(value), "model_fields", None)
        assert {f"{name}.{key}" for key in inner or ()} <= PLACES
    for field in all_fields():
        assert len(field.meaning) > 7, field.place
        assert field.values, field.place
        if (
            not field.required
            and not {"NAME", "N"} & set(field.place.split("."))
            and not re.search(r"decay\.|^targets\.", field.place)
        ):
            text = f"{field.place}={field.default_text}"
            load_recipe(path, ["curriculum.1.until_epoch=40", text])
    lr = next(field for field in all_fields() if field.place == "schedule.lr")
    assert (lr.default_text, lr.values, lr.bounds["exclusiveMinimum"]) == ("0.004", "number above 0", 0)
    assert set(section_meanings()) < SECTIONS


def places_of(clause: str) -> Iterator[str]:
    """Yield the dotted places that a sentence names, and the options of train."""
    yield from re.findall(r"\b(?:" + "|".join(SECTIONS) + r")\.[\w.]*\w", clause)
    yield from re.findall(r"--[a-z-]+", clause)


@pytest.mark.parametrize("table", TABLES)
def test_the_places_that_the_words_lead_to_are_there(table: str) -> None:
    options = {option for parameter in typer.main.get_command(app).commands["train"].params for option in parameter.opts}
    words: list[str] = []
    for clause, line in TABLES[table].items():
        named = list(places_of(clause))
        assert named or set(re.findall(r"\w+", clause)) & SECTIONS, clause
        assert set(named) <= PLACES | options, clause
        words += line.split()
    assert len(words) == len(set(words)), "a word stands once in a table"
    assert all(re.fullmatch(r"[a-z0-9_]+", word) for word in words)
    assert not SECTIONS & set(words) or table != "anywhere" or SECTIONS & set(words) == {"model"}


def test_what_a_section_takes_is_there() -> None:
    assert set(other_words.OF_SECTION) <= SECTIONS
    for clause in other_words.OF_SECTION.values():
        assert set(places_of(clause.replace("curriculum.0", "curriculum.N"))) <= PLACES, clause


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1e-3", "lr: unknown key: the learning rate is schedule.lr"),
        ("learning-rate=1", "learning-rate: unknown key: the learning rate is schedule.lr"),
        ("epochs=3", "epochs: unknown key: the number of epochs is curriculum.N.until_epoch of the last phase"),
        ("batch_size=64", "batch_size: unknown key: the images of an optimiser step are batch.size, over all devices"),
        ("weight_decay=0", "weight_decay: unknown key: weight decay is optim.weight_decay"),
        ("model=resnet50", "model: is a map of fields: the network is model.name"),
        ("batch=64", "batch: is a map of fields: the images of an optimiser step are batch.size"),
        ("dataset=x", "dataset: unknown key: data sets are named in data, with their files: data.NAME.train and"),
        ("img_size=224", "img_size: unknown key: the side of the images is image.size"),
        ("opt=sgd", "opt: unknown key: the optimiser is optim.name"),
        ("optim.lr=1", "optim.lr: unknown key: the learning rate is schedule.lr"),
        ("optimizer.lr=1", "optimizer: unknown key: the learning rate is schedule.lr"),
        ("optimizer.name=sgd", "optimizer: unknown key. Did you mean 'optim'?"),
        ("trainer.max_epochs=3", "trainer: unknown key: the number of epochs is curriculum.N.until_epoch of"),
        ("curriculum.1.epochs=3", "curriculum.1.epochs: unknown key: a phase ends before curriculum.1.until_epoch"),
        ("data.clean.path=x", "data.clean.path: unknown key: the file with the training images is data.clean.train"),
        ("augment.cutmix=1", "augment.cutmix: unknown key: cutmix is mix.cutmix"),
        ("device=cuda", "device: unknown key: the device is an option, --device"),
        ("curriculum=3", "curriculum: is a list: each phase has its data and until_epoch"),
        ("schedule.lrr=1", "schedule.lrr: unknown key. Did you mean 'lr'?"),
        ("xyzzy=1", "xyzzy: unknown key."),
        ("tracking=tensorbord", "tracking: is 'tensorbord' and should be 'tensorboard' or 'wandb'"),
    ],
)
def test_a_word_of_another_program_is_told_its_place(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    with pytest.raises(RecipeError, match=re.escape(f"\n  {message}")):
        load_recipe(path, [override])


def test_in_a_file_the_line_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path)) + "wd: 0.1\n")
    last = len(path.read_text().splitlines())
    with pytest.raises(RecipeError, match=rf"line {last}: wd: unknown key: weight decay is optim\.weight_decay"):
        load_recipe(path)


def test_fields_are_narrowed_by_section_place_and_name() -> None:
    assert {field.section for field in find_fields("optim")} == {"optim"}
    assert [field.place for field in find_fields("curriculum.3.lr")] == ["curriculum.N.lr"]
    assert [field.place for field in find_fields("data.clean.val")] == ["data.NAME.val"]
    assert [field.place for field in find_fields("lr")] == ["curriculum.N.lr", "schedule.lr"]
    with pytest.raises(UsageError, match=r"no section or field 'learning_rate': the learning rate is schedule\.lr\."):
        find_fields("learning_rate")
    with pytest.raises(UsageError, match="Did you mean 'optim'"):
        find_fields("optm")
    assert explain_word(["nothing_of_it"]) == ""


def test_trackers_may_be_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    recipe = load_recipe(path, ["tracking=wandb"])
    assert recipe.tracking == ("wandb",)
    assert recipe.tracked_by(["tensorboard", "wandb"]).tracking == ("wandb", "tensorboard")
    assert load_recipe(path, ["tracking=tensorboard, wandb"]).tracking == ("tensorboard", "wandb")
    assert recipe.tracked_by([]) == recipe
