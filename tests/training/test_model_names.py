"""Names of models, read without importing timm."""

import subprocess
import sys

import pytest
import timm
from timm.models import _registry as registry

import jpegcurr.training.models.isotropic
import jpegcurr.training.models.roadmap  # noqa: F401  (both register their models)
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.training.models.names import check_model, deprecated_names, model_names


def check(name: str) -> None:
    check_model(ModelSection(name=name), start=False)


def test_names_are_those_that_timm_has_and_ours() -> None:
    registered = {name: registry._model_entrypoints[name].__module__ for name in timm.list_models()}
    assert model_names() == {name for name, module in registered.items() if module.startswith(("timm.", "jpegcurr."))}
    assert len([name for name in model_names() if name.startswith("convnext_isotropic_")]) == 3
    assert len([name for name in model_names() if name.startswith("roadmap50_")]) == 25


def test_former_names_are_those_that_timm_still_accepts() -> None:
    assert deprecated_names() == set(registry._deprecated_models)
    check("convnext_tiny_in22k")


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_tiny.fb_in1k", "resnet50.no_such_tag", "convnext_isotropic_base"])
def test_a_name_with_or_without_a_tag_is_accepted_as_by_timm(name: str) -> None:
    assert timm.is_model(name)
    check(name)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"^model\.name: timm has no model 'convnext_tinny'\. Did you mean 'convnext_tiny'"):
        check("convnext_tinny")


def test_a_model_that_a_program_registers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError):
        check("my_network")
    monkeypatch.setitem(registry._model_entrypoints, "my_network", lambda: None)
    check("my_network")


def test_names_are_checked_without_timm() -> None:
    code = """
import sys
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.training.models.names import check_model
check_model(ModelSection(name="convnext_tiny.fb_in1k"), start=False)
print([name for name in ("torch", "timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
