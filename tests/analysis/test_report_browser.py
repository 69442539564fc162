"""The page in a browser: what is chosen is shown, drawn and kept in the address, and nothing else is asked for or run."""

import base64
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cam_samples import MARKUP, SCRIPT, cam_study, picture
from PIL import Image
from prediction_samples import planted_report
from samples import jpeg, photograph
from studies import write_study

import jpegcurr
from jpegcurr.analysis.cam.results import CamStudy, ClassRow, Example, ExamplePrediction
from jpegcurr.analysis.cam.similarity import by_class
from jpegcurr.analysis.prediction.page import write_page as write_predictions
from jpegcurr.analysis.prediction.report import PredictionReport
from jpegcurr.analysis.preview.results import Preview
from jpegcurr.analysis.report import images
from jpegcurr.analysis.report.html import render, write_report
from jpegcurr.analysis.report.images import LADDER, CompressionLevel, Picture
from jpegcurr.analysis.report.model import build_report
from jpegcurr.analysis.runs.board import write_board
from jpegcurr.analysis.runs.records import read_records
from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.study.compare import compare_arms
from jpegcurr.study.config import load_study
from jpegcurr.study.page import write_page
from jpegcurr.study.results import read_results

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome: apt install chromium")
MINUS = "\N{MINUS SIGN}"
DRAWN = "article:not([hidden])[data-drawn]"
SHARES = {"clean": 0.5, "swap": 0.6}  # of right answers, image by image the same and more


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which root cannot have
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--force-color-profile=srgb", "--disable-gpu", "--in-process-gpu", *sandbox]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """The tab that all tests use in turn: a new one is a new process, which takes longer than to load a page."""
    page = browser.new_context().new_page()
    page.set_default_timeout(20_000)
    return page


@pytest.fixture(scope="module")
def study() -> CamStudy:
    return cam_study()


@pytest.fixture(scope="module")
def file(study: CamStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(study, path)
    return path


@contextmanager
def watched(
    tab: Any, path: Path, address: str = "", *, width: int = 1440, height: int = 900, scheme: str = "light"
) -> Iterator[Any]:
    """The page in the tab; it must not ask for anything but itself, open a dialog, or say a word on the console."""
    heard: list[str] = []
    asked: list[str] = []
    listeners: dict[str, Callable[[Any], object]] = {
        "console": lambda message: heard.append(message.text),
        "pageerror": lambda error: heard.append(str(error)),
        "dialog": lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        "request": lambda request: asked.append(request.url.split("#")[0]),
    }
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(media="screen", color_scheme=scheme)
    tab.mouse.move(0, 0)
    for event, listener in listeners.items():
        tab.on(event, listener)
    try:
        tab.goto(path.as_uri() + address)
        yield tab
        assert heard == []
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    finally:
        for event, listener in listeners.items():
            tab.remove_listener(event, listener)
        tab.goto("about:blank")  # the next page may be the same file, and its address differ only after #


@pytest.fixture
def page(tab: Any, file: Path) -> Iterator[Any]:
    with watched(tab, file) as page:
        yield page


@pytest.fixture
def opened(tab: Any) -> Iterator[Callable[..., Any]]:
    """Opens any study's page, instead of the one before it."""
    with ExitStack() as last:

        def open_study(study: CamStudy, rows: list[ClassRow] | None = None) -> Any:
            last.close()
            path = Path("study.html").resolve()
            report = build_report(study)
            path.write_text(render(report if rows is None else replace(report, classes=tuple(rows))))
            return last.enter_context(watched(tab, path))

        yield open_study


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> tuple[PredictionReport, Path]:
    """Few classes, one of them positive; files that cannot be read, images without a label, and a file called markup."""
    report = planted_report(
        120,
        6,
        positive=2,
        threshold=0.6,
        labelled=0.9,
        unread=2,
        strength=2,
        names={1: SCRIPT},
        files={50: f"data/val/{MARKUP}"},
    )
    path = tmp_path_factory.mktemp("predictions") / "predictions.html"
    write_predictions(report, path)
    return report, path


def wait_drawn(page: Any, views: str) -> None:
    """Wait until the first card that is shown has been drawn, once it is visible, for a pair of views."""
    page.evaluate("document.querySelector('article:not([hidden])').scrollIntoView({ block: 'start' })")
    page.wait_for_function("views => document.querySelector('article:not([hidden])').dataset.drawn === views", arg=views)


def pixels(page: Any, name: str, card: str = "article:not([hidden])") -> np.ndarray:
    """RGBA of a card's canvas: left, right, error, left-map, right-map, difference."""
    return drawn_on(page, f"{card} .{name} canvas")


def drawn_on(page: Any, canvas: str) -> np.ndarray:
    uri = page.evaluate("canvas => document.querySelector(canvas).toDataURL()", canvas)
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("RGBA"))


def shown_names(page: Any) -> list[str]:
    return page.locator("article:not([hidden]) h3").all_text_contents()


def column(page: Any, place: int) -> list[str]:
    return page.locator(f"#classes tbody tr > :nth-child({place})").all_text_contents()


def one_example(pictures: dict[str, np.ndarray], cams: list[np.ndarray], **changes: Any) -> CamStudy:
    study = cam_study(runs=("runs/one",), qualities=tuple(pictures), grid=cams[0].shape, **changes)
    predictions = tuple(ExamplePrediction((("grass", 0.9),), 1.0, cam.astype(np.float32), "grass") for cam in cams)
    return replace(study, examples=(Example(0, ("random",), pictures, predictions),))


def test_a_choice_of_views_is_shown_and_drawn(page: Any, study: CamStudy) -> None:
    wait_drawn(page, "0 1")
    first = page.locator("article:not([hidden])").first
    assert first.locator("figcaption > b").all_text_contents() == [
        "two_phase, source",
        "two_phase, q50",
        "error \N{MULTIPLICATION SIGN}8",
        "map, two_phase, source",
        "map, two_phase, q50",
        f"right {MINUS} left map",
    ]
    page.select_option("#right-run", label="restart_only")
    page.select_option("#right-quality", label="q10")
    wait_drawn(page, "0 5")
    page.select_option("#left-quality", label="q50")
    wait_drawn(page, "1 5")
    index = int(str(first.get_attribute("id")).removeprefix("image-"))
    example = study.examples[index]
    for side, view in (("left", 1), ("right", 5)):
        panel = first.locator(f"figure.{side}")
        assert panel.locator("b").text_content() == ("two_phase, q50" if view == 1 else "restart_only, q10")
        shares = panel.locator(".likeliest li span:last-child").all_text_contents()
        assert shares == [f"{100 * share:.1f} %" for _, share in example.predictions[view].top]
    expected = np.corrcoef(example.predictions[1].cam.ravel(), example.predictions[5].cam.ravel())[0, 1]
    assert f"maps r {expected:.2f}".replace("-", MINUS) in str(first.locator(".pair").text_content())
    page.click("#swap")
    wait_drawn(page, "5 1")
    page.click("#reset")
    wait_drawn(page, "0 1")
    assert page.evaluate("location.hash") == ""


@pytest.mark.parametrize("change", [4, -9, 40])
def test_the_error_of_a_known_difference_has_the_known_colour(opened: Callable[..., Any], change: int) -> None:
    flat = np.full((64, 64, 3), (90, 120, 150), np.uint8)
    other = (flat.astype(int) + change).astype(np.uint8)
    map_of = np.ones((3, 3))
    page = opened(one_example({"source": flat, "q50": other, "q10": flat}, [map_of] * 3))
    wait_drawn(page, "0 1")
    expected = 128 + max(-127, min(127, 8 * change))
    assert (pixels(page, "error")[..., :3] == expected).all()
    assert np.abs(pixels(page, "right")[..., :3].astype(int) - pixels(page, "left")[..., :3] - change).max() == 0
    assert np.abs(pixels(page, "left")[..., :3].astype(int) - flat).max() <= 3, "WebP"
    assert f"rms {abs(change):.1f} levels" in page.locator("figure.error").text_content()
    page.select_option("#left-quality", label="q50")
    page.select_option("#right-quality", label="q10")
    wait_drawn(page, "1 2")
    assert (pixels(page, "error")[..., :3] == 128 - (expected - 128)).all(), "between two that are not the first"
    page.select_option("#right-quality", label="q50")
    wait_drawn(page, "1 1")
    assert (pixels(page, "error")[..., :3] == 128).all()


def test_the_other_picture_is_what_the_other_quality_gives(opened: Callable[..., Any]) -> None:
    pictures = {quality: picture(0, quality) for quality in ("source", "q10")}
    page = opened(one_example(pictures, [np.ones((3, 3))] * 2))
    wait_drawn(page, "0 1")
    apart = pixels(page, "right")[..., :3].astype(int) - pixels(page, "left")[..., :3]
    truth = pictures["q10"].astype(int) - pictures["source"]
    inside = (pixels(page, "right")[..., :3] > 0) & (pixels(page, "right")[..., :3] < 255)
    assert (apart == truth)[inside].mean() > 0.999


def test_maps_are_drawn_on_the_scale_that_is_chosen(opened: Callable[..., Any]) -> None:
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[1, 1], right[1, 1], right[2, 3] = 2.0, 1.0, 1.0
    flat = np.full((64, 64, 3), 60, np.uint8)
    page = opened(one_example({"source": flat, "q50": flat}, [left, right]))
    page.select_option("#show", "alone")
    wait_drawn(page, "0 1")

    def at_cell(name: str, row: int, column: int) -> list[int]:
        """The middle of a cell, which no neighbour reaches."""
        colour: list[int] = (
            pixels(page, name)[56 * row + 27 : 56 * row + 29, 56 * column + 27 : 56 * column + 29].mean((0, 1)).tolist()
        )
        return colour

    low, middle, high = (68, 1, 84, 255), (33, 144, 140, 255), (253, 231, 37, 255)  # Matplotlib's viridis
    assert at_cell("left-map", 1, 1) == pytest.approx(high, abs=14)
    assert at_cell("right-map", 1, 1) == pytest.approx(middle, abs=14)
    assert at_cell("left-map", 3, 0) == pytest.approx(low, abs=1)
    assert at_cell("difference", 3, 0) == pytest.approx((247, 247, 247, 255), abs=1)
    assert "on its own scale, largest 1.00: 50 % of the peak" in page.locator(".difference").text_content()
    blue, orange = at_cell("difference", 1, 1), at_cell("difference", 2, 3)
    assert blue[2] > blue[0] + 40
    assert orange[0] > orange[2] + 40
    assert "0 to 2.00, peak 1.00" in page.locator(".right-map").text_content()
    page.select_option("#scale", "own")
    page.wait_for_function("() => document.querySelector('.right-map').textContent.includes('0 to 1.00')")
    wait_drawn(page, "0 1")
    page.wait_for_timeout(200)
    assert at_cell("right-map", 1, 1) == pytest.approx(high, abs=14)
    for name, ends in (("inferno", (252, 255, 164, 255)), ("cividis", (254, 232, 56, 255))):
        page.select_option("#colours", name)
        page.wait_for_timeout(200)
        assert at_cell("right-map", 1, 1) == pytest.approx(ends, abs=24)
        assert drawn_on(page, "#heat")[0, 255].tolist() == list(ends)


def test_over_the_picture_the_slider_says_how_much_of_it_is_covered(opened: Callable[..., Any]) -> None:
    flat = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    page = opened(one_example({"source": flat, "q50": flat}, [np.ones((3, 3))] * 2))
    wait_drawn(page, "0 1")
    grey = round(0.299 * 200 + 0.587 * 40 + 0.114 * 40)
    for opacity, expected in (
        (0, (grey, grey, grey)),
        (100, (253, 231, 37)),
        (50, tuple((grey + c) / 2 for c in (253, 231, 37))),
    ):
        page.locator("#opacity").fill(str(opacity))
        page.wait_for_timeout(200)
        assert pixels(page, "left-map")[..., :3].mean((0, 1)) == pytest.approx(expected, abs=4)


def test_a_scale_shared_by_all_images_ends_where_the_largest_map_does(page: Any, study: CamStudy) -> None:
    page.select_option("#scale", "gallery")
    largest = max(float(prediction.cam.max()) for example in study.examples for prediction in example.predictions[:2])
    captions = page.locator(".left-map figcaption div:not(.range)").all_text_contents()
    assert len(captions) == 8
    assert all(text.startswith(f"0 to {largest:.2f},") for text in captions)
    assert page.locator("#heat-high").text_content() == f"{largest:.2f}"


def test_a_small_difference_of_maps_is_drawn_to_the_ends_of_its_own_scale(opened: Callable[..., Any]) -> None:
    left, right = np.full((4, 4), 2.0), np.full((4, 4), 2.0)
    right[1, 1], right[2, 3] = 1.96, 2.02
    flat = np.full((64, 64, 3), 60, np.uint8)
    page = opened(one_example({"source": flat, "q50": flat, "q10": flat}, [left, right, left]))
    wait_drawn(page, "0 1")
    drawn = pixels(page, "difference").astype(int)
    assert drawn[84, 84, 2] - drawn[84, 84, 0] > 100, "blue"
    assert drawn[140, 196, 0] - drawn[140, 196, 2] > 30, "orange, half as far"
    words = page.locator(".difference").text_content()
    assert "largest 0.0400: 2.0 % of the peak" in words
    assert f"{MINUS}0.0400" in words
    assert "+0.0400" in words
    page.select_option("#scale", "gallery")
    assert "on one scale for all images" in page.locator(".difference").text_content()
    assert page.locator("#signed-scale").text_content() == "one scale for all images"
    page.select_option("#right-quality", label="q10")
    assert "none: the maps are equal" in page.locator(".difference").text_content()


def test_every_panel_with_colours_has_their_range_beside_it(page: Any) -> None:
    wait_drawn(page, "0 1")
    card = page.locator("article:not([hidden])").first
    ranges = {name: card.locator(f".{name} .range span").all_text_contents() for name in ("error", "left-map", "right-map")}
    assert ranges["error"] == [f"{MINUS}16", "+16 levels"]
    assert ranges["left-map"] == ranges["right-map"], "one scale for the pair"
    assert ranges["left-map"][0] == "0"
    grey = drawn_on(page, "#grey")
    assert (grey[0, 0].tolist(), grey[0, 255].tolist()) == ([1, 1, 1, 255], [255] * 4), "as errorPicture draws them"


def test_what_a_card_says_of_its_prediction_is_true_of_the_views_shown(page: Any, study: CamStudy) -> None:
    for left, right in ((0, 1), (0, 2), (2, 0)):
        page.evaluate(f"location.hash = 'left={left}&right={right}&sort=name'")
        wait_drawn(page, f"{left} {right}")
        for example in study.examples:
            truth = study.classes[study.truth[example.index]]
            before, after = (example.predictions[view].top[0][0] for view in (left, right))
            if before == truth:
                expected = "right in both" if after == truth else "lost"
            else:
                changes = "prediction changes" if before != after else "wrong in both"
                expected = "gained" if after == truth else changes
            name = (
                study.names[example.index].replace("\udcff", "\ufffd").replace("\u202e", "\ufffd").replace("\u2028", "\ufffd")
            )
            card = page.locator("article").filter(has=page.get_by_role("heading", name=name, exact=True))
            assert card.locator(".tag").all_text_contents() == [expected], (example.index, left, right)


def test_a_picture_that_is_no_jpeg_says_so_at_source_only(page: Any) -> None:
    said = page.locator("figcaption").filter(has_text="a JPEG of quality 95, 4:4:4")
    assert said.count() == 1
    assert said.locator("b").text_content() == "two_phase, source"
    page.select_option("#left-quality", label="q50")
    assert said.count() == 0


def test_filters_leave_what_they_say_and_count_it(page: Any, study: CamStudy) -> None:
    count = page.locator("#count")
    assert count.text_content() == "8 of 8 shown"
    assert (count.get_attribute("role"), count.get_attribute("aria-live")) == ("status", "polite")
    tops = {
        study.names[example.index]: [prediction.top[0][0] for prediction in example.predictions[:2]]
        for example in study.examples
    }
    truths = {study.names[example.index]: study.classes[study.truth[example.index]] for example in study.examples}
    wanted = {
        "changed": {name for name, (left, right) in tops.items() if left != right},
        "lost": {name for name, (left, right) in tops.items() if left == truths[name] != right},
        "gained": {name for name, (left, right) in tops.items() if right == truths[name] != left},
    }
    assert wanted["changed"], "else nothing is tried"
    for which, names in wanted.items():
        page.select_option("#flip", which)
        assert set(shown_names(page)) == {name.replace("\udcff", "\ufffd") for name in names}
        assert count.text_content() == f"{len(names)} of 8 shown"
    page.select_option("#flip", "all")
    page.select_option("#rule", "median")
    assert len(shown_names(page)) == sum("median" in example.rules for example in study.examples) > 0
    page.select_option("#rule", "all")
    page.fill("#text", "0001")
    assert set(shown_names(page)) == {name for name in tops if "0001" in name}
    page.fill("#text", SCRIPT.upper())
    assert 0 < len(shown_names(page)) < 8
    page.fill("#text", "nothing is called this")
    assert shown_names(page) == []
    assert count.text_content() == "0 of 8 shown"
    page.keyboard.press("Escape")
    page.click("#reset")
    assert len(shown_names(page)) == 8


def test_the_gallery_is_sorted(page: Any, study: CamStudy) -> None:
    page.select_option("#sort", "name")
    names = shown_names(page)
    assert names == sorted(names)
    page.select_option("#sort", "class")
    labels = page.evaluate("shown.map(card => DATA.classes[card.example.truth])")
    assert labels == sorted(labels)
    page.select_option("#sort", "change")
    texts = page.locator("article:not([hidden]) .pair .soft").all_text_contents()
    alike = [float(text.split()[2].rstrip(",").replace(MINUS, "-").replace("undefined", "1")) for text in texts]
    assert alike == sorted(alike)
    assert "undefined" in " ".join(texts), "dark maps in both views have not changed"


def test_the_table_of_classes_is_sorted_by_click_and_by_key(page: Any) -> None:
    assert not page.locator("#classes").is_visible(), "it is folded, after the images"
    page.locator("#classes-fold summary").click()
    head = page.locator("#classes th[data-key=difference]")
    first = column(page, 1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(text.replace(MINUS, "-")) for text in column(page, 5)]
    assert values == sorted(values)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text.replace(MINUS, "-")) for text in column(page, 5)] == sorted(values, reverse=True)
    page.locator("#classes th[data-key=name] button").focus()
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 1) == sorted(first)
    for key in ("images", "before", "after", "flips", "pearson"):
        page.locator(f"#classes th[data-key={key}] button").click()
        place = ["name", "images", "before", "after", "difference", "flips", "pearson"].index(key) + 1
        values = [float(text) for text in column(page, place)]
        assert values == sorted(values)


def test_the_table_shows_the_view_that_is_chosen(page: Any, study: CamStudy) -> None:
    page.locator("#classes-fold summary").click()
    page.select_option("#table-view", label="restart_only, q10")
    rows = by_class(study)
    assert column(page, 4) == [f"{100 * row.right[5] / row.images:.1f}" for row in rows]
    assert column(page, 6) == [str(row.flips[5]) for row in rows]
    assert page.locator("#table-name").text_content() == "restart_only, q10"


def test_a_thousand_classes_are_sorted_undefined_ones_last(opened: Callable[..., Any], study: CamStudy) -> None:
    random = np.random.default_rng(0)
    rows = [
        ClassRow(f"class {n:04}", 50, tuple(random.integers(0, 51, 6).tolist()), tuple(random.integers(0, 51, 6).tolist()),
                 tuple(random.random(6).tolist()) if n % 10 else (float("nan"),) * 6)
        for n in range(1000)
    ]  # fmt: skip
    page = opened(study, rows)
    page.locator("#classes-fold summary").click()
    for order in ("ascending", "descending"):
        page.locator("#classes th[data-key=pearson] button").click()
        texts = column(page, 7)
        assert len(texts) == 1000
        assert texts[900:] == ["\N{EN DASH}"] * 100
        values = [float(text) for text in texts[:900]]
        assert values == sorted(values, reverse=order == "descending")
    overflow = page.evaluate(
        "(({ scrollHeight, clientHeight }) => scrollHeight > clientHeight)(document.querySelector('.tall'))"
    )
    assert overflow, "it scrolls in its own box"


def test_keys_go_from_image_to_image(page: Any) -> None:
    names = shown_names(page)

    def current() -> str:
        return str(page.evaluate("document.activeElement.querySelector('h3')?.textContent"))

    page.keyboard.press("j")
    assert current() == names[0]
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert current() == names[2]
    page.keyboard.press("k")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    assert current() == names[0]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the current card is visible"
    assert page.locator("article[tabindex='0']").count() == 1
    page.focus("#text")
    page.keyboard.type("jk")
    assert page.input_value("#text") == "jk", "letters that are typed move nothing"


def test_every_control_is_reached_by_tab_and_has_a_name(page: Any) -> None:
    page.locator("#classes-fold").evaluate("fold => { fold.open = true; }")
    page.evaluate("document.body.focus()")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.closest('th')?.dataset.key || ''"))
    controls = {"left-run", "left-quality", "swap", "right-run", "right-quality", "scale", "colours", "show", "opacity", "text"}
    controls |= {"flip", "rule", "sort", "reset", "print", "table-view", "name", "pearson", "to-images"}
    assert controls <= set(reached)
    nameless = page.evaluate(
        "[...document.querySelectorAll('select, input, button')].filter(box => !box.labels?.length && !box.ariaLabel"
        " && !box.textContent.trim()).map(box => box.id)"
    )
    assert nameless == []
    undescribed = page.evaluate("[...document.querySelectorAll('img:not([alt]), article canvas:not([aria-label])')].length")
    assert undescribed == 0
    assert page.evaluate("[...document.querySelectorAll('table')].every(table => table.caption)")


def test_a_link_opens_the_same_view(tab: Any, file: Path) -> None:
    with watched(tab, file) as page:
        page.select_option("#right-quality", label="q10")
        page.select_option("#colours", "cividis")
        page.select_option("#sort", "name")
        page.fill("#text", "a & <b>")
        page.fill("#text", "jpg")
        page.locator("#classes-fold summary").click()
        page.locator("#classes th[data-key=flips] button").click()
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.wait_for_function("() => location.hash.includes('image=')")
        address, names = page.evaluate("location.hash"), shown_names(page)
    with watched(tab, file, address) as page:
        wait_drawn(page, "0 2")
        assert page.input_value("#text") == "jpg"
        assert page.input_value("#colours") == "cividis"
        assert page.input_value("#sort") == "name"
        assert shown_names(page) == names
        assert page.locator("#classes th[data-key=flips]").get_attribute("aria-sort") == "ascending"
        assert page.locator("article[tabindex='0'] h3").text_content() == names[1]
        page.evaluate("location.hash = 'left=3&show=alone'")
        page.wait_for_function("() => document.getElementById('show').value === 'alone'")
        assert page.locator("#left-run option:checked").text_content() == "restart_only"
    nonsense = "#left=99&right=-1&scale=x&opacity=999&image=77&by=&order=up&flip=%00&colours=__proto__&what=1&%%%"
    with watched(tab, file, nonsense) as page:
        wait_drawn(page, "0 1")
        assert page.input_value("#colours") == "viridis"


def test_awkward_names_are_shown_and_not_run(page: Any) -> None:
    wait_drawn(page, "0 1")
    assert MARKUP in shown_names(page)
    assert SCRIPT in column(page, 1)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 2
    assert MARKUP in page.locator(".warning").first.text_content()
    for name in ("left", "right"):
        page.select_option(f"#{name}-quality", label="q10")
    assert SCRIPT in page.locator(".likeliest").all_text_contents().__str__()


def contrast(page: Any, selector: str) -> float:
    """WCAG's ratio of an element's text to the nearest background that is not transparent."""
    ink, paper = page.evaluate(
        """selector => { const element = document.querySelector(selector); let behind = element;
        while (behind && /, 0\\)$|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
        const colours = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        return colours.map(colour => colour.match(/[\\d.]+/g).map(Number)); }""",
        selector,
    )

    def light(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour[:3])]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((light(ink), light(paper)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_the_light_and_in_the_dark(tab: Any, file: Path, scheme: str) -> None:
    with watched(tab, file, scheme=scheme) as page:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (min(paper) > 200) if scheme == "light" else (max(paper) < 60)
        for selector in (
            "h1",
            ".soft",
            ".warning",
            "td small",
            "thead th",
            ".anchor td",
            ".tag",
            "figcaption .soft",
            "dt",
            "#count",
        ):
            assert contrast(page, selector) >= 4.5, selector


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_the_page_is_never_wider_than_the_screen(tab: Any, file: Path, width: int) -> None:
    with watched(tab, file, width=width, height=844) as page:
        wait_drawn(page, "0 1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = page.evaluate(
            "width => [...document.querySelectorAll('body *')].filter(element => !element.closest('.scroll, .chart, .skip') &&"
            " element.getBoundingClientRect().right > width + 1).map(element => element.outerHTML.slice(0, 80))",
            width,
        )
        assert beyond == []


def test_on_a_phone_no_accuracy_and_no_point_of_a_chart_is_cut_off(opened: Callable[..., Any]) -> None:
    qualities = ("source", *(f"q{quality}" for quality in (95, 90, 75, 60, 50, 30, 20, 10)))
    page = opened(cam_study(24, 1, qualities=qualities, size=16))
    page.set_viewport_size({"width": 390, "height": 844})
    cells = page.locator("[aria-label='accuracy by run and quality'] td")
    points = page.locator(".chart svg:visible path:has(title)")
    counts = 18 + 9, 2 * 18 + 17 + 2 * 9
    assert (cells.count(), points.count()) == counts, "a row of bytes; one line each for the ceiling and the baseline"
    for shown in (cells, points):
        ends = shown.evaluate_all("all => all.map(one => one.getBoundingClientRect()).map(({ left, right }) => [left, right])")
        assert all(0 <= left < right <= 390 for left, right in ends)
    assert cells.last.evaluate("cell => getComputedStyle(cell, '::before').content") == '"q10"'
    sizes = page.locator(".chart svg:visible").evaluate_all(
        "all => all.map(svg => 13 * svg.clientWidth / svg.viewBox.baseVal.width)"
    )
    assert min(sizes) > 11, "pixels of text"


def test_without_javascript_the_rest_is_there(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("noscript p").is_visible()
    assert not page.locator("#controls").is_visible()
    assert page.locator("#classes button").count() == 0
    assert page.locator("article:visible img").count() == 8
    assert page.locator("svg:visible").count() == 3
    assert page.locator("article .likeliest").count() == 8
    context.close()


def test_it_prints_without_controls_and_with_every_image_drawn(page: Any) -> None:
    page.evaluate("window.print = () => { document.title = 'printed ' + document.querySelectorAll('[data-drawn]').length; }")
    page.click("#print")
    page.wait_for_function("() => document.title === 'printed 8'")
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('article')).breakInside") == "avoid"
    assert page.evaluate("getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def test_only_cards_near_the_visible_part_hold_pixels(opened: Callable[..., Any]) -> None:
    page = opened(cam_study(60, 40, size=32))
    wait_drawn(page, "0 1")
    assert page.locator(DRAWN).count() < 20
    page.locator("article:not([hidden])").last.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('article:not([hidden])')].at(-1).dataset.drawn")
    page.wait_for_function("() => !document.querySelector('article:not([hidden])').dataset.drawn")
    assert page.evaluate("document.querySelector('article:not([hidden]) canvas').width") == 0


def test_one_run_needs_no_choice_of_runs_and_one_view_still_shows_its_maps(opened: Callable[..., Any]) -> None:
    page = opened(cam_study(runs=("runs/one",)))
    assert not page.locator("#left-run").is_visible()
    assert page.locator("figcaption b").first.text_content() == "source"
    page = opened(cam_study(runs=("runs/one",), qualities=("source",), labelled=False))
    wait_drawn(page, "0 0")
    assert page.locator("#classes").count() == 0
    assert not page.locator("#table-view").is_visible()


def test_two_hundred_pictures_at_six_qualities_are_less_than_ten_megabytes(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs at the size that a ConvNeXt sees, through two runs: what is kept of the differences gives way.

    They are twelve, over and over, so each is compressed once at every level that is tried.
    """
    embed, embedded = images._embed, {}

    def embed_once(example: Example, qualities: tuple[str, ...], level: CompressionLevel) -> Picture:
        key = id(example.pictures), level
        if key not in embedded:
            embedded[key] = embed(example, qualities, level)
        return embedded[key]

    monkeypatch.setattr(images, "_embed", embed_once)
    qualities = ("source", "q90", "q75", "q50", "q30", "q10")
    few = cam_study(200, 12, qualities=qualities, grid=(7, 7), size=224)
    study = replace(few, examples=tuple(replace(few.examples[n % 12], index=n) for n in range(200)))
    page = opened(study)
    size = Path("study.html").stat().st_size
    assert 5_000_000 < size < 10_000_000
    assert page.locator("article").count() == 200
    wait_drawn(page, "0 3")
    assert LADDER[0].description not in page.locator("#images .note").text_content()
    page.select_option("#right-quality", label="q10")
    wait_drawn(page, "0 5")
    assert pixels(page, "error")[..., :3].std() > 5


def test_the_page_of_a_study_fits_any_screen_and_shows_its_differences(tab: Any, betons: Path) -> None:
    """Its rings and diamonds are on the side of the line of none that their signs say."""
    study = load_study(write_study(betons))
    right = {arm: {seed: np.random.default_rng(seed).random(500) < share for seed in (0, 1)} for arm, share in SHARES.items()}
    results = read_results(study, Path("out"))
    compared = compare_arms(right, "clean")
    path = Path("study.html").resolve()
    write_page(replace(results, comparisons=dict.fromkeys(results.columns, compared)), path)
    for width in (1440, 390):
        with watched(tab, path, width=width) as page:
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert f"{compared[0].difference:+.2f}" in page.locator("table tbody").first.inner_text()
            chart = page.locator(".differences svg")
            zero = chart.locator("path[stroke-width='1.5']").first.bounding_box()["x"]
            rings = [ring.bounding_box()["x"] for ring in chart.locator("circle").all()]
            assert len(rings) == 2
            assert all(ring > zero for ring in rings), "the arm is better in both seeds"
            assert chart.locator("path[transform]").bounding_box()["x"] > zero
            page.locator("summary").first.click()
            assert page.locator("details[open] table").count() == 1


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_of_runs_fits_any_screen_and_tints_the_phases(tab: Any, trained: Path, width: int, scheme: str) -> None:
    """A name that is markup is shown; the spans that are tinted end where the plot does."""
    runs = ("a", "<img src=x onerror=alert(1)>")
    for name in runs:
        shutil.copytree(trained, Path("runs", name), ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
    write_board(read_records([Path("runs")])[0], Path("board.html"))
    with watched(tab, Path("board.html").resolve(), width=width, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("tbody th").all_inner_texts() == sorted(runs, key=lambda name: name != runs[1])
        charts = page.locator(".curves svg:visible")
        assert charts.count() == 8
        for chart in (charts.nth(number) for number in range(8)):
            span, axis = chart.locator("rect").bounding_box(), chart.locator("path[fill=none]").first.bounding_box()
            close = partial(pytest.approx, abs=3)  # pixels: the box of a path has room for its stroke
            assert span["x"] + span["width"] == close(axis["x"] + axis["width"])
            assert span["x"] == close(axis["x"] + axis["width"] / 2), "the second of two equal phases"
        assert contrast(page, "caption") >= 4.5


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_of_predictions_fits_the_screen_and_can_be_read(
    tab: Any, predictions: tuple[PredictionReport, Path], width: int, scheme: str
) -> None:
    _, path = predictions
    with watched(tab, path, width=width, height=844, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        beyond = page.evaluate(
            "width => [...document.querySelectorAll('body *')].filter(element => !element.closest('.scroll') &&"
            " element.getBoundingClientRect().right > width + 1).map(element => element.outerHTML.slice(0, 80))",
            width,
        )
        assert beyond == []
        for selector in ("h1", ".soft", "thead th", "dt"):
            assert contrast(page, selector) >= 4.5, selector
        cell = page.locator(".matrix td.same").nth(3)
        cell.evaluate("cell => cell.style.setProperty('--share', 1)")
        with Image.open(io.BytesIO(cell.screenshot())) as image:
            levels = np.asarray(image.convert("L"), float)
        paper, ink = float(np.median(levels)), levels.min() if scheme == "light" else levels.max()
        low, high = sorted((level / 255) ** 2.2 for level in (paper, ink))
        assert (high + 0.05) / (low + 0.05) >= 4.5, "numbers on the strongest tint"
        sizes = page.locator("svg:visible:has(title)").evaluate_all(
            "all => all.map(svg => parseFloat(getComputedStyle(svg).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width)"
        )
        assert len(sizes) == 9, "two scatters, three histograms, and the curves of calibration, precision, ROC and threshold"
        assert min(sizes) > 11, "pixels of text"


def test_a_point_of_a_scatter_names_its_file_by_pointer_and_by_key(
    tab: Any, predictions: tuple[PredictionReport, Path]
) -> None:
    report, path = predictions
    with watched(tab, path) as page:
        scatter = page.locator(".scatter").first
        point = scatter.locator(".group-1 .point").nth(3)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        output = scatter.locator("output")
        assert output.text_content() == report.scatter.groups[1].points[3][2]
        scatter.locator(".plot").focus()
        page.keyboard.press("Home")
        first, last = (min if end == 0 else max for end in (0, 1))
        everything = [point for group in report.scatter.groups for point in group.points]
        assert output.text_content() == first(everything)[2]
        page.keyboard.press("End")
        assert output.text_content() == last(everything)[2]
        page.keyboard.press("ArrowLeft")
        assert output.text_content() == sorted(everything)[-2][2]
        named = next(text for _, _, text in everything if text.startswith(MARKUP))
        place = sorted(everything).index(next(point for point in everything if point[2] == named))
        for _ in range(len(everything) - 2 - place):
            page.keyboard.press("ArrowLeft")
        assert output.text_content() == named, "a name is text"
        scatter.locator(".toggle-0").uncheck()
        assert not scatter.locator(".group-0").is_visible()
        page.keyboard.press("Tab")
        shown = [point for group in report.scatter.groups[1:] for point in group.points]
        scatter.locator(".plot").focus()
        page.keyboard.press("End")
        assert output.text_content() == max(shown)[2], "what is hidden is passed over"


def test_the_table_of_predicted_classes_is_sorted_and_its_means_stay_below(
    tab: Any, predictions: tuple[PredictionReport, Path]
) -> None:
    report, path = predictions
    with watched(tab, path) as page:
        for number, name in ((1, "images"), (4, "precision"), (6, "F1")):
            head = page.locator("#classes thead th").nth(number)
            for order in ("ascending", "descending"):
                head.locator("button").press("Enter")
                assert head.get_attribute("aria-sort") == order
                values = [float(text) for text in column(page, number + 1)]
                assert values == sorted(values, reverse=order == "descending"), name
        assert page.locator("#classes tfoot td").last.text_content() == f"{100 * report.labelled.macro.f1:.1f}"
        page.locator("#classes thead th").first.locator("button").click()
        assert column(page, 1) == sorted(report.subject.classes)


def test_a_cell_of_a_large_matrix_is_read_out(tab: Any) -> None:
    report = planted_report(400, 40, strength=2)
    path = Path("large.html").resolve()
    write_predictions(report, path)
    matrix = report.labelled.matrix
    with watched(tab, path) as page:
        picture = page.locator("#matrix img")
        truth, predicted, images = next(
            cell
            for cell in zip(matrix.truth.tolist(), matrix.predicted.tolist(), matrix.images.tolist(), strict=True)
            if cell[0] != cell[1]
        )
        box = picture.bounding_box()
        cell = box["width"] / 40
        page.mouse.move(box["x"] + (predicted + 0.5) * cell, box["y"] + (truth + 0.5) * cell)
        said = f"is class {truth}, predicted class {predicted}: {images} of 10"
        assert page.locator("#matrix-cell").text_content() == said
        frame = page.locator("#matrix .cell").bounding_box()
        assert frame["x"] + frame["width"] / 2 == pytest.approx(box["x"] + (predicted + 0.5) * cell, abs=2)
        page.locator("#matrix").focus()
        page.keyboard.press("ArrowRight" if predicted < 39 else "ArrowLeft")
        assert f"predicted class {predicted + (1 if predicted < 39 else -1)}:" in page.locator("#matrix-cell").text_content()


def test_predictions_without_javascript_are_all_there(browser: Any, predictions: tuple[PredictionReport, Path]) -> None:
    report, path = predictions
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".matrix tbody tr").count() == 6
    assert page.locator(".scatter").first.locator(".point title").count() == report.scatter.drawn
    assert not page.locator(".hint").first.is_visible()
    page.locator(".scatter").first.locator(".toggle-0").uncheck()
    assert not page.locator(".scatter").first.locator(".group-0").is_visible()
    context.close()


@pytest.fixture(scope="module")
def previewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Preview, Path]:
    """A JPEG called markup, a PNG, and a JPEG so wide that a window of it is shown, at two qualities."""
    folder = tmp_path_factory.mktemp("preview")
    (folder / MARKUP.replace("/", "")).write_bytes(jpeg(photograph("cat").crop((80, 40, 340, 220)), quality=94, subsampling=0))
    photograph("coffee").crop((100, 100, 200, 190)).save(folder / "b.png")
    wide = photograph("astronaut").resize((1300, 80))
    (folder / "c.jpg").write_bytes(jpeg(wide, quality=97))
    path = folder / "preview.html"
    return jpegcurr.preview(sorted(file for file in folder.iterdir()), [80, 10], path), path


def divider_at(page: Any, number: int = 0) -> int:
    """Return where a divider is, in percent, as it states and as the right side is clipped, which must be the same."""
    stated = int(page.locator(".divider").nth(number).get_attribute("aria-valuenow"))
    clipped = page.locator(".pane.right").nth(number).evaluate("pane => getComputedStyle(pane).clipPath")
    assert float(clipped.removesuffix("%)").rpartition(" ")[2]) == pytest.approx(stated, abs=0.5)
    return stated


def test_the_divider_of_a_preview_moves_by_mouse_and_by_key_and_the_quality_changes(
    tab: Any, previewed: tuple[Preview, Path]
) -> None:
    with watched(tab, previewed[1]) as page:
        assert page.locator(".divider").count() == 3
        assert divider_at(page) == 50
        page.locator(".stage").first.scroll_into_view_if_needed()
        box = page.locator(".stage").first.bounding_box()
        assert (box["width"], box["height"]) == (260, 180), "a pixel is a pixel"
        page.mouse.move(box["x"] + 130, box["y"] + 90)
        page.mouse.down()
        page.mouse.move(box["x"] + 195, box["y"] + 20, steps=3)
        page.mouse.up()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        assert divider_at(page) == 75
        page.locator(".divider").first.focus()
        for key, place in (("ArrowLeft", 74), ("PageUp", 84), ("Home", 0), ("ArrowRight", 1), ("End", 100)):
            page.keyboard.press(key)
            assert divider_at(page) == place
        right = page.locator(".pane.right").first.locator("img:visible")
        for key, quality in (("ArrowRight", "80"), ("ArrowRight", "10"), ("ArrowLeft", "80")):
            page.locator("[name=quality]:checked").press(key)
            assert [right.count(), right.get_attribute("data-quality")] == [1, quality]
            assert page.locator("tr.now th").all_text_contents() == [quality] * 3
            assert page.locator(".tag.right").first.text_content() == quality


def test_the_error_of_a_preview_is_grey_and_eight_times_the_difference(tab: Any, previewed: tuple[Preview, Path]) -> None:
    preview, path = previewed
    with watched(tab, path) as page:
        page.locator("[value=error]").check(force=True)
        for number, quality in enumerate(("80", "10")):
            page.locator(f"[name=quality][value='{quality}']").check(force=True)
            for place, picture in enumerate(preview.pictures):
                canvas = f"article:nth-of-type({place + 1}) canvas"
                page.locator(canvas).scroll_into_view_if_needed()
                page.wait_for_function(
                    f"quality => document.querySelector('{canvas}').dataset.quality === quality", arg=quality
                )
                source, shown = (decode_rgb(data).astype(int) for data in (picture.source, picture.jpegs[number]))
                expected = np.clip(128 + 8 * (shown - source), 0, 255)
                assert (drawn_on(page, canvas)[..., :3] == expected).all()
                assert {0, 128, 255} <= set(np.unique(expected).tolist()), "some is clipped and some is exact"
        assert page.locator(".pane.right img:visible").count() == 0
        assert preview.pictures[2].window == (128, 0, 1152, 80)


def test_both_sides_of_a_preview_are_enlarged_and_moved_together(tab: Any, previewed: tuple[Preview, Path]) -> None:
    with watched(tab, previewed[1]) as page:
        page.locator("[name=zoom][value='8']").check(force=True)
        stage = page.locator(".stage").first
        box = stage.bounding_box()
        assert box["width"] < 8 * 260, "the rest is reached by moving"
        places = []
        for move in (None, "drag", "ArrowLeft", "ArrowUp"):
            if move == "drag":
                page.mouse.move(box["x"] + 100, box["y"] + 100)
                page.mouse.down()
                page.mouse.move(box["x"] + 60, box["y"] + 80)
                page.mouse.up()
            elif move:
                stage.press(move)
            shown = stage.locator("img:visible")
            left, right = (shown.nth(side).bounding_box() for side in range(2))
            assert left == right
            assert (left["width"], left["height"]) == (8 * 260, 8 * 180)
            assert shown.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
            places.append((left["x"], left["y"]))
        assert divider_at(page) == 50
        moves = np.diff(places, axis=0).tolist()
        assert moves == [[-40, -20], [32, 0], [0, 32]]
        page.locator("[name=zoom][value='1']").check(force=True)
        assert stage.locator("img:visible").first.bounding_box() == stage.bounding_box()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_of_a_preview_fits_the_screen_and_can_be_read(
    tab: Any, previewed: tuple[Preview, Path], width: int, scheme: str
) -> None:
    with watched(tab, previewed[1], width=width, height=844, scheme=scheme) as page:
        for zoom in ("1", "8"):
            page.locator(f"[name=zoom][value='{zoom}']").check(force=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            beyond = page.evaluate(
                "width => [...document.querySelectorAll('body *')].filter(element =>"
                " !element.closest('.scroll, .chart, .stage, .skip') && element.getBoundingClientRect().right > width + 1)"
                ".map(element => element.outerHTML.slice(0, 80))",
                width,
            )
            assert beyond == []
        for selector in ("h1", ".soft", "thead th", "dt", "td small", "tr.now td", ".bar span", ".bar input:checked + span"):
            assert contrast(page, selector) >= 4.5, selector
        assert page.locator("h3").first.text_content() == previewed[0].pictures[0].measure.picture.name
        assert page.locator(".chart svg:visible").count() == 2


def test_a_finger_moves_the_divider_of_a_preview(browser: Any, previewed: tuple[Preview, Path]) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(previewed[1].as_uri())
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    touch = context.new_cdp_session(page)
    for name, places in (("touchStart", [100]), ("touchMove", [120]), ("touchMove", [200]), ("touchEnd", [])):
        points = [{"x": box["x"] + x, "y": box["y"] + 60} for x in places]
        touch.send("Input.dispatchTouchEvent", {"type": name, "touchPoints": points})
    assert divider_at(page) == round(100 * 200 / 260)
    context.close()


def test_a_preview_without_javascript_has_its_pictures_side_by_side(browser: Any, previewed: tuple[Preview, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(previewed[1].as_uri())
    assert not page.locator(".bar").is_visible()
    images = page.locator("article img:visible")
    assert [image.get_attribute("data-quality") for image in images.all()] == ["source", "80", "10"] * 3
    assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === image.width)")
    assert page.locator("#set tbody tr").count() == 4, "files, source as a JPEG of the PNG, and two qualities"
    context.close()
