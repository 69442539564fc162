"""Recipes: loading, overrides, errors, and the shipped ones."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from samples import tiny_recipe, tiny_tree

from jpegcurr.errors import RecipeError, warn_renamed
from jpegcurr.recipe.loading import add_line_number, dump_recipe, find_recipe, load_recipe, load_resolved
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.training.augment.policies import parse_policy
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.models.create import create_model
from jpegcurr.training.optim import parameter_groups

SHIPPED = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.yaml"))
README = (SHIPPED[0].parent / "README.md").read_text()
SIZES = ("tiny", "small", "base", "large", "xlarge")


def shipped(name: str) -> Recipe:
    return load_recipe(find_recipe(Path(f"{name}.yaml")))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_stands_in_the_table_once(path: Path) -> None:
    rows = [row for row in README.splitlines() if row.startswith("| `")]
    assert sum(row.split("|")[1].count(f"`{path.stem}`") for row in rows) == 1


def test_the_table_names_only_shipped_recipes_and_their_epochs() -> None:
    for row in README.splitlines():
        if row.startswith("| `"):
            _, names, _, length, *_ = row.split("|")
            for name in re.findall("`(.*?)`", names):
                assert shipped(name).epochs == int(length.split(",")[0]), name


def test_the_examples_of_the_readme_are_recipes() -> None:
    whole, *fragments = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert set(whole) == set(Recipe.model_fields), "the complete example has every section"
    unused = ("any", "worse", "harsh")
    for number, tree in enumerate([whole, *({**whole, **fragment} for fragment in fragments)]):
        path = Path(f"{number}.yaml")
        phases = [{"data": name, "until_epoch": 160 + 10 * place} for place, name in enumerate(unused) if name in tree["data"]]
        path.write_text(yaml.safe_dump({**tree, "curriculum": [*tree["curriculum"], *phases]}, sort_keys=False))
        recipe = load_recipe(path)
        assert [plan.epoch for plan in plan_epochs(recipe)] == list(range(recipe.epochs))


def differing(name: str, other: str) -> set[str]:
    """Return the sections, or single values, in which two shipped recipes differ."""
    first, second = shipped(name).model_dump(), shipped(other).model_dump()
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_can_be_run(path: Path) -> None:
    """Its bare name is enough, its model and policy exist, and its first lines explain it."""
    assert find_recipe(Path(path.name)).read_text() == path.read_text()
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = create_model(recipe.model, 10, start=False)
    assert sum(group["lr_scale"] > 0 for group in parameter_groups(model, recipe.optim)) >= 1
    assert len(plan_epochs(recipe)) == recipe.epochs
    for policy in {plan.augment.policy for plan in plan_epochs(recipe)} - {None}:
        parse_policy(policy)
    comment = path.read_text().partition("model:")[0]
    if path.name != "demo.yaml":
        assert re.search("Published|published result", comment)
        assert re.search(r"Costs [\d.]+ (m|b)illion images seen", comment)


# The authors' TRAINING.md, README and tables 5 and 6: last drop path, and top-1 (22k: after fine-tuning at 224 pixels).
@pytest.mark.parametrize(
    ("name", "drop_paths", "top1s"),
    [
        ("convnext_{}", (0.1, 0.4, 0.5, 0.5), (82.1, 83.1, 83.8, 84.3)),
        ("convnext_{}_22k", (0.0, 0.0, 0.1, 0.1, 0.2), (82.9, 84.6, 85.8, 86.6, 87.0)),
        ("convnext_{}_22k_to_1k", (0.0, 0.1, 0.2, 0.3, 0.4), (82.9, 84.6, 85.8, 86.6, 87.0)),
        ("convnext_{}_22k_to_1k_384", (0.0, 0.1, 0.2, 0.3, 0.4), (84.1, 85.8, 86.8, 87.5, 87.8)),
        ("convnext_{}_1k_384", (None, None, 0.8, 0.95), (None, None, 85.1, 85.5)),
        ("convnext_isotropic_{}", (None, 0.1, 0.2, 0.5), (None, 78.7, 82.0, 82.6)),
    ],
)
def test_each_size_has_its_published_drop_path_and_result(
    name: str, drop_paths: tuple[float | None, ...], top1s: tuple[float | None, ...]
) -> None:
    for size, drop_path, top1 in zip(SIZES, drop_paths, top1s, strict=False):
        if drop_path is not None:
            path = find_recipe(Path(f"{name.format(size)}.yaml"))
            assert load_recipe(path).model.drop_path == drop_path
            assert f"# Published: {top1} % top-1" in path.read_text()
            assert shipped(name.format(size)).model.name.partition(".")[0] == name.partition("{")[0] + size


@pytest.mark.parametrize(
    ("name", "other", "sections"),
    [
        *[(f"convnext_{size}_22k", "convnext_tiny_22k", {"model"}) for size in SIZES[1:]],
        *[(f"convnext_{size}_22k_to_1k", "convnext_tiny_22k_to_1k", {"model"}) for size in SIZES[1:4]],
        ("convnext_xlarge_22k_to_1k", "convnext_tiny_22k_to_1k", {"model", "ema"}),
        *[(f"convnext_{size}", "convnext_tiny", {"model"}) for size in SIZES[1:3]],
        ("convnext_large", "convnext_tiny", {"model", "mix"}),
        ("two_phase_original", "two_phase", {"mix", "batch"}),
        *[(f"convnext_{size}_22k_to_1k_384", f"convnext_{size}_22k_to_1k", {"image", "batch"}) for size in SIZES],
        *[(f"convnext_{size}_1k_384", f"convnext_{size}_22k_to_1k_384", {"model", "optim"}) for size in ("base", "large")],
        ("convnext_isotropic_small", "convnext_tiny", {"model", "schedule"}),
        ("roadmap", "convnext_tiny", {"model", "ema"}),
        ("convnext_isotropic_base", "convnext_isotropic_small", {"model"}),
        ("convnext_isotropic_large", "convnext_isotropic_small", {"model", "mix", "batch"}),
        ("convnext_tiny_22k", "convnext_tiny", {"model", "data", "curriculum", "evaluate", "mix", "schedule", "ema"}),
    ],
)
def test_recipes_of_a_family_differ_only_where_they_should(name: str, other: str, sections: set[str]) -> None:
    assert differing(name, other) == sections


def test_recipes_keep_an_average_where_the_published_command_does() -> None:
    """The authors' TRAINING.md, ``--model_ema``: from scratch on ImageNet-1k, and in the fine-tuning of XL alone."""
    averaged = {path.stem for path in SHIPPED if load_recipe(path).ema is not None and path.stem.startswith("convnext")}
    scratch = {f"convnext_{size}" for size in SIZES[:4]} | {f"convnext_isotropic_{size}" for size in SIZES[1:4]}
    assert averaged == scratch | {"convnext_xlarge_22k_to_1k", "convnext_xlarge_22k_to_1k_384"}
    for name in averaged:
        section = shipped(name).ema
        assert section is not None
        assert section.per_step(312) == 0.9999


def test_images_are_mixed_in_chunks_of_the_published_batch_of_a_gpu() -> None:
    """``--batch_size`` of the authors' TRAINING.md; the student's 184 in one process (README of ConvNext-main)."""
    expected = {"tiny": 128, "small": 128, "base": 128, "large": 64, "isotropic_small": 128, "isotropic_large": 64}
    expected |= {f"{size}_22k": 32 for size in SIZES}
    chunks = {f"convnext_{size}": chunk for size, chunk in expected.items()} | {"two_phase_original": 184}
    for name, chunk in chunks.items():
        recipe = shipped(name)
        assert recipe.mix.chunk == chunk, name
        assert recipe.micro() % chunk == 0, "no chunk is cut short"


def test_the_original_experiment_has_its_own_steps_and_its_average_forgets_the_first_phase() -> None:
    """``two_phase`` differs, and says so: its average keeps 21 % of its weight from before the swap."""
    kept = {}
    for name in ("two_phase_original", "two_phase"):
        recipe, images = shipped(name), 1_281_167
        steps = [images // plan.batch for plan in plan_epochs(recipe)]
        assert recipe.ema is not None
        kept[name] = (sum(steps), recipe.ema.per_step(steps[-1]) ** sum(steps[100:]))
    assert kept["two_phase_original"] == (261_000, pytest.approx(0.0002, abs=5e-5))
    assert kept["two_phase"] == (46_800, pytest.approx(0.21, abs=5e-3))
    text = find_recipe(Path("two_phase.yaml")).read_text()
    for fact in ("two_phase_original.yaml", "46,800", "261,000", "21 %", "0.02 %", "736"):
        assert fact in text


@pytest.mark.parametrize(
    ("overrides", "epochs", "last"),
    [(["curriculum.1.data=clean"], 150, "clean"), (["curriculum.1.until_epoch=200"], 200, "q50")],
)
def test_the_changes_that_the_original_names_are_recipes(overrides: list[str], epochs: int, last: str) -> None:
    path = find_recipe(Path("two_phase_original.yaml"))
    assert f"--set {overrides[0]}\n" in path.read_text()
    plans = plan_epochs(load_recipe(path, overrides))
    assert (len(plans), plans[99].data, plans[-1].data) == (epochs, "clean", last)


def test_weights_that_recipes_start_from_are_timms() -> None:
    started = {load_recipe(path).model.name for path in SHIPPED if load_recipe(path).model.pretrained}
    assert len(started) == 5 + 2 + 1
    assert not [name for name in started if not timm.models.is_model_pretrained(name)]


def test_stages_of_training_are_the_authors() -> None:
    expected = {
        "convnext_base_22k": (90, 5, 4e-3, 4096, 0.05, None, 224),
        "convnext_base_22k_to_1k_384": (30, 0, 5e-5, 512, 1e-8, 0.8, 384),
        "convnext_base_1k_384": (30, 0, 5e-5, 512, 1e-8, 0.7, 384),
        "convnext_isotropic_base": (300, 50, 4e-3, 4096, 0.05, None, 224),
    }
    for name, settings in expected.items():
        recipe = shipped(name)
        schedule, optim = recipe.schedule, recipe.optim
        rates = (schedule.warmup_epochs, schedule.lr, recipe.batch.size, optim.weight_decay, optim.layer_decay)
        assert (recipe.epochs, *rates, recipe.image.size) == settings, name


def test_resnets_are_trained_as_published() -> None:
    """arXiv 2110.00476, table 2; pytorch/vision#3995 and its ``references/classification/train.py``."""
    theirs, timms = shipped("resnet50_torchvision"), shipped("resnet50_a1")
    images, batch, every = 1_281_167, 1024, 32
    assert theirs.ema is not None
    assert timms.ema is None
    assert theirs.ema.per_step(images // batch) ** every == pytest.approx(1 - (1 - 0.99998) * batch * every / 600, abs=5e-6)
    assert (theirs.epochs, theirs.batch.size, theirs.batch.repeats, theirs.schedule.lr) == (600, batch, 4, 0.5)
    assert theirs.image.val_crop == pytest.approx(224 / 232, abs=1e-4)
    assert {plan.size for plan in plan_epochs(theirs)} == {176}
    assert (theirs.augment.policy, theirs.augment.erase, theirs.augment.erase_fill) == ("trivial", 0.1, "const")
    assert (timms.epochs, timms.batch.size, timms.batch.repeats, timms.schedule.lr) == (600, 2048, 3, 5e-3)
    assert (timms.optim.name, timms.optim.loss, timms.optim.weight_decay, timms.model.drop_path) == ("lamb", "bce", 0.01, 0.05)
    assert (timms.mix.mixup, theirs.mix.mixup, timms.mix.cutmix, theirs.mix.cutmix) == (0.2, 0.2, 1, 1)
    assert timms.schedule.lr * timms.schedule.start_factor == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("two_phase", "restart_only"),
        ("two_phase_whole", "clean_only"),
        ("mixture", "clean_only"),
        ("two_phase", "reversed"),
        ("restart_only", "two_phase"),
    ],
)
def test_a_recipe_differs_from_its_control_in_the_curriculum_alone(name: str, control: str) -> None:
    assert differing(name, control) == {"curriculum"}
    assert shipped(name).epochs == shipped(control).epochs == 150


def test_the_original_differs_from_one_cosine_in_the_horizon_alone() -> None:
    assert differing("two_phase", "two_phase_whole") == {"schedule"}


def test_the_mixture_shows_as_many_images_of_quality_50() -> None:
    shares = {}
    for name in ("two_phase_whole", "mixture"):
        plans = plan_epochs(shipped(name))
        shares[name] = sum(dict(plan.shares).get("q50", 0.0) for plan in plans)
    assert shares["mixture"] == pytest.approx(shares["two_phase_whole"]) == 50


def test_a_file_in_the_current_folder_comes_before_a_shipped_recipe() -> None:
    Path("demo.yaml").write_text("mine")
    assert find_recipe(Path("demo.yaml")) == find_recipe("demo") == Path("demo.yaml")


def test_a_shipped_recipe_is_loaded_by_its_bare_name() -> None:
    Path("small_data").mkdir()  # a folder is no recipe
    for name in ("small_data", "small_data.yaml", Path("small_data.yaml")):
        assert load_recipe(name, "seed=7") == load_recipe(name, ["seed=7"])
    with pytest.raises(RecipeError, match=r"^runs/small_data does not exist"):
        load_recipe("runs/small_data")


def test_a_recipe_is_found_with_and_without_its_suffix() -> None:
    shipped_file = find_recipe(Path("small_data"))
    assert (shipped_file.name, shipped_file) == ("small_data.yaml", find_recipe(Path("small_data.yaml")))
    Path("small_data").mkdir()
    assert find_recipe(Path("small_data")) == shipped_file, "a folder is no recipe"
    Path("small_data/mine.yml").write_text("mine")
    assert find_recipe(Path("small_data/mine")) == Path("small_data/mine.yml")
    assert find_recipe(Path("mine"), beside=Path("small_data")) == Path("small_data/mine.yml")
    Path("small_data.yaml").write_text("mine")
    assert find_recipe(Path("small_data")) == Path("small_data.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_fase.yaml", "Did you mean 'two_phase' or 'two_phase_whole'?"),
        ("smalldata", "Did you mean 'small_data'"),
        ("qqq", "`jpegcurr recipe --list` lists those."),
        ("x" * 300, "neither as a file nor as a shipped recipe"),
        ("run", "run is the folder of a run. Give the file of its recipe: run/recipe.yaml."),
    ],
)
def test_a_missing_recipe_is_an_error_that_names_the_nearest(name: str, message: str) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").touch()
    with pytest.raises(RecipeError, match=re.escape(message)):
        find_recipe(Path(name))


def test_the_resolved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tmp_path)
    Path("again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(Path("again.yaml")) == recipe
    assert "interpolation: bicubic" in dump_recipe(recipe), "defaults are included"


def test_overrides_are_yaml_and_reach_into_lists(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path, tmp_path, "schedule.lr=1e-3", "curriculum.1.until_epoch=9", "evaluate=[q50]", "optim.clip_grad=1"
    )
    assert (recipe.schedule.lr, recipe.epochs, recipe.evaluate, recipe.optim.clip_grad) == (1e-3, 9, ("q50",), 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.name=x", r"modle: unknown key\. Did you mean 'model'\?"),
        ("schedule.warmup_epoch=3", r"schedule\.warmup_epoch: unknown key\. Did you mean 'warmup_epochs'\?"),
        ("data.clean.trian=x", r"data\.clean\.trian: unknown key\. Did you mean 'train'\?"),
        ("curriculum.0.untill_epoch=3", r"curriculum\.0\.untill_epoch: unknown key\. Did you mean 'until_epoch'\?"),
        ("schedule.lr=fast", r"schedule\.lr: is 'fast' and should be a number$"),
        ("schedule.horizon=epoch", r"schedule\.horizon: is 'epoch' and should be 'phase' or 'whole'"),
        ("curriculum.1.until_epoch=2", r"curriculum\.1\.until_epoch 2 is not after epoch 2"),
        ("curriculum.1.data=q55", r"no data set 'q55'\. Did you mean 'q50'\? data has: clean, q50"),
        ("evaluate=[claen]", r"evaluate\.0: no data set 'claen'\. Did you mean 'clean'"),
        ("data.q50.val=null", r"evaluate\.1 is 'q50', but data\.q50\.val is not given"),
        ("data.q50.quality=500", r"\n  data\.q50\.quality: is 500 and should be at most 100, or 'source'$"),
        ("loader.workers=x", r"\n  loader\.workers: is 'x' and should be a whole number, or 'auto'$"),
        (
            "curriculum=[{data: [clean], until_epoch: 1}]",
            r":\n  curriculum\.0\.data: is a list and should be one value or a map$",
        ),
        ("curriculum=[{data: clean, until_epoch: 0}]", r":\n  curriculum\.0\.until_epoch: is 0 and should be at least 1$"),
        ("data.q50.train={beton: x, quality: [95, 30]}", r"\n  data\.q50\.train: quality \[95, 30\] is not a range"),
        ("data.q50.train={beton: x}", r"\n  data\.q50\.train\.quality: Field required$"),
        ("schedule.lr=.inf", r"\n  schedule\.lr: is inf and should be a finite number$"),
        ("curriculum.0.data={clean: .inf, q50: 1}", r"\n  curriculum\.0\.data\.clean: is inf and should be a finite number$"),
        ("curriculum=[{data: {q50: {start: 0, end: 1}, clean: 1}, until_epoch: 1}]", r"curriculum\.0 is one epoch long"),
        ("schedule={lr: 1e-9, warmup_epochs: 0}", r"schedule\.lr 1e-09 is less than schedule\.min_lr 1e-06"),
        ("curriculum.1.lr=1e-7", r"curriculum\.1\.lr 1e-07 is less than schedule\.min_lr"),
        ("schedule={decay: {every: 1}, horizon: phase}", r"horizon: phase is for the cosine"),
        ("batch.per_device=5", r"size 16 is not a multiple of (batch\.)?per_device 5"),
        ("schedule.warmup_epochs=4", r"warmup_epochs 4 leaves nothing of 4 epochs"),
        ("curriculum.7.data=q50", r"no field curriculum\.7\.data"),
        ("curriculum.x=1", r"no field curriculum\.x"),
        ("image.scale=[1.0,0.5]", r"image: scale \[1\.0, 0\.5\] is not two shares"),
        ("image.ratio=[0,1]", r"image: ratio \[0\.0, 1\.0\] is not two aspect ratios"),
        ("optim.betas=[0.9,1.5]", r"optim\.betas\.1"),
        ("seed", r"not of the form"),
        ("seed=[", r"not YAML"),
        ("seed=-1", r"seed"),
    ],
)
def test_a_mistake_is_reported_with_its_field_and_the_remedy(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(tmp_path, tmp_path, override)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(tmp_path, tmp_path, "seed=x", "image.size=1", "ema.decay=2")
    for field in ("seed", "image.size", "ema.decay"):
        assert field in str(caught.value)


def test_a_mistake_is_reported_with_its_line_unless_it_was_typed() -> None:
    text = """model: {name: convnext_atto}
data:
  clean: {train: a.beton}
  idle: {train: b.beton}
curriculum:
  - {data: clean, until_epoch: 10}
  - data: clean
    until_epoch: 5
schedule: {lr: -1, warmupp: 3}
"""
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"line 9: schedule\.lr: .*\n  line 9: schedule\.warmupp: unknown key"):
        load_recipe(Path("r.yaml"))
    with pytest.raises(RecipeError, match=r"\n  schedule\.lr: [^\n]*$"):
        load_recipe(Path("r.yaml"), ["schedule={lr: -2}"])
    with pytest.raises(RecipeError, match=r"\n  line 8: curriculum\.1\.until_epoch 5 is not after epoch 10$"):
        load_recipe(Path("r.yaml"), ["schedule={}"])
    with pytest.raises(RecipeError, match=r"\n  line 4: data\.idle is trained on in no phase and not in evaluate"):
        load_recipe(Path("r.yaml"), ["schedule={warmup_epochs: 0}", "curriculum.1.until_epoch=20"])


def test_a_later_error_about_a_field_gets_its_line_too() -> None:
    text = "model: {name: a}\ndata:\n  q50:\n    train: a.beton\n    val: b.beton\n"
    Path("r.yaml").write_text(text)
    wrong = "data.q50.val: b.beton has 3 classes, a.beton has 4."
    assert add_line_number(wrong, Path("r.yaml")) == f"r.yaml, line 5: {wrong}"
    assert add_line_number(wrong, Path("r.yaml"), ["data.q50.val=c.beton"]) == wrong
    assert add_line_number("c.beton is damaged.", Path("r.yaml")) == "c.beton is damaged."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nmodel: {name: a}\nseed: 2\n", r"(?s)seed occurs twice.*line 3"),
        ("batch: {size: 64, size: 32}\n", r"batch\.size occurs twice"),
        ("seed: &a [*a]\n", "is not YAML"),
    ],
)
def test_yaml_with_a_repeated_key_or_a_cycle_is_refused(text: str, message: str) -> None:
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(Path("r.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.betas=[0.9]", r"optim\.betas"),
        ("image.scale=[0.9]", r"image\.scale"),
        ("curriculum.1.batch=12", r"curriculum\.1\.batch 12 is not a multiple of batch\.per_device 8"),
        ("save.best=val/clean/top", r"save\.best: 'val/clean/top' is not measured\. Did you mean 'val/clean/top5'"),
        ("optim.bce_threshold=0.2", "bce_threshold does nothing with loss: cross_entropy"),
        ("image.val_crop=squeeze", r"image\.val_crop: .*'squash'"),
        (
            "image={interpolation: area, val_resize: squash}",
            "val_resize: squash needs bilinear or bicubic, not area: omit",
        ),
        ("batch.repeats=0", r"batch\.repeats: is 0 and should be at least 1$"),
    ],
)
def test_wrong_values_of_steps_repeats_and_checkpoints_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(tmp_path, tmp_path, override)


@pytest.mark.parametrize("text", ["", "just text", "[1, 2]", "a: [", "\udcff"])
def test_a_file_that_is_no_recipe_is_named_in_the_error(text: str) -> None:
    Path("r.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        load_recipe(Path("r.yaml"))


def test_the_error_about_an_unknown_model_names_the_nearest() -> None:
    tree = tiny_tree(Path())
    with pytest.raises(RecipeError, match=r"no model 'convnext_tinny'\. Did you mean 'convnext_tiny'"):
        create_model(Recipe.model_validate(tree | {"model": {"name": "convnext_tinny"}}).model, 10)


FORMER_STAGES = {"stored": "before_crop", "view": "after_resize"}


@pytest.mark.parametrize(("former", "stage"), FORMER_STAGES.items())
def test_the_former_names_of_the_stages_still_load_with_one_warning(
    tmp_path: Path, former: str, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_renamed.cache_clear()
    override = f"data.q50.train={{beton: x.beton, quality: 50, where: {former}}}"
    recipe = tiny_recipe(tmp_path, tmp_path, override)
    assert recipe.data["q50"].train == OnTheFlyJpeg(beton=Path("x.beton"), quality=50, stage=stage)
    assert f"stage: {stage}" in dump_recipe(recipe)
    tiny_recipe(tmp_path, tmp_path, override)
    assert caplog.messages == [f"where: {former} is now stage: {stage}; the next version will not know the old name"]


@pytest.mark.parametrize("wrong", ["where: stroed", "where: [view]", "where: view, stage: after_resize"])
def test_a_wrong_former_name_is_reported_with_its_line(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    text = f"""model: {{name: convnext_atto}}
data:
  clean:
    train:
      {{beton: a.beton, quality: 50,
       {wrong}}}
curriculum: [{{data: clean, until_epoch: 30}}]
"""
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml:\n  line 6: data\.clean\.train\.where: unknown key\."):
        load_recipe(Path("r.yaml"))
    assert not caplog.messages


@given(
    ends=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted),
    horizon=st.sampled_from(["phase", "whole"]),
)
def test_a_plan_covers_every_epoch_once_and_swaps_where_the_phases_end(ends: list[int], horizon: str) -> None:
    tree = tiny_tree(Path())
    names = ["clean", "q50"]
    phases = [{"data": names[number % 2], "until_epoch": end} for number, end in enumerate(ends)]
    schedule = {"warmup_epochs": 0, "horizon": horizon}
    recipe = Recipe.model_validate(tree | {"curriculum": phases, "schedule": schedule})
    plans = plan_epochs(recipe)
    assert [plan.epoch for plan in plans] == list(range(ends[-1]))
    for plan in plans:
        phase = next(number for number, end in enumerate(ends) if plan.epoch < end)
        expected_horizon = ends[phase] if horizon == "phase" else ends[-1]
        assert (plan.phase, plan.data, plan.horizon) == (phase, names[phase % 2], expected_horizon)


def test_editors_can_use_the_json_schema() -> None:
    schema = json.loads(json.dumps(Recipe.model_json_schema()))
    assert set(yaml.safe_load(SHIPPED[0].read_text())) <= set(schema["properties"])


def test_the_way_of_validation_is_written_out_and_a_recorded_recipe_without_it_is_older(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tmp_path)
    assert (recipe.image.val_resize, load_recipe(tmp_path / "tiny.yaml").image.val_resize) == ("shorter_side",) * 2
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert path.read_text().count("val_resize: shorter_side") == 1
    assert load_resolved(path) == recipe
    path.write_text(path.read_text().replace("  val_resize: shorter_side\n", ""))
    assert load_resolved(path).image == recipe.image.model_copy(update={"val_resize": "box"})
    assert load_recipe(path) == recipe, "a recipe that a user gives is of today"
    tree = yaml.safe_load(path.read_text())
    del tree["image"]  # by hand
    path.write_text(json.dumps(tree))
    assert load_resolved(path).image.val_resize == "box"


def test_area_validates_by_the_box_and_says_so(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tmp_path, "image.interpolation=area")
    assert "val_resize: box" in dump_recipe(recipe)
    remedies = (("image.val_resize=box",), ("image.interpolation=bicubic",))
    for remedy in remedies:  # both ways out of the error above
        tiny_recipe(tmp_path, tmp_path, "image={size: 32, interpolation: area}", *remedy)


def test_a_recipe_keeps_the_way_of_validation_that_it_names(tmp_path: Path) -> None:
    silent = tiny_recipe(tmp_path, tmp_path)
    assert silent.validating_by("box").image.val_resize == "box"
    assert silent.validating_by("box") == tiny_recipe(tmp_path, tmp_path, "image.val_resize=box")
    named = tiny_recipe(tmp_path, tmp_path, "image.val_resize=shorter_side")
    assert named.validating_by("box") == named
