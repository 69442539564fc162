"""Limits on the pixels of one image, before it is decoded, and of all images that are decoded at the same time."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from inspect import signature
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from samples import encode_all, jpeg, photograph

from jpegcurr.analysis.prediction.predict import read_image
from jpegcurr.cli import main
from jpegcurr.cli.cam import cam
from jpegcurr.cli.encode import encode
from jpegcurr.cli.evaluate import evaluate
from jpegcurr.cli.predict import predict
from jpegcurr.encoding.beton.manifest import read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg import codec
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS, MOST_PIXELS, PixelBudget
from jpegcurr.errors import EncodeError, ImageError, OversizeError

CLASSES = ("astronaut", "cat", "coffee", "grass")
SIZE = (81, 67)
PIXELS = 81 * 67


def picture() -> Image.Image:
    return photograph("cat").crop((0, 0, *SIZE))


def saved(kind: str, **options: object) -> bytes:
    file = BytesIO()
    picture().save(file, kind, **options)
    return file.getvalue()


def icon(kind: str) -> bytes:
    """An ICO whose directory says 16x16 for a larger image."""
    data = bytearray(saved("ICO", sizes=[SIZE], bitmap_format=kind))
    data[6:8] = 16, 16
    return bytes(data)


FORMATS: dict[str, Callable[[], bytes]] = {
    **{kind: lambda kind=kind: saved(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA")},
    "progressive": lambda: saved("JPEG", progressive=True),
    "CMYK": lambda: jpeg(picture().convert("CMYK")),
    "deflate": lambda: saved("TIFF", compression="tiff_adobe_deflate"),
    "PNG in an icon": lambda: icon("png"),
    "bitmap in an icon": lambda: icon("bmp"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FORMATS[name]()

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", load)
        patch.setattr(codec.simplejpeg, "decode_jpeg", load)
        for spec in (EncodeSpec(50), EncodeSpec("source"), EncodeSpec(50, resize=codec.Resize("max", 8))):
            with pytest.raises(OversizeError, match=f"81x67 pixels are more than the {PIXELS - 1} that"):
                reencode(data, [spec], PIXELS - 1)
    assert len(reencode(data, [EncodeSpec(50)], PIXELS)) == 1, "as many as allowed"


@pytest.mark.parametrize("kind", ["ICNS", "EPS"])
def test_a_container_whose_size_says_nothing_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=r"container of images|PostScript"):
        reencode(saved(kind), [EncodeSpec(50)])


def test_the_limit_that_is_not_given_is_the_one_in_the_help() -> None:
    for command in (encode, predict, cam, evaluate):
        option = signature(command).parameters["max_pixels"]
        assert option.default == MAX_PIXELS
        assert option.annotation.__metadata__[0].max == MOST_PIXELS == 2 * 89_478_485


def webp(width: int, height: int) -> bytes:
    """Forty bytes of WebP that decode to one colour."""
    bits = (width - 1) | (height - 1) << 14
    chunk = b"\x2f" + bits.to_bytes(4, "little") + bytes.fromhex("88880806f5df0400")
    return b"RIFF" + (len(chunk) + 13).to_bytes(4, "little") + b"WEBPVP8L" + len(chunk).to_bytes(4, "little") + chunk + b"\0"


def test_a_large_image_of_a_few_bytes_is_a_row_in_encode_and_an_error_of_its_file_in_predict() -> None:
    bomb = webp(16383, 10900)
    Path("d/a").mkdir(parents=True)
    Path("d/a/bomb.webp").write_bytes(bomb)
    Path("d/a/small.jpg").write_bytes(jpeg(picture()))
    encode_all("d", Path("o"), [50], max_failures=1)
    reasons = [row.get("reason") for row in read_items(Path("o/d-q50.beton"))]
    assert (
        reasons[0] == "16383x10900 pixels are more than the 128000000 that an image may have; --max-pixels allows larger ones"
    )
    with pytest.raises(OversizeError, match="16383x10900 pixels are more than the 128000000 that an image may have"):
        read_image(Path("d/a/bomb.webp"))


def test_predict_and_cam_leave_such_an_image_out_and_say_why(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "val/cat", "cat")
    Path("cat/bomb.webp").write_bytes(webp(16383, 10900))
    reason = "cat/bomb.webp: 16383x10900 pixels are more than the 128000000 that an image may have; --max-pixels allows larger"
    for command in ("predict", "cam"):
        with pytest.raises(SystemExit) as left:
            main([command, str(trained), "cat", "--device", "cpu"])
        assert left.value.code == 0
        assert f"{reason} ones\n" in capsys.readouterr().err


def test_predict_cam_and_evaluate_take_a_limit_of_their_own(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASSES:
        Path("d", name).mkdir(parents=True)
        shutil.copy(photos / f"val/{name}/00.jpg", f"d/{name}/0.jpg")
    picture().save("d/cat/small.png")
    limit = ["--max-pixels", str(PIXELS), "--device", "cpu", "--json", "--quiet"]
    counts = {}
    for command, images in (("predict", ["d"]), ("cam", ["d"]), ("evaluate", ["--data", "d"])):
        with pytest.raises(SystemExit) as left:
            main([command, str(trained), *images, *limit])
        assert left.value.code == 0
        shown = capsys.readouterr()
        assert f"pixels are more than the {PIXELS} that an image may have" in shown.err
        counts[command] = json.loads(shown.out)
    larger = [name for name in CLASSES if larger_than(Path(f"d/{name}/0.jpg"), PIXELS)]
    assert 0 < len(larger) <= len(CLASSES)
    read = len(CLASSES) + 1 - len(larger)
    assert counts["predict"]["unread"] == len(larger)
    assert counts["cam"]["images"] == counts["evaluate"][0]["images"] == read


def larger_than(path: Path, pixels: int) -> bool:
    with Image.open(path) as image:
        return image.width * image.height > pixels


def test_what_the_reason_advises_works_after_a_stop_too() -> None:
    Path("d/a").mkdir(parents=True)
    for number in range(3):
        Path(f"d/a/{number}.png").write_bytes(saved("PNG") if number == 1 else jpeg(picture().resize((8, 8))))
    with pytest.raises(EncodeError, match=r"d/a/1\.png: 81x67 pixels are more .* --max-pixels allows larger ones"):
        encode_all("d", Path("o"), [50], max_pixels=PIXELS - 1)
    encode_all("d", Path("o"), [50], max_pixels=PIXELS, resume=True)
    manifest = read_manifest(Path("o/d-q50.beton"))
    assert manifest is not None
    assert (manifest.images, manifest.failures) == (3, 0)


def test_a_sample_of_another_size_than_its_metadata_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="decodes to 81x67 pixels, but its metadata say 80x67"):
        decode_rgb(saved("JPEG"), size=(80, 67))


class Recorder(PixelBudget):
    """A budget that records the most that was held."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.most, self.now, self.times, self._lock = 0, 0, 0, threading.Lock()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        with super().hold(pixels):
            with self._lock:
                self.now += pixels
                self.times += 1
                self.most = max(self.most, self.now)
            yield
            with self._lock:
                self.now -= pixels


def test_threads_share_a_budget_and_a_larger_image_is_decoded_alone() -> None:
    budget, barrier = Recorder(100), threading.Barrier(2, timeout=10)

    def use(pixels: int) -> None:
        with budget.hold(pixels):
            if pixels == 50:
                barrier.wait()  # fails unless two of them are held at the same time

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [50] * 20 + [7] * 50))
    assert budget.most <= 100
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [7, 300, 7, 90, 300, 20] * 20))
    assert budget.most == 300, "never 300 and others"


def test_a_failed_image_gives_its_pixels_back() -> None:
    budget = PixelBudget(100)
    for _ in range(3):
        with pytest.raises(ImageError), budget.hold(80):
            raise ImageError
    with budget.hold(100):
        pass


def test_every_thread_of_an_encode_takes_its_pixels_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Recorder(2 * PIXELS)
    monkeypatch.setattr(codec, "BUDGET", budget)
    Path("d/a").mkdir(parents=True)
    for number in range(100):
        Path(f"d/a/{number:03}.{'png' if number % 2 else 'jpg'}").write_bytes(saved("PNG" if number % 2 else "JPEG"))
    encode_all("d", Path("o"), [50], threads=6)
    assert len(Beton(Path("o/d-q50.beton"))) == budget.times == 100
    assert 0 < budget.most <= 2 * PIXELS
