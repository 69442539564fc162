"""The public API as the package's docstring shows it."""

from pathlib import Path
from textwrap import dedent

import pytest
from samples import tiny_recipe

import jpegcurr
from jpegcurr.recipe.loading import dump_recipe


def test_the_example_in_the_docstring_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run it on the photographs, with a tiny recipe in place of the shipped one."""
    Path("data").mkdir()
    Path("data/imagenet").symlink_to(photos)
    Path("recipes").mkdir()
    Path("recipes/two_phase.yaml").write_text(dump_recipe(tiny_recipe(Path("betons"), Path())))
    doc = jpegcurr.__doc__ or ""
    lines = [line for line in doc.splitlines() if line.startswith("    ") or not line]
    exec(compile(dedent("\n".join(lines)), "docstring", "exec"), {})  # noqa: S102
    assert "'quality': 50" in capsys.readouterr().out
    assert Path("report.html").is_file()
