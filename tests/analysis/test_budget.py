"""The search for a quality within a loss of accuracy, and the bytes that it counts."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from evaluation_samples import simulated

import jpegcurr
from jpegcurr.analysis.evaluation.budget import Budget, check_options, search
from jpegcurr.analysis.evaluation.budget_outputs import (
    budget_curve,
    explain_order,
    explain_stop,
    quality_table,
    state_result,
    summary_table,
    write_budgets,
)
from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes
from jpegcurr.analysis.evaluation.tables import describe_bytes
from jpegcurr.cli import main
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime

IMAGES = 1000
SIZES = {"source": 100_000, 95: 80_000, 90: 60_000, 75: 40_000, 50: 25_000, 10: 9_000}


def planted(flips: Sequence[tuple[int, int, int]], *, run: str = "run", images: int = IMAGES, within: float = 1.0) -> Budget:
    """Return the search through qualities with these numbers of images lost and gained; 80 % are right at source."""
    right = np.arange(images) < 0.8 * images
    line = [(simulated(right.tolist(), [0] * images, run=run), "source")]
    for quality, lost, gained in flips:
        changed = right.copy()
        changed[:lost] = False
        changed[images - gained :] = True
        line.append((simulated(changed.tolist(), [0] * images, run=run, tested=quality, at_load=f"quality {quality}"), quality))
    counted = [replace(one, jpegs=JpegBytes(images, SIZES[name] * images, 200_000 * images)) for one, name in line]
    return search(counted, within=within, level=0.05)


def test_the_lowest_quality_before_the_first_that_is_not_shown_is_chosen() -> None:
    budget = planted([(95, 0, 0), (90, 4, 3), (75, 12, 2), (50, 1, 1), (10, 90, 2)])
    assert [test.verdict for test in budget.tests] == ["shown", "shown", "not shown", "not tested", "not tested"]
    assert budget.chosen is budget.tests[1]
    assert state_result(budget) == (
        "Quality 90 is the lowest that is shown to lose less than 1 point of top-1 against source. The 1,000 images take "
        "60.0 MB in place of 100.0 MB: 40.0% less."
    )
    assert "50 would be shown alone, but counts for nothing" in explain_order(budget)
    row = budget.as_dict()["qualities"][1]
    assert (row["quality"], row["loss"], row["lost"], row["gained"], row["share"]) == (90, 0.1, 4, 3, 0.6)
    assert row["low"] < row["loss"] < row["bound"] < 1.0 < row["high"] + 1
    assert (row["bytes"], row["bytes_per_image"], row["bits_per_pixel"]) == (60_000_000, 60_000, 2.4)
    assert quality_table(budget)[1][2] == ["90", "shown", "60.00", "60.0%", "79.90", "-0.10", f"{row['bound']:.2f}", "4", "3"]


@pytest.mark.parametrize(
    ("flips", "within", "images", "sentence"),
    [
        (
            [(95, 5, 2)],
            0.5,
            1000,
            r"lost 0\.3 points; that .* below 0\.5 points cannot be told with 1,000 images\. It would take",
        ),
        (
            [(95, 0, 0)],
            0.5,
            100,
            r"cannot be told with 100 images\. 599 is the least, even if no .* about 599 .*, if none of them changes",
        ),
        ([(95, 20, 23)], 0.5, 1000, r"gained 0\.3 points; that .* below 0\.5 points cannot be told"),
        ([(95, 12, 2)], 1.0, 1000, r"lost 1 point, no less than 1 point, though .* no number of images shows less"),
        ([(95, 60, 2)], 1.0, 1000, r"lost 5\.8 points \(95 % 4\.\d+ to 7\.\d+\), which is more than 1 point\."),
        ([(95, 0, 0), (90, 0, 9)], 1.0, 1000, r"All qualities down to 90 are shown; try lower ones"),
        ([(95, 1, 0)], 50.0, 1, r"cannot be told|no less than"),
    ],
    ids=["flips", "set too small", "gained", "loss is the margin", "more", "all shown", "one image"],
)
def test_why_a_search_ends_is_a_sentence(flips: list[tuple[int, int, int]], within: float, images: int, sentence: str) -> None:
    assert re.search(sentence, explain_stop(planted(flips, within=within, images=images)))


def test_without_a_choice_nothing_is_claimed_and_a_choice_may_save_nothing() -> None:
    none = planted([(95, 30, 0), (90, 0, 0)])
    assert none.chosen is None
    assert state_result(none) == "No quality is shown to lose less than 1 point of top-1 against source."
    assert (none.as_dict()["chosen"], none.as_dict()["bytes_saved"]) == (None, None)
    larger = replace(none, reference_jpegs=JpegBytes(IMAGES, 50_000 * IMAGES, 1), tests=planted([(95, 0, 0)]).tests)
    assert state_result(larger).endswith("It saves nothing: the 1,000 images take 80.0 MB in place of 50.0 MB.")


def test_several_models_have_a_row_each_a_csv_and_a_plot_with_margins() -> None:
    budgets = [planted([(95, 0, 0), (50, 2, 1)], run="a"), planted([(95, 30, 0), (50, 90, 0)], run="b")]
    columns, rows = summary_table(budgets)
    assert [row[:2] for row in rows] == [["a", "50"], ["b", "none"]]
    assert {len(row) for row in rows} == {len(columns)}
    write_budgets(Path("b.csv"), budgets)
    cells = read_rows("b.csv")
    assert [(cell["run"], cell["quality"], cell["verdict"], cell["chosen"]) for cell in cells] == [
        ("a", "source", "reference", "False"),
        ("a", "95", "shown", "False"),
        ("a", "50", "shown", "True"),
        ("b", "source", "reference", "False"),
        ("b", "95", "not shown", "False"),
        ("b", "50", "not tested", "False"),
    ]
    assert [cell["bytes"] for cell in cells[:3]] == ["100000000", "80000000", "25000000"]
    svg = budget_curve(budgets)
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert "a: quality 50" in texts
    assert not any(str(text).startswith("b: quality") for text in texts)
    assert texts.count("95") == 1, "points are named once, because both models have the same bytes"
    assert "a: source less 1 point: " in svg


def test_other_images_at_another_quality_are_no_pair() -> None:
    budget = planted([(95, 0, 0)])
    other = replace(budget.tests[0].evaluation, keys="others")
    with pytest.raises(UsageError, match="did not give the same images"):
        search([budget.reference, other], within=1, level=0.05)


def test_qualities_are_tested_from_the_highest_down_however_they_are_given() -> None:
    assert check_options([50, "source", 90, 75, 90], "source", 0.5, 0.05) == [90, 75, 50]
    assert check_options(None, 60, 0.5, 0.05) == [50, 40, 30, 20, 10]


def read_rows(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def call(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command))
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_bytes_are_those_that_encode_writes(betons: Path, photos: Path, trained: Path, cpu: Runtime) -> None:
    """Of samples as they are stored, encoded on the fly, and of files in folders."""
    stored, made = Beton(betons / "val-source.beton"), Beton(betons / "val-q50.beton")
    pixels = int((stored.widths.astype(int) * stored.heights).sum())
    whole, half = JpegBytes(16, int(stored.sizes.sum()), pixels), JpegBytes(16, int(made.sizes.sum()), pixels)
    for data in (betons / "val-source.beton", photos / "val"):
        done: list[tuple[int, int]] = []
        results = jpegcurr.evaluate(
            trained, data, ["source", 50], runtime=cpu, byte_progress=lambda *count, done=done: done.append(count)
        )
        assert [result.jpegs for result in results] == [whole, half]
        assert done[-1:] == ([(16, 16)] if data.suffix else [])
    assert [result.jpegs for result in jpegcurr.evaluate(trained, betons / "val-q50.beton", runtime=cpu)] == [half]
    (resized,) = jpegcurr.evaluate(trained, betons / "val-source.beton", [50], runtime=cpu, stage="after_resize")
    assert resized.jpegs is None
    assert "bytes" not in resized.as_dict()


def test_images_that_cannot_be_read_are_not_counted(photos: Path, trained: Path, cpu: Runtime) -> None:
    shutil.copytree(photos / "val", "val")
    (whole,) = jpegcurr.evaluate(trained, "val", ["source"], runtime=cpu)
    broken = sorted(Path("val").rglob("*.jpg"))[3]
    size = broken.stat().st_size
    broken.write_bytes(broken.read_bytes()[:200])
    (rest,) = jpegcurr.evaluate(trained, "val", ["source"], runtime=cpu)
    assert whole.jpegs is not None
    assert rest.jpegs is not None
    assert (rest.jpegs.images, rest.jpegs.total) == (15, whole.jpegs.total - size)


def test_the_command_prints_a_table_and_writes_what_it_is_asked_for(
    betons: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"--data {betons / 'val-source.beton'} --device cpu -q"
    code, out, err = call(capsys, f"budget {trained} {data} --qualities 50,90 --within 30 --csv b.csv --plot b.svg")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[2:5]] == ["source", "90", "50"]
    assert "on the same images, from the highest quality down until one is not shown" in out
    assert "Bytes: samples as they are stored; at a quality, JPEGs of whole images as encode writes them" in out
    assert [row["quality"] for row in read_rows("b.csv")] == ["source", "90", "50"]
    ElementTree.parse("b.svg")  # noqa: S314
    code, out, _ = call(capsys, f"budget {trained} {data} --qualities 90 --against 95 --within 0.5 --json")
    (values,) = json.loads(out)
    assert (code, values["against"], values["chosen"], values["images"]) == (0, 95, None, 16)
    assert values["qualities"][0]["images_needed"] >= 599


def test_evaluate_draws_accuracy_over_bytes_and_lists_them(
    betons: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"{betons / 'val-source.beton'} --qualities source,50 --device cpu -q"
    code, out, _ = call(capsys, f"evaluate {trained} --data {data} --plot e.svg --axis bytes --csv e.csv")
    assert code == 0
    assert "kB/image" in out
    svg = Path("e.svg").read_text(encoding="utf-8")
    mean = float(read_rows("e.csv")[1]["bytes_per_image"]) / 1e3
    assert f"50, {mean:.4g}: " in svg
    assert "kB an image" in svg


def test_what_is_counted_is_said() -> None:
    plain = simulated([True], [0])
    assert describe_bytes([plain]) == ""
    counted: list[Evaluation] = [replace(plain, data=Path("photos"), jpegs=JpegBytes(1, 1, 1))]
    assert describe_bytes(counted) == "Bytes: files as they are."
