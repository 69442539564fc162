"""WebDataset shards, read in place: plain tars in which an image and its label are neighbours with the same name."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice, product
from pathlib import Path
from typing import BinaryIO

from jpegcurr.encoding.sources.base import SPLITS, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import (
    MOST_CLASSES,
    ClassNumbers,
    complete_numbers,
    is_integer,
    is_value,
    resolve_labels,
)
from jpegcurr.encoding.sources.image_folder import is_folder, is_image_name
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES
from jpegcurr.encoding.sources.tar_index import Member, TarStore, read_members
from jpegcurr.errors import SourceError
from jpegcurr.json_files import MOST_LINE_BYTES, parse_json

JSON_LABELS = ("label", "cls", "class_name")
MOST_SHARDS = 1 << 20

_PEEK = 32  # members that are read to recognise a shard
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGENET = "ILSVRC2012_"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)", re.ASCII)
_NUMBER_AT_END = re.compile(r"[-_.]*[0-9]+(-of-[0-9]+)?$", re.ASCII)


def is_shards(where: str) -> bool:
    """Return whether ``where`` is WebDataset shards (see ``open_shards``), or compressed ones, which opening them refuses.

    A tar is a shard if its first members include an image and a label of the same key. ImageNet's archives are none.
    """
    root = Path(where)
    if not os.path.exists(where):  # noqa: PTH110  # a Path would raise for braces longer than a file's name may be
        return where.endswith((".tar", *_COMPRESSED)) and _expanded(where) != [where]
    if not root.is_dir():
        return _is_shard(root) or (_is_compressed(root) and not root.name.startswith(_IMAGENET))
    shards, compressed = _in_folder(root)
    return any(map(_is_shard, shards[:8])) or (bool(compressed) and not shards)


def open_shards(where: str) -> tuple[Source, ...]:
    """List WebDataset shards: a ``.tar``; a folder of them, or of ``train/*.tar`` and so on; ``path/{000..146}.tar``.

    A sample is a run of members with the same key, their name up to the first dot after the last slash: one image, and a
    label, which is the text of ``.cls`` or the value in ``.json`` of the first of ``JSON_LABELS``. Where all of them are whole
    numbers without zeros in front, they are labels as they are, from 0 to the largest, and their decimals are the classes'
    names. Otherwise labels are positions among the sorted texts (``sort_class_names``), of which ``007`` and ``7`` are two.

    A shard belongs to the split (``SPLIT_NAMES``) that is a word of its name or the name of its folder; without such a
    word, to one named after the folder or the shards. ``val`` and ``test`` use the classes of ``train``.

    Raises:
        SourceError: a shard is missing, compressed, cut short or damaged; a sample has an image without a label, a label
            without an image, or two images; some labels are numbers and some are not.
    """
    shards = _shards(where)
    builders: dict[str, ListingBuilder] = {}
    numbers, ignored, default = ClassNumbers(), Counter[str](), _default_split(where, shards)
    for container, shard in enumerate(shards):
        split = _split(shard) or default
        builder = builders.setdefault(split, ListingBuilder())
        for image, label, others in _samples(shard):
            ignored[split] += others
            if image is not None:
                builder.add(f"{shard.stem}/{image.name}", numbers.number(label), image.size, container, image.offset)
    _check(where, builders, numbers.names)
    listings = {split: builders[split].build() for split in sorted(builders, key=_rank)}
    classes, listings = resolve_labels(where, listings, numbers.names, complete_numbers)
    store = TarStore(tuple(map(str, shards)))
    named = any(map(_split, shards))
    return tuple(Source(where, split, classes, items, store, ignored[split], named=named) for split, items in listings.items())


def _check(where: str, builders: dict[str, ListingBuilder], names: Sequence[str]) -> None:
    empty = next((split for split, builder in builders.items() if not len(builder)), None)
    if empty is not None:
        raise SourceError(f"{where} holds no samples of the split {empty}. A sample is an image with its .cls or .json.")
    number, text = (next((name for name in names if is_integer(name) is kind), None) for kind in (True, False))
    if number is not None and text is not None:
        raise SourceError(f"{where} has both numbers and names as labels, such as {number} and {text!r}. Use one of the two.")


def _rank(split: str) -> tuple[int, str]:
    return [*SPLITS, split].index(split), split


def _samples(shard: Path) -> Iterator[tuple[Member | None, str, int]]:
    """Yield (image, label, number of other files) of every sample; no image where a run has only other files."""
    try:
        with shard.open("rb") as file:
            for key, run in groupby(read_members(file, str(shard)), lambda member: _key(member.name)):
                group = list(run)
                image, label = _sample(file, f"{shard}: {key}", group)
                yield image, label, sum(not is_image_name(member.name) and not _is_label(member.name) for member in group)
    except OSError as error:
        raise SourceError(
            f"{shard} cannot be read: {error.strerror or error}. Check its permissions, or copy it again."
        ) from None


def _sample(file: BinaryIO, where: str, group: Sequence[Member]) -> tuple[Member | None, str]:
    images = [member for member in group if is_image_name(member.name)]
    twice = next((name for name, count in Counter(member.name for member in group).items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{where} has {twice} twice. Pack every file once.")
    if len(images) > 1:
        raise SourceError(f"{where} has two images, {images[0].name} and {images[1].name}. A sample must have one image.")
    labels = sorted((member for member in group if _is_label(member.name)), key=lambda member: member.name.lower())
    texts = (_label(file, where, member) for member in labels)  # .cls before .json
    label = next((text for text in texts if text is not None), None)
    if images and label is None:
        raise SourceError(
            f"{where} has an image and no label. Pack a .cls, or a .json with {' or '.join(JSON_LABELS)}, next to it."
        )
    if label is not None and not images:
        raise SourceError(f"{where} has a label and no image. Pack a sample's files next to one another.")
    return (images[0], label or "") if images else (None, "")


def _label(file: BinaryIO, where: str, member: Member) -> str | None:
    """Return the class's name as it is written, without spaces around it; None for a ``.json`` without a label."""
    file.seek(member.offset)
    data = file.read(min(member.size, MOST_LINE_BYTES + 1))
    try:
        if len(data) > MOST_LINE_BYTES:
            raise ValueError("too large")
        value = data.decode().strip() if member.name.lower().endswith(".cls") else _in_json(parse_json(data))
        if isinstance(value, str):
            value.encode()  # JSON can encode lone surrogates
    except ValueError:
        raise SourceError(
            f"{where}: the label in {member.name} is not UTF-8 text, or not JSON, or larger than a megabyte. Pack it again."
        ) from None
    if value is None:
        return None
    text = str(value).strip() if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if is_integer(text) and (text.startswith("-") or (is_value(text) and int(text) >= MOST_CLASSES)):
        text = ""
    if not text:
        raise SourceError(
            f"{where}: {value!r} in {member.name} is not a label. Use a whole number, 0 or more, or a class's name."
        )
    return text


def _in_json(tree: object) -> object:
    return next((tree[name] for name in JSON_LABELS if name in tree), None) if isinstance(tree, dict) else None


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _is_label(name: str) -> bool:
    return name[len(_key(name)) :].lower() in (".cls", ".json")


def _is_shard(path: Path) -> bool:
    if path.suffix != ".tar" or path.name.startswith(_IMAGENET):
        return False
    first: list[str] = []
    with suppress(OSError, SourceError), path.open("rb") as file:  # errors are reported when it is opened
        first.extend(member.name for member in islice(read_members(file, str(path)), _PEEK))
    images = {_key(name) for name in first if is_image_name(name)}
    return any(_is_label(name) and _key(name) in images for name in first)


def _is_compressed(path: Path) -> bool:
    return path.name.endswith(_COMPRESSED)


def _shards(where: str) -> list[Path]:
    """Return the shards, all of which exist and have different names."""
    given = [where] if os.path.exists(where) else _expanded(where)  # noqa: PTH110
    shards, compressed = _in_folder(Path(where)) if os.path.isdir(where) else (list(map(Path, given)), [])  # noqa: PTH112
    wrong = next(filter(_is_compressed, shards or compressed), None)
    if wrong is not None:
        raise SourceError(f"{wrong} is compressed, but images are read in place. Decompress it to a plain .tar.")
    if not shards:
        raise SourceError(f"{where} holds no shards. A shard is named <name>.tar.")
    missing = next((path for path in shards if not path.is_file()), None)
    if missing is not None:
        raise SourceError(f"{missing} does not exist. Download it, or name only shards that exist.")
    twice = [key for key, count in Counter((_split(path), path.stem) for path in shards).items() if count > 1]
    if twice:
        raise SourceError(f"{where} has two shards named {twice[0][1]}.tar. Rename one.")
    return shards


def _in_folder(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the plain shards of a folder, or of its folders that are named like splits; and the compressed archives.

    In a folder that also holds images or folders of classes, compressed archives do not count as shards.
    """
    folders, archives, images = _scan(root)
    splits = [root / name for name in folders if name.lower() in SPLIT_NAMES]
    if splits:
        contents = [_scan(split) for split in splits]
        folders = set[str]().union(*(inner for inner, _, _ in contents))
        archives = [path for _, paths, _ in contents for path in paths]
        images = any(has_images for _, _, has_images in contents)
    if any(path.name.startswith(_IMAGENET) for path in archives) or (splits and folders):
        return [], []
    compressed = [] if folders or images else sorted(filter(_is_compressed, archives))
    return sorted(path for path in archives if not _is_compressed(path)), compressed


def _scan(folder: Path) -> tuple[set[str], list[Path], bool]:
    """Return the folders in ``folder``, the archives, and whether there are images, without listing a million of these."""
    folders, archives, images = set[str](), list[Path](), False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    folders.add(entry.name)
                elif entry.name.endswith((".tar", *_COMPRESSED)):
                    archives.append(folder / entry.name)
                images = images or is_image_name(entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror or error}. Change its permissions.") from None
    return folders, archives, images


def _expanded(pattern: str) -> list[str]:
    """Return every path that braces stand for: ``{000..146}``, padded with zeros if an end is, and ``{a,b}``."""
    choices = [[part] if index % 2 == 0 else _choices(part) for index, part in enumerate(_BRACES.split(pattern))]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise SourceError(f"{pattern} names more than {MOST_SHARDS} shards. Name fewer.")
    return ["".join(parts) for parts in product(*choices)]


def _choices(braces: str) -> Sequence[str]:
    ends = _RANGE.fullmatch(braces)
    if ends is None:
        return braces.split(",") if "," in braces else ["{" + braces + "}"]
    width = max(map(len, ends.groups())) if any(end.startswith("0") for end in ends.groups()) else 0
    low, high = sorted(map(int, ends.groups()))
    if high - low >= MOST_SHARDS:
        raise SourceError(f"{{{braces}}} names more than {MOST_SHARDS} shards. Name fewer.")
    return [f"{number:0{width}}" for number in range(low, high + 1)]


def _split(shard: Path) -> str | None:
    """Return the split in a shard's name, by whole words, so that "latest" is no test set."""
    words = [*re.findall("[a-z]+", shard.stem.lower()), shard.absolute().parent.name.lower()]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _default_split(where: str, shards: Sequence[Path]) -> str:
    """Return the split of shards whose names contain none."""
    if os.path.isdir(where):  # noqa: PTH112
        return Path(where).resolve().name
    stems = {_NUMBER_AT_END.sub("", shard.stem) for shard in shards}
    name = stems.pop() if len(stems) == 1 else ""
    return name or shards[0].resolve().parent.name
