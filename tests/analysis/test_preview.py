"""Previews: numbers of Pillow and scikit-image, estimates that cover, windows that are the JPEG's own blocks, one page."""

import csv
import io
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from samples import jpeg, photograph
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import jpegcurr
from jpegcurr.analysis.preview import distortion
from jpegcurr.analysis.preview import page as preview_page
from jpegcurr.analysis.preview.curve import RatePoint, estimate_curve
from jpegcurr.analysis.preview.distortion import Distortion, measure_distortion
from jpegcurr.analysis.preview.measure import Failure, ImageMeasure, QualityMeasure, measure
from jpegcurr.analysis.preview.picture_set import Picture, open_pictures
from jpegcurr.analysis.preview.pictures import BLOCK, SIDES, embed_picture, middle_window
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Resize, Subsampling, decode_resized, decode_rgb, encode_rgb, reencode
from jpegcurr.encoding.sources.base import FolderStore, Item
from jpegcurr.errors import JpegcurrError, SourceError, UsageError

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def call(command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        output = capsys.readouterr()
        return int(left.value.code or 0), output.out, output.err

    return call


# ---- distortion


@pytest.mark.parametrize("size", [(7, 7), (7, 90), (61, 8), (90, 70)])
@pytest.mark.parametrize("strip", [1, 1 << 16])
def test_distortion_is_scikit_images(size: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortion, "_STRIP", strip)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (*size, 3), np.uint8)
    for other in (255 - noise, noise // 2, np.full_like(noise, 255), noise ^ (random.random(noise.shape) < 0.01)):
        ours = measure_distortion(noise, other)
        assert ours.psnr == pytest.approx(peak_signal_noise_ratio(noise, other), rel=1e-13)
        assert ours.ssim == pytest.approx(structural_similarity(noise, other, channel_axis=-1), abs=1e-12)


def test_equal_and_tiny_images_have_the_distortion_that_is_defined() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    assert measure_distortion(image, image.copy()) == Distortion(inf, 1.0)
    tiny = measure_distortion(image[:6], image[:6] + np.uint8(1))
    assert (tiny.psnr, isnan(tiny.ssim)) == (pytest.approx(48.1308, abs=1e-4), True)
    with pytest.raises(ValueError, match="cannot be compared"):
        measure_distortion(image, image[:8])


def test_a_preview_has_the_bytes_and_numbers_of_pillow_and_scikit_image(photos: Path) -> None:
    jpegcurr.preview(photos / "val", [90, 20], "page.html")
    with pytest.raises(UsageError, match=r"page\.html exists"):
        jpegcurr.preview(photos / "val", [90, 20], "page.html")
    result = jpegcurr.preview(photos / "val", [90, 20], "page.html", force=True)
    assert len(result.measured) == 16
    for one in result.measured:
        with Image.open(photos / "val" / one.picture.name) as file:
            image = file.convert("RGB")
        for quality, ours in zip((90, 20), one.qualities[1:], strict=True):
            data = jpeg(image, quality=quality)
            shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert ours.distortion.psnr == pytest.approx(peak_signal_noise_ratio(np.asarray(image), shown), rel=1e-12)
            ssim = structural_similarity(np.asarray(image), shown, channel_axis=-1)
            assert ours.distortion.ssim == pytest.approx(ssim, abs=1e-12)
            assert ours.size == len(data)
    files = sum(path.stat().st_size for path in (photos / "val").rglob("*.jpg"))
    for number, point in enumerate(result.points):
        sizes = [one.qualities[number].size for one in result.measured]
        assert (round(point.total.low), round(point.total.estimate), round(point.total.high)) == (sum(sizes),) * 3
        assert point.ssim.low == point.ssim.mean == point.ssim.high
    assert (result.source_bytes, round(result.points[0].total.estimate)) == (files, files)


# ---- estimates


def fake(number: int, size: int, jpeg_size: int, side: int = 100) -> ImageMeasure:
    picture = Picture(str(number), FolderStore(Path()), Item(str(number), 0, size))
    shown = QualityMeasure(jpeg_size, Distortion(30 + number % 7, 0.9))
    return ImageMeasure(picture, size, side, side, False, (shown,))


def estimate(sample: list[ImageMeasure | Failure], images: int, files: int | None, seed: int = 0) -> RatePoint:
    (point,) = estimate_curve(["50"], sample, images, files, seed)
    return point


def test_the_bytes_of_a_set_are_the_samples_share_of_its_files_with_failures_as_nothing() -> None:
    sample: list[ImageMeasure | Failure] = [fake(0, 100, 30), fake(1, 300, 50)]
    sample.append(Failure(fake(2, 0, 0).picture, 100, "broken"))
    assert estimate(sample, 10, 2000).total.estimate == pytest.approx(2000 * 80 / 500)
    assert estimate(sample, 10, None).total.estimate == pytest.approx(10 * 80 / 3)
    whole = estimate(sample, 3, 500)
    assert (whole.total.low, whole.total.high) == pytest.approx((80, 80))
    assert whole.bits_per_pixel.mean == pytest.approx(8 * 40 / 10_000)
    assert whole.psnr.low == whole.psnr.mean == 30.5
    one = estimate(sample[:1], 10, 2000)
    assert isnan(one.total.low), "one image of many has no interval"
    assert estimate(sample[:1], 1, 100).total.high == pytest.approx(30)


def test_images_without_a_change_or_too_small_for_ssim_are_left_out_and_counted() -> None:
    same, tiny = fake(0, 100, 30), fake(1, 100, 30)
    same = replace(same, qualities=(QualityMeasure(30, Distortion(inf, 1.0)),))
    tiny = replace(tiny, qualities=(QualityMeasure(30, Distortion(20.0, float("nan"))),))
    point = estimate([same, tiny], 2, 200)
    assert (point.psnr.mean, point.identical) == (20, 1)
    assert (point.ssim.mean, point.without_ssim) == (1, 1)


def test_intervals_of_a_sample_cover_what_the_whole_set_has() -> None:
    random = np.random.default_rng(1)
    files = random.lognormal(11, 0.7, 400).astype(int)
    images: list[ImageMeasure | Failure] = [
        fake(number, int(size), int(size * share), side)
        for number, (size, share, side) in enumerate(
            zip(files, random.normal(0.3, 0.06, 400), random.integers(100, 900, 400), strict=True)
        )
    ]
    truth = estimate(images, 400, int(files.sum()))
    covered = np.zeros(2)
    for seed in range(60):
        sample = [images[place] for place in random.permutation(400)[:150]]
        part = estimate(sample, 400, int(files.sum()), seed)
        total, rate = part.total, part.bits_per_pixel
        covered += [total.low <= truth.total.estimate <= total.high, rate.low <= truth.bits_per_pixel.mean <= rate.high]
        assert total.high - total.low < 0.12 * truth.total.estimate, "files' own sizes explain most of it"
    assert (covered >= 0.88 * 60).all()
    assert (covered < 60).any(), "an interval that always covers is too wide"


# ---- pictures


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(SIDES))
def test_a_window_lies_in_the_middle_on_the_grid(width: int, height: int, side: int) -> None:
    window = middle_window(width, height, side)
    if window is None:
        assert max(width, height) <= side
        return
    left, top, right, bottom = window
    assert left % BLOCK == top % BLOCK == 0
    assert (right - left, bottom - top) == (min(width, side), min(height, side))
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    assert abs((left + right) - width) <= 2 * BLOCK
    assert abs((top + bottom) - height) <= 2 * BLOCK


@pytest.mark.parametrize(
    ("subsampling", "of_file"), [("420", "4:4:4"), ("444", "4:2:0"), ("keep", "4:2:2"), ("keep", "4:1:1"), ("keep", "4:4:0")]
)
def test_the_jpeg_of_a_window_has_the_blocks_of_the_whole(subsampling: Subsampling, of_file: str) -> None:
    """Check that only the outermost pixels differ, over which decoders smooth chroma, and that the source is exact."""
    Path("image.jpg").write_bytes(
        encode_rgb(np.asarray(photograph("astronaut").crop((3, 5, 400, 280))), 90, "keep", source_layout=of_file)
    )
    picture = open_pictures(["image.jpg"]).first(1, 0)[0]
    specs = [EncodeSpec(quality, subsampling) for quality in ("source", 60, 10)]
    measured = measure(picture, specs, 1_000_000)
    assert isinstance(measured, ImageMeasure)
    shown = embed_picture(measured, specs, 128, 1_000_000)
    assert shown.window == (128, 64, 256, 192)
    source, *jpegs = (decode_rgb(encoded.data)[64:192, 128:256] for encoded in reencode("image.jpg", specs))
    assert (decode_rgb(shown.source) == source).all()
    for whole, part in zip(jpegs, map(decode_rgb, shown.jpegs), strict=True):
        assert (whole[2:-2, 2:-2] == part[2:-2, 2:-2]).all()
        assert (whole == part).all() or subsampling != "444"
        assert not (whole == source).all()


def test_a_whole_picture_is_the_jpeg_itself_without_metadata() -> None:
    image = photograph("cat").crop((0, 0, 90, 70))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "where we live"
    Path("a.jpg").write_bytes(jpeg(image, quality=85, icc_profile=profile, exif=exif, comment="hello"))
    image.save("a.png")
    specs = [EncodeSpec("source"), EncodeSpec(30)]
    for file in ("a.jpg", "a.png"):
        measured = measure(open_pictures([file]).first(1, 0)[0], specs, 1_000_000)
        assert isinstance(measured, ImageMeasure)
        shown = embed_picture(measured, specs, 1024, 1_000_000)
        assert shown.jpegs == (reencode(file, [30])[0].data,)
        assert (decode_rgb(shown.source) == decode_rgb(file)).all()
        assert not any(secret in shown.source for secret in (b"where we live", b"hello", b"ICC_PROFILE"))
    assert (measured.converted, shown.source_type) == (True, "image/webp")


@pytest.mark.parametrize("resize", [Resize("max", 50), Resize("short", 60, "box"), Resize("max", 500)])
def test_the_reference_of_a_resized_image_is_what_is_encoded(resize: Resize) -> None:
    data = jpeg(photograph("coffee"), quality=92)
    (encoded,) = reencode(data, [EncodeSpec(40, "444", resize)])
    assert encode_rgb(decode_resized(data, resize), 40, "444") == encoded.data


def test_a_page_that_would_be_too_large_shows_smaller_windows_and_says_so(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = jpegcurr.preview(photos / "val", [95, 50], "whole.html", images=16)
    assert (whole.side, whole.windowed, len(whole.pictures)) == (SIDES[0], 0, 16)
    for largest, side, warnings in ((390_000, 96, 0), (200_000, 64, 1)):
        assert Path("whole.html").stat().st_size > largest
        monkeypatch.setattr(preview_page, "LARGEST", largest)
        small = jpegcurr.preview(photos / "val", [95, 50], "small.html", images=16, force=True)
        assert (small.side, len(caplog.records)) == (side, warnings)
        assert (Path("small.html").stat().st_size <= largest) == (not warnings)
        assert f"more than {side} pixels a side show" in Path("small.html").read_text()
        assert small.points == whole.points, "numbers are of whole images"
    assert "small.html has 0.2 MB, which opens slowly" in caplog.text


# ---- the set


def test_images_are_the_first_of_one_seeded_order_whatever_their_number(photos: Path) -> None:
    names = [picture.name for picture in open_pictures([photos]).first(64, 0)]
    assert sorted(names) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    assert [picture.name for picture in open_pictures([photos]).first(9, 0)] == names[:9]
    assert [picture.name for picture in open_pictures([photos]).first(64, 1)] != names
    val = open_pictures([photos], ["val"])
    assert (val.where, len(val)) == (f"{photos}, val", 16)
    assert {picture.name for picture in val.first(99, 0)} == {name[4:] for name in names if name.startswith("val/")}
    assert all(picture.store.read(picture.item) for picture in open_pictures([photos]).first(64, 0))


def test_a_folder_without_classes_is_one_set_and_broken_files_are_rows(run: Run) -> None:
    Path("flat").mkdir()
    good = jpeg(photograph("cat").crop((0, 0, 64, 48)), quality=90)
    for number in range(3):
        Path(f"flat/<b>{number}.jpg").write_bytes(good)
    Path("flat/text.jpg").write_text("text")
    Path("flat/cut.jpg").write_bytes(good[:400])
    code, out, err = run("preview flat --qualities 50,10 --csv table.csv --json -q")
    assert code == 0
    document = json.loads(out)
    assert (document["images"], document["sampled"], len(document["pictures"]), len(document["unread"])) == (5, 5, 3, 2)
    assert document["source_bytes"] == 3 * len(good) + 4 + 400
    assert document["curve"][1]["set_bytes"]["estimate"] == 3 * document["pictures"][0]["qualities"][1]["bytes"]
    assert "flat/text.jpg: not an image that Pillow can read" in err
    assert "its 5 images are one set" in err
    page = Path("preview.html").read_text()
    assert all(text in page for text in document["summary"])
    assert all(text in page for text in ("&lt;b&gt;0.jpg", "text.jpg", "not an image that Pillow can read"))
    assert "<b>0" not in page
    with Path("table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["quality"] for row in rows] == ["source", "50", "10"] * 3 + ["", ""]
    assert {row["shown"] for row in rows if row["quality"]} == {"1"}
    assert [float(row["psnr"]) for row in rows[:3]] == [inf] + [one["psnr"] for one in document["pictures"][0]["qualities"][1:]]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("nothing", 2, "nothing does not exist. Give a folder"),
        ("empty", 2, "empty holds no images."),
        ("one/a.jpg empty", 2, "one/a.jpg is a file and empty is not."),
        ("x.beton", 2, "x.beton holds JPEGs that are encoded already. Give the images"),
        ("one/a.jpg --images 2", 2, "--images 2 is for a data set"),
        ("one/a.jpg --split val", 2, "--split val is for a data set"),
        ("one --quality source", 2, "and none is given. Give some, such as 75,50,10."),
        ("one --quality 50,101", 2, "quality 101 is not a JPEG quality."),
        ("one/bad.jpg", 1, "The only image is one/bad.jpg: the file is empty."),
        ("one --filter box", 2, "--filter box does nothing without --max-side"),
        ("one -o empty", 2, "empty is a folder."),
        ("one --csv there.csv", 2, "there.csv exists. Choose another place with --csv,"),
    ],
)
def test_a_mistake_is_a_sentence_and_writes_nothing(command: str, code: int, message: str, run: Run) -> None:
    for folder in ("empty", "one"):
        Path(folder).mkdir()
    Path("one/a.jpg").write_bytes(jpeg(photograph("cat").crop((0, 0, 40, 30)), quality=90))
    Path("one/bad.jpg").touch()
    Path("there.csv").touch()
    Path("x.beton").touch()
    status, out, err = run(f"preview {command} -q")
    assert (status, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert {path.name for path in Path().iterdir()} == {"empty", "one", "there.csv", "x.beton"}


def test_python_says_what_the_command_says(photos: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        jpegcurr.preview("nothing")
    with pytest.raises(UsageError, match="at most 200 pictures"):
        jpegcurr.preview(photos, images=201)
    Path("bad.jpg").write_bytes(b"x")
    Path("worse.jpg").write_bytes(b"y")
    with pytest.raises(JpegcurrError, match=r"None of 2 images can be read; the first is bad\.jpg: "):
        jpegcurr.preview(["bad.jpg", "worse.jpg"])
    steps = []
    result = jpegcurr.preview(photos, [30], images=2, sample=5, progress=lambda *step: steps.append(step))
    assert steps[:5] == [("measure", done, 5) for done in range(1, 6)]
    assert steps[5:] == [("pictures", 1, 2), ("pictures", 2, 2)]
    assert "intervals are too narrow" in result.as_dict()["summary"][1]
    assert not list(Path().glob("*.html"))
