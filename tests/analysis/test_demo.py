"""The demo over HTTP and in a browser: its numbers are those of predict and of Grad-CAM, and nothing leaves the machine."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import PYTHON
from networks import FACTORY
from PIL import Image
from samples import jpeg, photograph

import jpegcurr
from jpegcurr.analysis.demo import app
from jpegcurr.analysis.demo.comparison import compare_picture, explain_models
from jpegcurr.analysis.demo.page import render_picture
from jpegcurr.cli import main
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.transforms import centre_crop

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: uv pip install 'jpegcurr[demo]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MOST_PIXELS = 250_000


@dataclass(frozen=True)
class Demo:
    """A demo that runs: its address, the client, and the folder of its pictures."""

    address: str
    client: Any
    folder: Path

    def compare(self, file: Path | None, quality: float, chosen: int | None = None) -> tuple[str, dict[str, Any]]:
        upload = None if file is None else gradio_client.handle_file(file)
        return self.client.predict(upload, chosen, quality, api_name="/compare")


@pytest.fixture(scope="module")
def demo(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Serve two models, a run and a network of one's own, to all tests of the file; end it by Ctrl-C."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "nets.py").write_text(FACTORY)
    (folder / "tmp").mkdir()
    images = photos / "val"
    command = [PYTHON, "-m", "jpegcurr", "demo", str(trained), "nets.py:build", "--device", "cpu", "--images", str(images)]
    command += ["--max-pixels", str(MOST_PIXELS), "--port", "0", "--json", "-q"]
    environment = os.environ | {"TMPDIR": str(folder / "tmp")}
    errors = (folder / "errors").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        started = json.loads(process.stdout.readline() or '"it did not start"')
        assert set(started) == {"address", "models", "pictures"}, (folder / "errors").read_text()
        assert started["pictures"] == 16
        client = gradio_client.Client(started["address"], verbose=False, download_files=False, analytics_enabled=False)
        yield Demo(started["address"], client, images)
        assert len(list((folder / "tmp").glob("jpegcurr-demo-*"))) == 1, "what is uploaded lies in one folder"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert list((folder / "tmp").glob("jpegcurr-demo-*")) == []
        left = (folder / "errors").read_text()
        assert left.endswith("error: stopped. The demo has ended, and what was uploaded is removed.\n"), left
        assert "analysis/demo" not in left, "a picture ends in a sentence; gradio prints what it refuses by itself"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        errors.close()


def test_the_numbers_are_those_of_predict_and_grad_cam(demo: Demo, trained: Path, cpu: Runtime) -> None:
    """Compare a PNG with transparency, whose JPEG is Pillow's of what it shows."""
    file, again = Path("cat.png"), Path("q30.jpg")
    photograph("cat").resize((120, 90)).convert("RGBA").save(file)
    with Image.open(file) as image:
        again.write_bytes(jpeg(image.convert("RGB"), quality=30))
    page, numbers = demo.compare(file, 30)
    assert (numbers["width"], numbers["height"], numbers["source_kept_by_encode"]) == (120, 90, False)
    assert (numbers["source_bytes"], numbers["jpeg_bytes"]) == (file.stat().st_size, again.stat().st_size)
    assert base64.b64encode(again.read_bytes()).decode() in page, "Pillow's JPEG itself"
    pixels = [jpegcurr.decode_rgb(path) for path in (file, again)]
    assert numbers["error_rms"] == pytest.approx(float(np.sqrt(np.mean(np.square(np.subtract(*pixels, dtype=float))))))
    Path("nets.py").write_text(FACTORY)
    for part, name in zip(numbers["models"], (trained, "nets.py:build"), strict=True):
        model = jpegcurr.load_model(name, cpu)
        before, after = (dict(one.top) for one in jpegcurr.predict_images(model, [file, again], cpu, top=99))
        likeliest = [row["class"] for row in part["likeliest"]]
        assert set(likeliest) == {*list(before)[:5], *list(after)[:5]}
        assert likeliest == [name for name in before if name in likeliest]
        for row in part["likeliest"]:
            assert row["source"] == pytest.approx(before[row["class"]], abs=1e-6)
            assert row["jpeg"] == pytest.approx(after[row["class"]], abs=1e-6)
            assert row["change"] == pytest.approx(row["jpeg"] - row["source"])
        crops = torch.stack([centre_crop(picture, model.image) for picture in pixels])
        targets = torch.full((2,), model.classes.index(next(iter(before))))
        maps = jpegcurr.grad_cam(model, part["layer"], crops, targets).numpy()
        np.testing.assert_allclose([part["maps"]["source"], part["maps"]["jpeg"]], maps, rtol=1e-4, atol=1e-5 * maps.max())
        assert part["explained"] == next(iter(before))
    correlation = np.corrcoef(*maps.reshape(2, -1))[0, 1]
    assert part["similarity"]["pearson"] == pytest.approx(correlation, abs=1e-4)
    assert (maps.shape, correlation < 0.9999) == ((2, 5, 5), True)


def test_awkward_pictures_are_shown_or_refused_in_a_sentence(demo: Demo) -> None:
    whole = photograph("coffee").resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save("turned.jpg", exif=exif)
    whole.convert("CMYK").save("cmyk.jpg")
    Image.new("RGB", (1, 1), (9, 99, 200)).save("one.png")
    Path("<img src=x onerror=alert(1)>.jpg").write_bytes(jpeg(whole))
    for name, size, kept in (
        ("turned.jpg", (48, 64), False),
        ("cmyk.jpg", (64, 48), False),
        ("one.png", (1, 1), False),
        ("<img src=x onerror=alert(1)>.jpg", (64, 48), True),
    ):
        page, numbers = demo.compare(Path(name), 50)
        assert (numbers["width"], numbers["height"], numbers["source_kept_by_encode"]) == (*size, kept), name
        assert ("is no plain upright JPEG" in page) == (not kept)
        assert "<img src=x" not in page
    Path("broken.jpg").write_bytes(jpeg(whole)[:-300])
    Path("text.jpg").write_text("text")
    Image.new("L", (MOST_PIXELS, 2)).save("large.png")
    for file, quality, sentence in (
        (Path("broken.jpg"), 50, r"broken\.jpg: image file is truncated"),
        (Path("text.jpg"), 50, r"text\.jpg: not an image that Pillow can read"),
        (Path("large.png"), 50, rf"large\.png: {MOST_PIXELS}x2 pixels are more than the {MOST_PIXELS}.*--max-pixels"),
        (None, 50.5, r"00\.jpg: quality 50\.5 is not a JPEG quality"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=sentence):
            demo.compare(file, quality, chosen=0)
    assert demo.compare(None, 50)[1] == {}


def test_a_file_that_was_not_uploaded_is_not_read_and_no_other_name_leads_here(demo: Demo, trained: Path) -> None:
    import httpx

    picture = next(demo.folder.rglob("*.jpg"))
    body = {"data": [{"path": str(picture), "meta": {"_type": "gradio.FileData"}}, None, 50]}
    event = httpx.post(f"{demo.address}gradio_api/call/compare", json=body).json()["event_id"]
    answer = httpx.get(f"{demo.address}gradio_api/call/compare/{event}").text
    assert "event: error" in answer
    assert "it was not uploaded by a user" in answer
    assert httpx.get(f"{demo.address}gradio_api/file={picture}").status_code == 403
    assert httpx.get(demo.address, headers={"host": "evil.example"}).status_code == 400
    assert "connect-src 'self'" in httpx.get(demo.address).headers["content-security-policy"]
    taken = demo.address.rstrip("/").rpartition(":")[2]
    with pytest.raises(SystemExit) as left:
        main(["demo", str(trained), "--port", taken])
    assert left.value.code == 2


def test_two_sessions_at_once_get_the_answers_to_their_own_questions(demo: Demo) -> None:
    other = gradio_client.Client(demo.address, verbose=False, download_files=False, analytics_enabled=False)
    files = sorted(demo.folder.rglob("*.jpg"))
    for quality in (5, 90):
        asked = [
            (client.submit(None, picture, quality, api_name="/compare"), picture)
            for client, picture in ((demo.client, 0), (other, 15))
        ]
        for job, picture in asked:
            numbers = job.result(timeout=60)[1]
            (expected,) = jpegcurr.reencode(files[picture], [quality])
            assert (numbers["quality"], numbers["jpeg_bytes"]) == (quality, len(expected.data))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome: apt install chromium")
def test_the_slider_moves_the_page_fits_any_screen_and_asks_for_nothing_else(demo: Demo) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv pip install playwright")
    Path("dropped.jpg").write_bytes(jpeg(photograph("grass").resize((90, 70)), quality=95))
    Path("broken.jpg").write_bytes(jpeg(photograph("grass"))[:-300])
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    asked: list[str] = []
    failed: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu", "--in-process-gpu", *sandbox])
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(demo.address)
        page.wait_for_selector("#jpeg[alt$='quality 50']")
        first = page.locator("#jpeg").get_attribute("src")
        page.locator("#quality input[type=range]").fill("5")
        page.wait_for_selector("#jpeg[alt$='quality 5']")
        assert page.locator("#jpeg").get_attribute("src") != first
        assert page.locator("section").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") == 1440
        page.set_viewport_size({"width": 390, "height": 844})
        page.evaluate("scrollTo(0, 1000)")
        page.wait_for_function("document.querySelector('#quality').getBoundingClientRect().top == 0")  # it stays in sight
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        box = page.locator("#quality input[type=number]")
        box.fill("101")  # more than there is, which the box corrects only when one leaves it
        box.press("Tab")
        page.wait_for_selector("#jpeg[alt$='quality 100']")
        assert box.input_value() == "100"
        page.locator("#upload input[type=file]").set_input_files("dropped.jpg")
        page.wait_for_selector("h2:has-text('dropped.jpg')")
        source, shown = (page.locator(".pictures img").nth(place).get_attribute("src").partition(",")[2] for place in (0, 1))
        assert base64.b64decode(source) == Path("dropped.jpg").read_bytes()
        assert base64.b64decode(shown) == jpegcurr.reencode("dropped.jpg", [100])[0].data
        page.locator("#upload button[aria-label]").first.click()  # removes it
        page.wait_for_selector("h2:has-text('00.jpg')")
        page.locator("#upload input[type=file]").set_input_files("broken.jpg")
        page.wait_for_selector("p:has-text('There is no comparison of this picture: broken.jpg: ')")
        assert page.locator("#jpeg").count() == 0, "that of another picture must not stay"
        browser.close()
    assert failed == []
    assert {url for url in asked if not url.startswith((demo.address, "data:", "blob:"))} == set()


def test_what_cannot_be_served_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((app.HOST, 0))
        other.listen()
        with pytest.raises(UsageError, match=r"--port \d+ is in use. Give another, or --port 0"):
            app.bind_port(other.getsockname()[1]).__enter__()
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        app.list_pictures(Path("nowhere"))
    monkeypatch.setattr(app, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"needs the package gradio. Run (uv )?pip install -U 'jpegcurr\[demo\]'\."):
        app.check_installed()


def test_pictures_are_listed_evenly_with_readable_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_LISTED", 3)
    for number in range(8):
        Path(f"all/n01440764/{number}.jpg").parent.mkdir(parents=True, exist_ok=True)
        Path(f"all/n01440764/{number}.jpg").touch()
    listed = app.list_pictures(Path("all"))
    assert [name for name, _ in listed.pictures] == ["tench/0.jpg", "tench/2.jpg", "tench/5.jpg"]
    assert listed.remark == "3 of 8, evenly spaced"
    assert app.list_pictures(Path("all/n01440764/7.jpg")) == app.PictureList((("7.jpg", Path("all/n01440764/7.jpg")),), 1)
    assert app.list_pictures(None).pictures == ()


def test_the_error_is_exact_and_a_large_picture_is_shown_smaller(trained: Path, cpu: Runtime) -> None:
    models = explain_models([jpegcurr.load_run(trained, cpu)], None, cpu)
    wide = photograph("cat").resize((1700, 20))
    Path("wide.jpg").write_bytes(jpeg(wide, quality=90))
    compared = compare_picture(models, Path("wide.jpg"), 20, cpu)
    source, shown = (jpegcurr.decode_rgb(data).astype(int) for data in (compared.source, compared.jpeg))
    assert np.array_equal(compared.error, np.clip(128 + 8 * (shown - source), 0, 255))
    page = render_picture(compared)
    assert "Shown at 94.1 % of its size" in page
    sizes = [Image.open(BytesIO(base64.b64decode(text.partition('"')[0]))).size for text in page.split("base64,")[1:]]
    assert sizes == [(1600, 19)] * 3 + [(32, 32)] * 3
    with pytest.raises(UsageError, match="quality 0 is not a JPEG quality"):
        compare_picture(models, Path("wide.jpg"), 0, cpu)
