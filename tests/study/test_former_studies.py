"""Studies of earlier versions: their recipes lack newer fields, and stand for what those versions did."""

import json
from pathlib import Path

import pytest
from samples import tiny_tree
from studies import write_study

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.study.config import Study, load_study
from jpegcurr.study.folder import check_folder, write_design
from jpegcurr.study.fork import share_trunks


@pytest.mark.parametrize(("optim", "name"), [({}, "trunk-91241c07"), ({"layer_decay": 0.5}, "trunk-45f7e7f9")])
def test_a_trunk_of_an_earlier_version_keeps_its_name(optim: dict[str, object], name: str) -> None:
    """So that a study that goes on finds it. Another treatment of the same recipe is another trunk."""
    former = {**optim, "layer_ids": "contiguous"} if optim else {}
    tree = tiny_tree(Path("betons"))
    tree["image"] = {**tree["image"], "val_resize": "box"}
    arms = [{"data": "clean", "until_epoch": 2}, {"data": "clean", "until_epoch": 4}], tree["curriculum"]

    def trunk(section: dict[str, object], val_resize: str = "box") -> str:
        image = {**tree["image"], "val_resize": val_resize}
        recipes = {
            str(number): Recipe.model_validate(tree | {"optim": section, "image": image, "curriculum": phases})
            for number, phases in enumerate(arms)
        }
        (trunk,) = share_trunks(recipes, "0", 2)
        return trunk.name

    assert trunk(former) == name
    assert trunk(former, "shorter_side") != name
    if optim:
        assert trunk(optim) != name


def test_arms_of_a_study_keep_what_they_were_trained_with(betons: Path) -> None:
    out = Path("out")

    def study(**optim: object) -> Study:
        return load_study(write_study(betons, seeds=[0], base={"optim": {"layer_decay": 0.5, **optim}}))

    write_design(study(layer_ids="contiguous"), out)
    design = json.loads((out / "study.json").read_text())
    for recipe in design["design"]["arms"].values():
        del recipe["optim"]["layer_ids"]
    (out / "study.json").write_text(json.dumps(design))
    (out / "runs/clean/seed-0").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"arms\.clean: it has runs .*\n  optim\.layer_ids was contiguous, is authors"):
        check_folder(study(), out)
    check_folder(study(layer_ids="contiguous"), out)
