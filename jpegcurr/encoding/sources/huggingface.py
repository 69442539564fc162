"""Image data sets of the package ``datasets``: from the Hugging Face hub, or from a folder that ``save_to_disk`` wrote."""

import logging
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.sources.base import MISSING, SPLITS, Item, Listing, ListingBuilder, Source, read_bytes
from jpegcurr.encoding.sources.class_labels import (
    MOST_CLASSES,
    ClassNumbers,
    complete_numbers,
    is_integer,
    resolve_labels,
    sort_class_names,
)
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES, split_in_name
from jpegcurr.errors import ImageError, SourceError, UsageError
from jpegcurr.system import install_command

PREFIX = "hf:"
PARQUET = ".parquet"
# Names of label columns, where there are several candidates.
LABELS = ("label", "labels", "class", "fine_label", "category", "target")

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class HubStore:
    """Images in a column of a data set: an item's offset is its row.

    The data set is memory-mapped: reading does not change it, and a pickle contains the names of its files, not their bytes.
    """

    name: str
    dataset: Any  # datasets.Dataset of this column alone, not decoded
    column: str

    def read(self, item: Item) -> bytes:
        """Return the bytes of an image; see ``Store``."""
        image = self.dataset[item.offset][self.column]
        if image is None or (image["bytes"] is None and not image["path"]):
            raise ImageError("the row has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        if "://" in image["path"]:
            raise ImageError(f"its bytes are not in the data set, but at {image['path']}")
        return read_bytes(image["path"], 0, MISSING, listed=item.size >= 0)

    def locate(self, item: Item) -> str:
        """Return the data set, the split and the row, counted from 0."""
        return f"{self.name}, row {item.offset}"

    def changed_at(self, item: Item) -> int | None:  # noqa: ARG002
        """Return None: the file that a row lies in is not known."""
        return None

    def modified_at(self, item: Item) -> int | None:  # noqa: ARG002
        """Return None: rows have no time stamps."""
        return None


def is_hub(where: str) -> bool:
    """Return whether ``where`` names a data set of the package ``datasets``, or is a Parquet file or a folder of them."""
    return where.startswith(PREFIX) or (where.rstrip("/").endswith(PARQUET) and Path(where).exists())


def open_hub(where: str) -> tuple[Source, ...]:
    """List every split of ``hf:NAME``, ``hf:NAME:CONFIGURATION`` or ``hf:FOLDER``; ``validation`` is called ``val``.

    A Parquet file, or a folder ``x.parquet`` of them, is one split, which its name may tell (``val-q50.parquet``).

    There must be one column of images. The labels are the one ``ClassLabel`` column, or the one of several that ``LABELS``
    names: numbers and names are then the data set's own, in its order, but names that are whole numbers are sorted as these.
    Without such a column, they are the whole numbers or texts of the one column that ``LABELS`` names: numbers are kept,
    texts become positions among the sorted texts of ``train``.

    A key is the row's number, counted from 0, and the name of the image's file if the row has it. A split without rows or
    without any label is ignored with a warning if another split has labels. No code of a data set is run.

    Raises:
        UsageError: the extra ``hf`` is not installed.
        SourceError: the data set does not exist or cannot be reached; it does not have one column of images and one of
            labels; some rows have a label and some have none; ``val`` has a class that ``train`` lacks; every label is but the
            name of its split, as ``datasets`` invents labels for images in ``train/`` and ``test/`` without class folders.
    """
    try:
        from datasets import ClassLabel
    except ImportError:
        raise UsageError(f"{where} needs the package datasets. Run {install_command('datasets')}.") from None
    loaded = _load(where)
    splits = _by_split(where, loaded)
    features = next(iter(splits.values())).features
    images, labels = _image_column(where, features), _label_column(where, features)
    numbers, listings = ClassNumbers(), dict[str, Listing]()
    for name, dataset in splits.items():
        _check_alike(where, name, dataset.features, features, images, labels)
        split_labels = _labels(f"{where}, split {name}", dataset, labels, numbers)
        if (split_labels >= 0).any():
            listings[name] = _listing(dataset, images, split_labels)
        else:
            log.warning("%s: the split %s is ignored, because it has no labels in the column %s", where, name, labels)
    if not listings:
        raise SourceError(f"{where} has no labels in the column {labels}. Choose a data set with labels.")
    if isinstance(features[labels], ClassLabel):
        classes, listings = _sort_numbers(tuple(features[labels].names), listings)
        _refuse_invented(where, classes, listings)
    else:
        classes, listings = resolve_labels(
            where, listings, numbers.names, sort_class_names if _is_text(features[labels]) else complete_numbers
        )
    if len(classes) == 1:
        log.warning(
            "%s has a single class, %r; of a folder, the package datasets takes the lowest one for it", where, classes[0]
        )
    stores = {name: HubStore(f"{where}, split {name}", _undecoded(splits[name], images), images) for name in listings}
    named = isinstance(loaded, Mapping)  # a lone data set may have the name of the split that it was taken from
    return tuple(Source(where, name, classes, items, stores[name], named=named) for name, items in listings.items())


def _load(where: str) -> Any:
    """Return a Dataset or a DatasetDict."""
    from datasets import load_dataset, load_from_disk

    name, configuration = where.removeprefix(PREFIX), None
    if not name:
        raise SourceError(f"{where} names no data set. Give {PREFIX}NAME, {PREFIX}NAME:CONFIGURATION or {PREFIX}FOLDER.")
    if name.startswith((".", "/")) and not Path(name).exists():
        raise SourceError(f"{where}: there is no folder {name}.")
    if ":" in name and not Path(name).exists():
        name, _, configuration = name.rpartition(":")
    try:
        if any((Path(name) / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
            return load_from_disk(str(Path(name).resolve()))  # so that the store can be read from another folder
        if Path(name).suffix == PARQUET and Path(name).exists():
            files = sorted(map(str, Path(name).glob(f"*{PARQUET}"))) if Path(name).is_dir() else [name]
            meaning = split_in_name(Path(name).stem)
            return load_dataset("parquet", data_files={meaning[0] if meaning else "train": files})
        return load_dataset(name, configuration)
    except Exception as error:  # datasets, the hub's client, Arrow and the network raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise SourceError(
            f"{where} cannot be opened: {reason}. Check its name, the network and your access (hf auth login)."
        ) from None


def _by_split(where: str, loaded: Any) -> dict[str, Any]:
    """Return data sets by split, those of ``SPLITS`` first."""
    if not isinstance(loaded, Mapping):
        known = loaded.split is not None and str(loaded.split).isidentifier()  # not train[:10%]
        return {str(loaded.split) if known else Path(where.removeprefix(PREFIX)).resolve().name: loaded}
    if not loaded:
        raise SourceError(f"{where} has no splits, so there is nothing to encode.")
    splits: dict[str, Any] = {}
    for name, dataset in loaded.items():
        usual = SPLIT_NAMES.get(str(name).lower())
        splits[name if usual is None or usual in {*loaded, *splits} else usual] = dataset
    first = [name for name in SPLITS if name in splits]
    return {name: splits[name] for name in dict.fromkeys([*first, *splits])}


def _image_column(where: str, features: Mapping[str, Any]) -> str:
    from datasets import Image

    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) != 1:
        raise SourceError(f"{where} must have one column of images, but has {len(columns)}: {_describe(features)}.")
    return columns[0]


def _label_column(where: str, features: Mapping[str, Any]) -> str:
    from datasets import ClassLabel

    columns = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(columns) == 1:
        return columns[0]
    candidates = columns or [name for name, feature in features.items() if _is_text(feature) or _is_number(feature)]
    known = [name for name in candidates if name in LABELS]
    if len(known) != 1:
        raise SourceError(
            f"{where} must have one column of labels, ClassLabel or named {' or '.join(LABELS)}. "
            f"It has {_describe(features)}{_describe_folder(where)}."
        )
    return known[0]


def _is_value(feature: Any) -> bool:
    return type(feature).__name__ == "Value"


def _is_text(feature: Any) -> bool:
    return _is_value(feature) and feature.dtype in ("string", "large_string")


def _is_number(feature: Any) -> bool:
    return _is_value(feature) and feature.dtype.removeprefix("u") in ("int8", "int16", "int32", "int64")


def _describe(features: Mapping[str, Any]) -> str:
    kinds = {name: feature.dtype if _is_value(feature) else type(feature).__name__ for name, feature in features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _sort_numbers(names: tuple[str, ...], listings: dict[str, Listing]) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Sort classes that are whole numbers as every source does (``datasets`` sorts folders as text); others stay."""
    ordered = sort_class_names(names)
    if ordered == names or len(ordered) != len(names) or not all(map(is_integer, names)):
        return names, listings
    positions = np.array([ordered.index(name) for name in names])
    return ordered, {split: listing.with_labels(positions[listing.labels]) for split, listing in listings.items()}


def _refuse_invented(where: str, classes: tuple[str, ...], listings: Mapping[str, Listing]) -> None:
    """Raise SourceError if every label only says in which split its image is."""
    for split, items in listings.items():
        meanings = {split_in_name(classes[label]) for label in np.unique(items.labels)}
        if not all(meaning is not None and meaning[0] == split for meaning in meanings):
            return
    shown = ", ".join(classes[:3])
    raise SourceError(
        f"{where} has no labels: its classes ({shown}) only name the splits' folders, which the package datasets takes for "
        f"labels. Put the images of each class in a folder of its own, <split>/<class>/*{_describe_folder(where)}."
    )


def _describe_folder(where: str) -> str:
    """Return how a folder can be encoded without the package datasets, as the end of a sentence; "" for no folder."""
    name = where.removeprefix(PREFIX)
    if not Path(name).is_dir():
        return ""
    return f"; or encode the folder itself, jpegcurr encode {name}, or one of images with a table, --labels labels.csv"


def _check_alike(where: str, split: str, here: Mapping[str, Any], first: Mapping[str, Any], images: str, labels: str) -> None:
    """Raise SourceError if a split has other columns than the first; it may lack the column of labels."""
    if here.get(images) != first[images] or here.get(labels, first[labels]) != first[labels]:
        raise SourceError(
            f"{where}: {images} or {labels} of the split {split} differs from the first split. "
            "Give both the same type and the same classes."
        )


def _labels(where: str, dataset: Any, column: str, numbers: ClassNumbers) -> NDArray[np.int64]:
    """Return every row's label: a ClassLabel's own, others numbered as they appear; all -1 if no row has one."""
    if not len(dataset) or column not in dataset.features:
        return np.full(len(dataset), MISSING)
    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns([column])[:].column(column).to_pylist()
    labels = np.array([_label(value, None if hasattr(feature, "names") else numbers) for value in values], np.int64)
    largest = 0 if _is_text(feature) else max(value or 0 for value in values)
    if largest >= MOST_CLASSES:
        raise SourceError(
            f"{where}: {column} has values up to {largest}, which are ids, not labels. Labels must be below {MOST_CLASSES}."
        )
    if (labels >= 0).any() and (labels < 0).any():
        raise SourceError(f"{where}, row {np.argmin(labels)} has no label in {column}, but other rows have. Add it.")
    return labels


def _label(value: int | str | None, numbers: ClassNumbers | None) -> int:
    """Return a row's label, unchanged if there are no ``numbers``; -1 if it has none."""
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "" or (isinstance(value, int) and value < 0):
        return -1
    return int(value) if numbers is None else numbers.number(str(value))


def _listing(dataset: Any, column: str, labels: NDArray[np.int64]) -> Listing:
    """List every row; the sizes come from Arrow's offsets, without reading the images."""
    from pyarrow import compute

    cells = dataset.data.column(column)
    sizes, paths = compute.binary_length(compute.struct_field(cells, "bytes")), compute.struct_field(cells, "path")
    if dataset._indices is not None:  # rows that were selected or shuffled
        rows = dataset._indices.column(0)
        sizes, paths = sizes.take(rows), paths.take(rows)
    builder, width = ListingBuilder(), len(str(len(labels) - 1))
    for row, (size, path) in enumerate(zip(sizes, paths, strict=True)):
        name = posixpath.basename(path.as_py() or "")
        key = f"{row:0{width}}-{name}" if name else f"{row:0{width}}"
        builder.add(key, int(labels[row]), size.as_py() if size.is_valid else _size(path.as_py()), offset=row)
    return builder.build()


def _size(path: str | None) -> int:
    """Return the size of an image whose bytes are in a file; MISSING if there is none."""
    try:
        return Path(path).stat().st_size if path else MISSING
    except (OSError, ValueError):
        return MISSING


def _undecoded(dataset: Any, column: str) -> Any:
    from datasets import Image

    return dataset.with_format(None).select_columns([column]).cast_column(column, Image(decode=False))
