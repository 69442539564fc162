"""Contact sheets, as an offline page or a PNG: for each image, the pixels that the model saw and the most probable classes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jpegcurr.analysis.class_names import full_name
from jpegcurr.analysis.html.page import template
from jpegcurr.analysis.prediction.confusion import Confusion
from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import UsageError
from jpegcurr.files import staged, write_text
from jpegcurr.text import sanitize

SUFFIXES = (".html", ".png")
PICTURE = 192  # pixels a side
LIMIT = 200  # images by default: about two megabytes
_LINE, _PAD, _COLUMNS = 15, 12, 6
_INK, _SOFT, _BAR, _RIGHT, _WRONG = "#1c2127", "#5b6672", "#bcd3ea", "#1a7f37", "#9a3412"


@dataclass(frozen=True, slots=True)
class Tile:
    """One image: its picture as WebP, (name, probability) pairs, and whether it is right, None without a true class."""

    file: str
    truth: str | None
    right: bool | None
    top: tuple[tuple[str, float], ...]
    webp: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/webp;base64," + base64.b64encode(self.webp).decode("ascii")


class ContactSheet:
    """A collector of tiles for ``limit`` evenly spaced ``files``, and of files that could not be read; it keeps no pixels."""

    def __init__(self, title: str, files: Sequence[Path], classes: Sequence[str], limit: int = LIMIT) -> None:
        self.title, self.total = title, len(files)
        self.tiles: list[Tile] = []
        self.unread: list[tuple[str, str]] = []
        self._classes = classes
        numbers = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int).tolist()
        self.chosen = {files[number] for number in numbers}

    def add(self, prediction: FilePrediction) -> None:
        """Add a file, if it is a chosen one or could not be read."""
        if prediction.probabilities is None:
            self.unread.append((str(prediction.file), prediction.error))
        elif prediction.file in self.chosen and prediction.view is not None:
            top = prediction.likeliest()
            pairs = tuple((full_name(self._classes[label]), float(prediction.probabilities[label])) for label in top)
            truth = None if prediction.truth is None else full_name(self._classes[prediction.truth])
            right = None if prediction.truth is None else top[0] == prediction.truth
            self.tiles.append(Tile(str(prediction.file), truth, right, pairs, _thumbnail(prediction.view)))

    def write(self, path: Path, confusion: Confusion | None = None) -> None:
        """Write the page or, if ``path`` ends in ``.png``, the picture, whole or not at all."""
        if path.suffix == ".png":
            with staged(path) as partial:
                _draw(self.tiles).save(partial, "PNG")
        else:
            write_text(path, self._render(confusion if confusion and confusion.images else None))

    def _render(self, confusion: Confusion | None) -> str:
        page = template("jpegcurr.analysis", "contact_sheet.html.jinja")
        return page.render(sheet=self, confusion=confusion, full_name=full_name, size=PICTURE)


def check_sheet(path: Path) -> None:
    """Raise UsageError for a name that ends in neither ``.html`` nor ``.png``."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--sheet {path}: a contact sheet is a page or a picture. Give a name that ends in .html or .png.")


def _thumbnail(view: Pixels) -> bytes:
    """Return the pixels as WebP, ``PICTURE`` a side; a whole image keeps its ratio, between transparent bars."""
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(view))
    if image.width == image.height:
        picture = image.resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)
    else:
        picture = ImageOps.pad(image.convert("RGBA"), (PICTURE, PICTURE), Image.Resampling.BICUBIC, color=(0, 0, 0, 0))
    picture.save(file, "WEBP", quality=80)
    return file.getvalue()


def _draw(tiles: Sequence[Tile]) -> Image.Image:
    """Return a picture of all tiles on white, six in a row."""
    columns = max(1, min(_COLUMNS, len(tiles)))
    lines = max((len(tile.top) for tile in tiles), default=0) + 2
    width, height = PICTURE + _PAD, PICTURE + lines * _LINE + 2 * _PAD
    sheet = Image.new("RGB", (columns * width + _PAD, max(1, -(-len(tiles) // columns)) * height + _PAD), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, tile in enumerate(tiles):
        left, top = _PAD + number % columns * width, _PAD + number // columns * height
        with Image.open(io.BytesIO(tile.webp)) as picture:
            sheet.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
        _write(draw, font, tile, left, top + PICTURE + 3)
    return sheet


def _write(draw: ImageDraw.ImageDraw, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", tile: Tile, x: int, y: int) -> None:
    """Draw the lines below a tile's picture: the file, the true class, and the most probable classes on their bars."""
    draw.text((x, y), _fit(draw, font, tile.file, PICTURE, keep_end=True), _INK, font)
    if tile.truth is not None:
        verdict, colour = ("right", _RIGHT) if tile.right else ("wrong", _WRONG)
        draw.text((x, y + _LINE), _fit(draw, font, f"{verdict}: is {tile.truth}", PICTURE), colour, font)
    for rank, (name, share) in enumerate(tile.top):
        line = y + (rank + 2) * _LINE
        draw.rectangle((x, line, x + round(share * (PICTURE - 1)), line + _LINE - 3), fill=_BAR)
        percent = f"{100 * share:.1f} %"
        room = PICTURE - draw.textlength(percent, font) - 8
        draw.text((x + 2, line), _fit(draw, font, name, room), _INK, font)
        draw.text((x + PICTURE - draw.textlength(percent, font), line), percent, _SOFT, font)


def _fit(
    draw: ImageDraw.ImageDraw,
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    text: str,
    width: float,
    *,
    keep_end: bool = False,
) -> str:
    """Return ``text`` as one safe line of ``width`` pixels, shortened by dots at its end or, if ``keep_end``, beginning."""
    text = sanitize(text)
    if draw.textlength(text, font) <= width:
        return text
    part = text[-200:] if keep_end else text[:200]
    while part and draw.textlength(part + "...", font) > width:
        part = part[1:] if keep_end else part[:-1]
    return f"...{part}" if keep_end else f"{part}..."
