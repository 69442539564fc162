"""Labelled image folders, the layout of torchvision's ImageFolder, and which folders are splits rather than classes."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.encoding.sources.base import MISSING, SPLITS, FolderStore, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import sort_class_names
from jpegcurr.encoding.sources.spelling import describe_similar
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES, split_in_name
from jpegcurr.errors import SourceError
from jpegcurr.text import join_words

log = logging.getLogger("jpegcurr")

# torchvision's IMG_EXTENSIONS, and GIF.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})


def is_image_folder(where: str) -> bool:
    """Return whether ``where`` is a folder; ``open_folders`` or ``open_table`` then tells whether it can be encoded."""
    return Path(where).is_dir()


def open_folders(where: str | Path, *, flat_classes: bool = False) -> tuple[Source, ...]:
    """List ``where/{train,val,test}/<class>/*``, or ``where/<class>/*`` as one split named after the folder.

    Labels are positions among the sorted class names (``sort_class_names``); ``val`` and ``test`` use the classes of
    ``train`` if there is one. Folders are splits by these rules, in this order:

    - With ``flat_classes`` none is: every folder is a class, whatever its name.
    - Folders with one of the ``SPLIT_NAMES``, in capitals or not, are splits if ``train`` or ``val`` holds class folders.
      A ``test`` without class folders and all folders beside the splits are ignored with a warning.
    - One such folder that holds images itself, beside other folders that do, is a class like these (``bus car train``).
    - Folders with a split's name as one of their words (``seg_train``, ``test_set``) are splits if two of them mean different
      splits and have the same other words or two class folders of the same names, or if there is no other folder of images.
    - What looks like splits but holds images without class folders, or is otherwise unclear, is refused.

    A split's folder that holds nothing but a folder of class folders with a name of the same split stands for that.

    Raises:
        SourceError: a folder is empty or without classes, two are the same split, one has a class that ``train`` lacks, it is
            unclear whether folders are splits or classes, or a class has splits in it.
    """
    root = Path(where)
    splits = {} if flat_classes else split_folders(root)
    if not splits:
        return (_open_split(root, root, root.resolve().name, None, named=False, flat=flat_classes),)
    sources: list[Source] = []
    for name, folder in splits.items():
        sources.append(_open_split(root, folder, name, sources[0].classes if "train" in splits and sources else None))
    return tuple(sources)


def classes_beside(folder: Path) -> tuple[str, ...] | None:
    """Return the class folders of the folder ``train`` that lies beside ``folder``; None if there is none."""
    here = folder.resolve()
    for entry in _scan(here.parent):
        if SPLIT_NAMES.get(entry.name.lower()) == "train" and is_folder(entry) and entry.name != here.name:
            return sort_class_names(_contents(here.parent / entry.name)[0]) or None
    return None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A folder whose name means a split, by itself or (``words``, its other words) in part.

    ``folder`` holds the sub-folders ``classes``, and images itself if ``bare``.
    """

    name: str
    split: str
    words: tuple[str, ...]
    folder: Path
    classes: frozenset[str]
    bare: bool

    def belongs_with(self, other: "_Candidate") -> bool:
        """Return whether two are surely splits of one data set: they share all other words, or two class folders."""
        return self.split != other.split and (self.words == other.words or len(self.classes & other.classes) >= 2)


def _candidate(root: Path, name: str) -> _Candidate | None:
    exact = SPLIT_NAMES.get(name.lower())
    meaning = (exact, ()) if exact else split_in_name(name)
    if meaning is None:
        return None
    folder = root / name
    folders, bare = _contents(folder)
    while len(folders) == 1 and not bare:  # seg_train/seg_train/<class>, as archives of Kaggle unpack
        inner, inner_bare = _contents(folder / folders[0])
        if (split_in_name(folders[0]) or ("",))[0] != meaning[0] or not inner or inner_bare:
            break
        folder, folders = folder / folders[0], inner
    return _Candidate(name, *meaning, folder, frozenset(folders), bare)


def _contents(folder: Path) -> tuple[list[str], bool]:
    """Return the names of a folder's folders, and whether it holds images itself."""
    entries = [entry for entry in _scan(folder) if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if is_folder(entry)]
    return folders, any(is_image_name(entry.name) and not is_folder(entry) for entry in entries)


def _holds_images(folder: Path) -> bool:
    return any(path for path, _ in image_files(folder))


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders that are splits, train first; none if all folders are classes. See ``open_folders``."""
    names = _contents(root)[0]
    candidates = [candidate for name in names if (candidate := _candidate(root, name))]
    exact = [candidate for candidate in candidates if not candidate.words and candidate.name.lower() in SPLIT_NAMES]
    if any(candidate.split in ("train", "val") for candidate in exact):
        return _exact_splits(root, names, exact, candidates)
    return _worded_splits(root, names, candidates) if candidates else {}


def _exact_splits(
    root: Path, names: Sequence[str], exact: Sequence[_Candidate], candidates: Sequence[_Candidate]
) -> dict[str, Path]:
    """Return the splits where folders are called train or val, or none if such a folder is a class like those beside it."""
    if not any(candidate.classes for candidate in exact if candidate.split != "test"):
        others = [name for name in names if name not in {candidate.name for candidate in candidates}]
        classes = [name for name in others if _holds_images(root / name)]
        if not classes or len({one.split for one in candidates if one.bare or one.classes}) > 1:
            raise _no_class_folders(root, next(candidate for candidate in exact if candidate.split != "test"), candidates)
        name = join_words([candidate.name for candidate in exact])
        log.info("%s: %s is a class, not a split, because it holds images itself, as %s beside it does", root, name, classes[0])
        return {}
    lacking = next((candidate for candidate in exact if candidate.split != "test" and not candidate.classes), None)
    if lacking is not None:
        raise _no_class_folders(root, lacking, candidates)
    return _choose(root, names, [candidate for candidate in exact if candidate.classes])


def _worded_splits(root: Path, names: Sequence[str], candidates: Sequence[_Candidate]) -> dict[str, Path]:
    """Return the splits where their names are words in names of folders, or where test is the only one."""
    together = [one for one in candidates if any(one.belongs_with(other) for other in candidates)]
    levels = [one for one in candidates if one.classes and not one.bare]
    if together:
        lacking = next((one for one in together if one.split != "test" and not one.classes), None)
        if lacking is not None or not any(one.classes for one in together):
            raise _no_class_folders(root, lacking or together[0], candidates)
        return _choose(root, names, [one for one in together if one.classes])
    if not levels:
        return {}
    others = [name for name in names if name not in {one.name for one in levels} and _holds_images(root / name)]
    if not others and len(levels) == 1 and (len(levels[0].classes) > 1 or not levels[0].words):
        return _choose(root, names, levels)
    folders = {name: set(_contents(root / name)[0]) for name in others} | {one.name: one.classes for one in levels}
    for one in levels:
        alike = next((name for name, inner in folders.items() if name != one.name and len(one.classes & inner) > 1), None)
        if alike is not None:
            raise SourceError(
                f"{root / one.name} and {root / alike} have sub-folders of the same names, such as {min(one.classes)}, so "
                f"{one.name} may be a split or a class. Give one of them alone, jpegcurr encode {one.folder} --split "
                f"{one.split}; or, if {one.name} and {alike} are the classes, add --flat-classes."
            )
    return {}


def _no_class_folders(root: Path, lacking: _Candidate, candidates: Sequence[_Candidate]) -> SourceError:
    whole = next((one for one in candidates if one.classes), None)
    way_out = (
        f"jpegcurr encode {whole.folder} encodes {whole.name} alone."
        if whole
        else f"If {lacking.name} is itself a class of {root}, add --flat-classes."
    )
    return SourceError(
        f"{lacking.folder} has no class folders, though its name means the split {lacking.split}. Put the images of each class "
        f"in a folder of its own, <class>/*, or give a table of labels: jpegcurr encode {lacking.folder} --labels labels.csv. "
        f"{way_out}"
    )


def _choose(root: Path, names: Sequence[str], chosen: Sequence[_Candidate]) -> dict[str, Path]:
    """Return the folders of the splits, train first; say which others are ignored."""
    folders: dict[str, _Candidate] = {}
    for one in chosen:
        other = folders.setdefault(one.split, one)
        if other is not one:
            raise SourceError(
                f"{root} has the folders {other.name} and {one.name} for the split {one.split}. Keep one; or, if they are "
                "classes, add --flat-classes."
            )
    others = [name for name in names if name not in {one.name for one in chosen}]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning(
            "%s: ignored, because they are not splits with class folders: %s (--flat-classes takes every folder as a class)",
            root,
            shown,
        )
    if any(one.words for one in chosen):
        log.info("%s: read as splits: %s", root, ", ".join(f"{one.name} as {one.split}" for one in chosen))
    return {split: folders[split].folder for split in SPLITS if split in folders}


def is_image_name(name: str) -> bool:
    """Return whether a file's name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def image_files(folder: Path, is_wanted: Callable[[str], bool] = is_image_name) -> Iterator[tuple[str, int]]:
    """Yield (path below ``folder``, bytes) of every file that is named like an image, and ("", 0) for every other file.

    Another ``is_wanted`` lists files of other names in the same way. Links are followed, also to folders but never in a circle;
    hidden files are skipped. Everything named like an image is listed, even a folder or a dangling link: reading it reports the
    error.
    """
    yield from _walk(folder, "", frozenset({_identity(folder.stat())}), is_wanted)


def _walk(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, int]]:
    for entry in _scan(folder / prefix):
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if is_wanted(entry.name):
            yield name, _size(entry)
        elif is_folder(entry):
            here = _identity(os.stat(entry.path))  # noqa: PTH116  # on Windows an entry's own stat has no inode
            if here not in above:
                yield from _walk(folder, name + "/", above | {here}, is_wanted)
        else:
            yield "", 0


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries in the order of the keys below them, so that a million keys need not be sorted again."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name + "/" if is_folder(entry) else entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror}. Change its permissions, or remove it.") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that cannot be followed is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size(entry: os.DirEntry[str]) -> int:
    """Return the bytes on disk; MISSING for a dangling link."""
    try:
        return entry.stat().st_size
    except OSError:
        return MISSING


def _open_split(
    root: Path, folder: Path, split: str, classes: Sequence[str] | None, *, named: bool = True, flat: bool = False
) -> Source:
    entries = [entry for entry in _scan(folder) if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if is_folder(entry)]
    if not folders:
        raise SourceError(
            f"{folder} has no class folders. Put the images of each class in a folder of its own, <class>/*, "
            f"or give a table of labels: jpegcurr encode {folder} --labels labels.csv."
        )
    names = tuple(classes) if classes is not None else sort_class_names(folders)
    labels = {name: label for label, name in enumerate(names)}
    unknown = [name for name in folders if name not in labels]
    if unknown:
        similar = describe_similar(unknown[:1], labels)
        raise SourceError(
            f"{folder / unknown[0]} is a class that the train split lacks.{similar} Remove it, or add it to train."
        )
    builder, ignored = ListingBuilder(), len(entries) - len(folders)
    unlabelled = sum(is_image_name(entry.name) and not is_folder(entry) for entry in entries)
    nested: list[str] = []
    for name in folders:
        inner: dict[str, int] = defaultdict(int)  # images by first sub-folder
        for path, size in image_files(folder / name):
            if path:
                builder.add(f"{name}/{path}", labels[name], size)
                inner[path.partition("/")[0] if "/" in path else ""] += 1
            else:
                ignored += 1
        if not inner and classes is None:
            raise SourceError(f"{folder / name} holds no images, so its class cannot be learned. Add images or remove it.")
        if inner and "" not in inner:
            nested.append(f"{name}/{next(iter(inner))}")
        if not flat:
            _refuse_inner_splits(folder / name, inner, split)
    if not len(builder):
        raise SourceError(f"{folder} has class folders, but they hold no images.")
    if len(names) == 1:
        log.warning("%s has a single class, %r. If a table holds the labels, give it: --labels labels.csv.", folder, names[0])
    if nested:
        _warn_of_nested(folder, nested, len(folders))
    items = builder.build()
    return Source(
        str(root),
        split,
        names,
        items,
        FolderStore(folder),
        ignored,
        named=named,
        unlabelled=unlabelled,
        flat_classes=flat,
    )


def _refuse_inner_splits(folder: Path, inner: Iterable[str], split: str) -> None:
    """Raise SourceError if the class ``folder`` holds images of several splits, which must not become one."""
    names = {SPLIT_NAMES[name.lower()]: name for name in inner if name.lower() in SPLIT_NAMES}
    if len(names) > 1:
        raise SourceError(
            f"{folder} would be a class, but holds images of several splits, {join_words(sorted(names.values()))}. If it is "
            f"the data set, give it: jpegcurr encode {folder}. If every class has such folders, move them up: "
            f"{folder.parent}/<split>/<class>/*. To take the images of all of them as one split, give "
            f"jpegcurr encode {folder.parent} --flat-classes --split {split}."
        )


def _warn_of_nested(folder: Path, nested: Sequence[str], classes: int) -> None:
    log.warning(
        "%s: the images of %d of %d classes all lie in sub-folders, such as %s, and the upper folder is taken as the class; "
        "if the sub-folders are the classes, give the folder that holds them: jpegcurr encode %s",
        folder,
        len(nested),
        classes,
        nested[0],
        folder / nested[0].partition("/")[0],
    )
