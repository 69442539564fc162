"""A preview from Python: one call measures a set at JPEG qualities and writes the page."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from jpegcurr.analysis.preview.curve import estimate_curve
from jpegcurr.analysis.preview.measure import Failure, ImageMeasure, measure_pictures
from jpegcurr.analysis.preview.page import room_for_pictures, write_page
from jpegcurr.analysis.preview.picture_set import open_pictures
from jpegcurr.analysis.preview.pictures import SIDES, fit_pictures
from jpegcurr.analysis.preview.results import Preview
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality, Resize, Subsampling, check_quality
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.files import refuse_existing

QUALITIES: tuple[Quality, ...] = (95, 75, 50, 30, 10)
IMAGES, SAMPLE = 12, 200
MOST_IMAGES = 200  # that a page shows


def preview(
    where: str | Path | Sequence[str | Path],
    qualities: Sequence[Quality] = QUALITIES,
    output: str | Path | None = None,
    *,
    images: int | None = None,
    sample: int | None = None,
    splits: Sequence[str] = (),
    subsampling: Subsampling = "420",
    resize: Resize | None = None,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Preview:
    """Measure images at JPEG qualities, before anything is encoded, and write a page of them to ``output`` if it is given.

        jpegcurr.preview("data/imagenet/val", [75, 50, 10], "preview.html").points[-1].psnr.mean

    Args:
        where: image files, or a data set in any form that ``encode_dataset`` takes.
        qualities: 1 to 100; ``source`` is always there, as what all are compared with.
        output: the page, an HTML file that needs nothing else.
        images: how many pictures the page shows, at most 200; 12 if not given. Files that are named are all shown.
        sample: how many images are measured, at least those that are shown; 200 if not given. Named files all are.
        splits: the splits of a data set; all if none is given.
        subsampling: chroma of the JPEGs, as in ``EncodeSpec``.
        resize: shrinks images first.
        seed: of the order in which images are chosen.
        max_pixels: how many pixels an image may have; a larger one counts as unread.
        force: replace an existing page.
        progress: called in this thread with the name of the step, and the number of images done and in all.

    Raises:
        UsageError: there is no quality, or an option contradicts another; or the page exists.
        SourceError: nothing is there, or it cannot be read as a data set.
        JpegcurrError: no image that was chosen can be read.
        EncodeError: the source itself fails.
    """
    specs = _specs(qualities, subsampling, resize)
    page = None if output is None else Path(output)
    if page is not None:
        refuse_existing([page], force=force)
    given = [where] if isinstance(where, str | Path) else list(where)
    chosen = open_pictures(given, splits)
    shown, drawn = _counts(len(chosen), images, sample, named=bool(chosen.named))
    show = progress or _show_nothing
    drawn_pictures = chosen.first(drawn, seed)
    with ExitStack() as stack:
        executor, workers = stack.enter_context(open_executor())
        results = measure_pictures(
            drawn_pictures,
            specs,
            executor,
            workers,
            max_pixels=max_pixels,
            done=lambda done: show("measure", done, len(drawn_pictures)),
        )
        measured = tuple(one for one in results if isinstance(one, ImageMeasure))
        failures = tuple(one for one in results if isinstance(one, Failure))
        if not measured:
            first = failures[0]
            many = f"None of {len(failures):,} images can be read; the first" if len(failures) > 1 else "The only image"
            raise JpegcurrError(f"{many} is {first.picture.place}: {first.reason}.")
        qualities_named = [str(spec.quality) for spec in specs]
        points = estimate_curve(qualities_named, results, len(chosen), chosen.source_bytes, seed)
        result = Preview(
            chosen.where,
            len(chosen),
            chosen.source_bytes,
            specs,
            seed,
            bool(chosen.named),
            measured,
            failures,
            points,
            SIDES[0],
            (),
        )
        on_page = measured[:shown]
        side, pictures = fit_pictures(
            on_page,
            specs,
            room_for_pictures(result, on_page),
            executor,
            workers,
            max_pixels=max_pixels,
            done=partial(lambda total, done: show("pictures", done, total), len(on_page)),
        )
    result = replace(result, side=side, pictures=pictures)
    if page is not None:
        write_page(result, page)
    return result


def _show_nothing(_step: str, _done: int, _total: int) -> None:
    """Stand for a progress that nobody follows."""


def _specs(qualities: Sequence[Quality], subsampling: Subsampling, resize: Resize | None) -> tuple[EncodeSpec, ...]:
    """Return the encodings, ``source`` first; raise UsageError unless there is another one."""
    numbers = [quality for quality in dict.fromkeys(map(check_quality, qualities)) if quality != "source"]
    if not numbers:
        raise UsageError(
            "The source is compared with JPEGs of other qualities, and none is given. Give some, such as 75,50,10."
        )
    wanted: list[Quality] = ["source", *numbers]
    return tuple(EncodeSpec(quality, subsampling, resize) for quality in wanted)


def _counts(there: int, images: int | None, sample: int | None, *, named: bool) -> tuple[int, int]:
    """Return how many images are shown and measured of those that are ``there``; raise UsageError if that cannot be."""
    if named:
        for option, value in (("--images", images), ("--sample", sample)):
            if value is not None:
                raise UsageError(
                    f"{option} {value} is for a data set: files that are named are all measured and shown. Omit it."
                )
    shown = there if named else IMAGES if images is None else images
    if shown > MOST_IMAGES:
        raise UsageError(
            f"A page shows at most {MOST_IMAGES} pictures, and {shown:,} are asked for. Give fewer, or the folder."
        )
    return shown, there if named else min(there, max(shown, SAMPLE if sample is None else sample))
