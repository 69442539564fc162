"""Image sets of the package ``datasets``: from the Hugging Face hub, or from a folder that ``save_to_disk`` made."""

import logging
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.sources.base import MISSING, SPLIT_NAMES, SPLITS, Item, Listing, ListingBuilder, Source, read_bytes
from jpegcurr.encoding.sources.class_labels import MOST_CLASSES, ClassNumbers, counted, in_order, settle
from jpegcurr.errors import ImageError, SourceError, UsageError

PREFIX = "hf:"
LABELS = ("label", "labels", "class", "fine_label", "category", "target")  # columns of labels, if not the only one

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class HubStore:
    """Images in a column of a data set: an item's offset is its row.

    The data set is memory-mapped: reading does not change it, and pickling takes the names of its files along.
    """

    name: str
    dataset: Any  # datasets.Dataset of this column alone, not decoded
    column: str

    def read(self, item: Item) -> bytes:
        """See ``Store``."""
        image = self.dataset[item.offset][self.column]
        if image is None or (image["bytes"] is None and not image["path"]):
            raise ImageError("the row has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        if "://" in image["path"]:
            raise ImageError(f"its bytes are not in the data set but at {image['path']}")
        return read_bytes(image["path"], 0, MISSING, listed=item.size >= 0)

    def where(self, item: Item) -> str:
        """The data set, the split and the row, counted from 0."""
        return f"{self.name}, row {item.offset}"


def open_hub(where: str) -> tuple[Source, ...]:
    """Open ``hf:NAME``, ``hf:NAME:CONFIGURATION`` or ``hf:FOLDER``, every split of it; ``validation`` is called ``val``.

    Images are the one column of images. Labels are the one ``ClassLabel``, or of several the one that ``LABELS`` names:
    numbers and names are then the data set's own, in its order. Without any, they are the whole numbers or texts of the one
    column that ``LABELS`` names: numbers stay what they are, texts become positions among the sorted ones of ``train``.

    A key is the row's number, counted from 0, and the name of the image's file if the row has it. A split without rows or
    without a single label is left out with a warning if another has some. No code of a data set is run.

    Raises:
        UsageError: the extra ``hf`` is not installed.
        SourceError: there is no such data set, or no way to it; it has not one column of images and one of labels; rows
            without a label among others; ``val`` has a class that ``train`` lacks.
    """
    try:
        from datasets import ClassLabel
    except ImportError:
        raise UsageError(f"{where} needs the package datasets: pip install 'jpegcurr[hf]'.") from None
    loaded = _load(where)
    splits = _in_order(where, loaded)
    features = next(iter(splits.values())).features
    images, labels = _image_column(where, features), _label_column(where, features)
    numbers, listings = ClassNumbers(), dict[str, Listing]()
    for name, dataset in splits.items():
        _check_alike(where, name, dataset.features, features, images, labels)
        found = _labels(f"{where}, split {name}", dataset, labels, numbers)
        if (found >= 0).any():
            listings[name] = _listing(dataset, images, found)
        else:
            log.warning("%s: the split %s has no labels in the column %s and is left out", where, name, labels)
    if not listings:
        raise SourceError(f"{where} has no labels in the column {labels}, so nothing can be learnt from it.")
    if isinstance(features[labels], ClassLabel):
        classes = tuple(features[labels].names)
    else:
        classes, listings = settle(where, listings, numbers.names, in_order if _is_text(features[labels]) else counted)
    stores = {name: HubStore(f"{where}, split {name}", _undecoded(splits[name], images), images) for name in listings}
    named = isinstance(loaded, Mapping)  # a lone data set may have the name of what it was cut from
    return tuple(Source(where, name, classes, items, stores[name], named=named) for name, items in listings.items())


def _load(where: str) -> Any:
    """A Dataset or a DatasetDict."""
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
        return load_dataset(name, configuration)
    except Exception as error:  # whatever datasets, the hub's client, Arrow and the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise SourceError(
            f"{where} cannot be opened: {reason}. See that it is called so, can be reached, and is open to you (hf auth login)."
        ) from None


def _in_order(where: str, loaded: Any) -> dict[str, Any]:
    """Data sets by split, those of ``SPLITS`` first."""
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

    found = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(found) != 1:
        raise SourceError(f"{where} must have one column of images, and has {len(found)}: {_shown(features)}.")
    return found[0]


def _label_column(where: str, features: Mapping[str, Any]) -> str:
    from datasets import ClassLabel

    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(found) == 1:
        return found[0]
    fit = found or [name for name, feature in features.items() if _is_text(feature) or _is_number(feature)]
    known = [name for name in fit if name in LABELS]
    if len(known) != 1:
        raise SourceError(
            f"{where} must have one column of labels, a ClassLabel or called {' or '.join(LABELS)}. It has {_shown(features)}."
        )
    return known[0]


def _is_value(feature: Any) -> bool:
    return type(feature).__name__ == "Value"


def _is_text(feature: Any) -> bool:
    return _is_value(feature) and feature.dtype in ("string", "large_string")


def _is_number(feature: Any) -> bool:
    return _is_value(feature) and feature.dtype.removeprefix("u") in ("int8", "int16", "int32", "int64")


def _shown(features: Mapping[str, Any]) -> str:
    kinds = {name: feature.dtype if _is_value(feature) else type(feature).__name__ for name, feature in features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _check_alike(where: str, split: str, here: Mapping[str, Any], first: Mapping[str, Any], images: str, labels: str) -> None:
    """A split must be like the first one, but may be without a column of labels."""
    if here.get(images) != first[images] or here.get(labels, first[labels]) != first[labels]:
        raise SourceError(
            f"{where}: {images} or {labels} of the split {split} are not what they are in the first split. "
            "Give them the same type and the same classes."
        )


def _labels(where: str, dataset: Any, column: str, numbers: ClassNumbers) -> NDArray[np.int64]:
    """The label of every row: a ClassLabel's own, others in the order in which they come; -1 throughout if none has one."""
    if not len(dataset) or column not in dataset.features:
        return np.full(len(dataset), MISSING)
    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns([column])[:].column(column).to_pylist()
    found = np.array([_label(value, None if hasattr(feature, "names") else numbers) for value in values], np.int64)
    largest = 0 if _is_text(feature) else max(value or 0 for value in values)
    if largest >= MOST_CLASSES:
        raise SourceError(f"{where}: {column} goes up to {largest}. Those are ids, and no labels.")
    if (found >= 0).any() and (found < 0).any():
        raise SourceError(f"{where}, row {np.argmin(found)} has no label in {column}, though others have. Give it one.")
    return found


def _label(value: int | str | None, numbers: ClassNumbers | None) -> int:
    """A row's label, as it is without ``numbers``; -1 if it has none."""
    if value is None or value == "" or (isinstance(value, int) and value < 0):
        return -1
    return int(value) if numbers is None else numbers.number(str(value))


def _listing(dataset: Any, column: str, labels: NDArray[np.int64]) -> Listing:
    """Every row; of the images' bytes only the offsets between them are read."""
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
    """Of a row whose bytes are in a file."""
    try:
        return Path(path).stat().st_size if path else MISSING
    except (OSError, ValueError):
        return MISSING


def _undecoded(dataset: Any, column: str) -> Any:
    from datasets import Image

    return dataset.with_format(None).select_columns([column]).cast_column(column, Image(decode=False))
