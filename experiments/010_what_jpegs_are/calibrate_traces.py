"""How often `audit` reports an earlier compression where there was none, and how often where one was planted.

    python calibrate_traces.py IMAGES

IMAGES is a folder of JPEGs. Their copies reduced by 2 and by 3 count as never compressed, as do scikit-image's photographs and
noise; and so do altered copies of these: blurred, sharpened, of more contrast, darkened, of fewer levels, enlarged.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jpegcurr.encoding.jpeg.double_compression import THRESHOLD, Trace, find_moved_trace, find_trace
from jpegcurr.encoding.jpeg.quantisation import _MOZJPEG, libjpeg_tables

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "ihc", "moon", "page")
PHOTOGRAPHS += ("motorcycle_left", "motorcycle_right")
LATER = (30, 50, 60, 70, 75, 80, 85, 90, 93, 95, 96, 98, 100)
EARLIER = (30, 50, 60, 70, 75, 80, 85, 90, 92, 95)


def jpeg(image: Image.Image, quality: int, subsampling: int = 2) -> bytes:
    """Compress an image."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def again(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image and decode it."""
    return Image.open(BytesIO(jpeg(image, quality)))


def by_mozjpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image with the tables of mozjpeg and decode it."""
    file, scale = BytesIO(), 200 - 2 * quality
    table = [max(1, (step * scale + 50) // 100) for row in _MOZJPEG for step in row]
    image.save(file, "JPEG", qtables=[table, table])
    return Image.open(file)


def trace(image: Image.Image, quality: int, subsampling: int = 2) -> Trace | None:
    """Compress an image and look for an earlier compression."""
    return find_trace(jpeg(image, quality, subsampling), libjpeg_tables(quality)[0])


def noise(seed: int) -> Image.Image:
    """Noise with a spectrum of a photograph's."""
    random = np.random.default_rng(seed)
    power = np.fft.fftfreq(240)[:, None] ** 2 + np.fft.rfftfreq(320)[None] ** 2
    power[0, 0] = 1
    spectrum = random.normal(size=(2, *power.shape)) / power ** (random.uniform(0.8, 1.6) / 2)
    pixels = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (240, 320))
    pixels = (pixels - pixels.mean()) / pixels.std() * random.uniform(15, 60) + random.uniform(80, 170)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def plain(images: Path) -> Iterator[Image.Image]:
    """Yield pictures that were never compressed, or reduced so that nothing is left of it."""
    for name in PHOTOGRAPHS:
        photograph = Image.open(str(files("skimage").joinpath("data", f"{name}.png"))).convert("RGB")
        for left, top in ((3, 5), (120, 60), (37, 201)):
            if photograph.width >= left + 200 and photograph.height >= top + 150:
                yield photograph.crop((left, top, min(photograph.width, left + 300), min(photograph.height, top + 260)))
    for number, path in enumerate(sorted(images.rglob("*.JPEG"))[:240]):
        image, factor = Image.open(path).convert("RGB"), 2 + number % 2
        yield image.resize((image.width // factor, image.height // factor), Image.Resampling.LANCZOS)
    yield from map(noise, range(20))


def altered(image: Image.Image) -> Iterator[Image.Image]:
    """Yield copies as editors make them."""
    yield image.filter(ImageFilter.GaussianBlur(1))
    yield image.filter(ImageFilter.UnsharpMask(2, 150, 3))
    yield ImageEnhance.Contrast(image).enhance(1.7)
    yield ImageOps.autocontrast(image, cutoff=2)
    yield image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC)
    yield ImageOps.posterize(image, 5)
    yield image.point(lambda value: value * 0.3)


def main() -> None:
    """Print the tables."""
    never = list(plain(Path(sys.argv[1])))
    kinds = {"photographs, reduced, noise": never, "altered": [copy for image in never[::4] for copy in altered(image)]}
    every = []
    for name, images in kinds.items():
        by_quality = {}
        for quality in LATER:
            traces = [trace(image, quality) for image in images]
            by_quality[quality] = [found.score for found in traces if found]
            every += by_quality[quality]
        scores = np.concatenate(list(by_quality.values()))
        above = int((scores > THRESHOLD).sum())
        share = f"{above} above {THRESHOLD:g} ({100 * above / len(scores):.2f} %)"
        print(f"{name}: {len(images)} images, {len(scores)} files judged, {share}")
        print(
            "  by later quality:", {q: f"{sum(s > THRESHOLD for s in found)}/{len(found)}" for q, found in by_quality.items()}
        )
    print("quantiles, 50 %, 90, 99, 99.5, 99.9, 100:", np.quantile(every, [0.5, 0.9, 0.99, 0.995, 0.999, 1]).round(1))
    limits = (20, 30, 40, 60, 100)
    print(f"of {len(every)} above", {limit: int((np.array(every) > limit).sum()) for limit in limits}, flush=True)
    sample = never[::5]
    print(f"planted, % detected of {len(sample)} images (of these, % with the true quality in the stated range):")
    for later in (50, 75, 85, 90, 95, 98):
        cells = []
        for earlier in EARLIER:
            found = [trace(again(image, earlier), later) for image in sample]
            hits = [one for one in found if one and one.detected]
            right = sum(one.lowest <= earlier <= one.highest for one in hits)
            cells.append(f"{earlier}: {100 * len(hits) / len(found):.0f} ({100 * right / len(hits) if hits else 0:.0f})")
        print(f"  later {later}:", ", ".join(cells), flush=True)
    counts: dict[str, list[bool]] = defaultdict(list)
    for image in sample:
        for earlier in (50, 75):
            small = again(image, earlier).resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.BICUBIC)
            moved = again(image, earlier).crop((3, 5, image.width, image.height))
            other = by_mozjpeg(image, earlier)
            for name, copy in (("resized to 2/3", small), ("cropped by (3, 5)", moved), ("by mozjpeg's tables", other)):
                found = trace(copy, 95)
                counts[f"{earlier}, {name}, 95"].append(found is not None and found.detected)
    for name, hits in counts.items():
        print(f"{name}: {sum(hits)} of {len(hits)} detected")
    calibrate_moved(never)


def calibrate_moved(never: list[Image.Image]) -> None:
    """Print the same of other grids: files without an earlier compression, and those cropped by (3, 5) after one."""
    few = never[::12]
    copies = [copy for image in never[::60] for copy in altered(image)]
    for name, images in (("photographs, reduced, noise", few), ("altered", copies)):
        for quality in (85, 88, 90, 93, 95, 98):
            found = [find_moved_trace(jpeg(image, quality), libjpeg_tables(quality)[0]) for image in images]
            scores = [one.score for one in found if one]
            print(
                f"other grids, {name}, {quality}: {len(scores)} files, scores 50 %, 90, 100:",
                np.quantile(scores, [0.5, 0.9, 1]),
            )
    for earlier, later in ((50, 85), (75, 85), (75, 90), (75, 95), (85, 95), (90, 95)):
        cropped = [again(image, earlier).crop((3, 5, image.width, image.height)) for image in few]
        found = [find_moved_trace(jpeg(image, later), libjpeg_tables(later)[0]) for image in cropped]
        hits = [one for one in found if one and one.detected]
        right = sum(one.offset == (5, 3) and one.lowest <= earlier <= one.highest for one in hits)
        judged = sum(one is not None for one in found)
        print(f"other grids, {earlier}, cropped, {later}: {len(hits)} of {judged} detected, {right} with grid and quality")


if __name__ == "__main__":
    main()
