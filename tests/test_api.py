"""The public API as the package's docstring shows it."""

import json
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from samples import tiny_recipe

import jpegcurr
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.training.data.loaders import choose_kind


@pytest.fixture
def _no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every import of FFCV fail, as if it were not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv" or ".ffcv_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


@pytest.mark.usefixtures("_no_ffcv")
def test_the_example_in_the_docstring_runs_without_ffcv(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encode, train, evaluate and explain photographs, with a tiny recipe in place of the shipped one."""
    Path("data").mkdir()
    Path("data/imagenet").symlink_to(photos)
    Path("recipes").mkdir()
    Path("recipes/two_phase.yaml").write_text(dump_recipe(tiny_recipe(Path("betons"), Path(), "loader.kind=auto")))
    doc = jpegcurr.__doc__ or ""
    lines = [line for line in doc.splitlines() if line.startswith("    ") or not line]
    exec(compile(dedent("\n".join(lines)), "docstring", "exec"), {})  # noqa: S102
    assert "'quality': 50" in capsys.readouterr().out
    assert Path("report.html").is_file()
    (run,) = Path().glob("**/run.json")
    assert json.loads(run.read_text(encoding="utf-8"))["loader"] == choose_kind("auto")[0]
    assert not [name for name in sys.modules if name.startswith("ffcv.") or ".ffcv_" in name]
