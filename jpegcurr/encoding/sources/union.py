"""The union of several data sets: one listing, whose keys begin with the name of the folder that an image is from."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jpegcurr.encoding.sources.base import SPLITS, Item, ListingBuilder, Source, Store
from jpegcurr.encoding.sources.class_labels import ClassNumbers, sort_class_names
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES
from jpegcurr.errors import SourceError


@dataclass(frozen=True, slots=True)
class UnionStore:
    """Stores by the name that the keys of their items begin with."""

    stores: Mapping[str, Store]

    def _part(self, item: Item) -> tuple[Store, Item]:
        name, _, key = item.key.partition("/")
        return self.stores[name], replace(item, key=key)

    def read(self, item: Item) -> bytes:
        """Return the bytes of an image; see ``Store``."""
        store, inner = self._part(item)
        return store.read(inner)

    def locate(self, item: Item) -> str:
        """Return where an image lies; see ``Store``."""
        store, inner = self._part(item)
        return store.locate(inner)

    def changed_at(self, item: Item) -> int | None:
        """Return when an image's file last changed; see ``Store``."""
        store, inner = self._part(item)
        return store.changed_at(inner)

    def modified_at(self, item: Item) -> int | None:
        """Return the time stamp of an image's file; see ``Store``."""
        store, inner = self._part(item)
        return store.modified_at(inner)


def name_roots(roots: Sequence[str | Path]) -> tuple[str, ...]:
    """Return the names that keys begin with: the last part of every path.

    Raises:
        SourceError: two have the same name, or one lies in another, so that its images would be listed twice.
    """
    real = [os.path.realpath(root) for root in roots]
    for position, one in enumerate(real):
        for other, inner in enumerate(real):
            if position != other and (inner == one or inner.startswith(f"{one.rstrip(os.sep)}{os.sep}")):
                raise SourceError(
                    f"{roots[other]} lies in {roots[position]}, so its images would be listed twice. Give one of the two."
                    if inner != one
                    else f"{roots[position]} and {roots[other]} are the same folder. Give it once."
                )
    names = tuple(os.path.basename(os.path.abspath(root)) or "root" for root in roots)  # noqa: PTH100, PTH119  # of a link, its own
    for name, count in Counter(names).items():
        if count > 1:
            first, second = [root for root, own in zip(roots, names, strict=True) if own == name][:2]
            raise SourceError(
                f"{first} and {second} have one name, {name!r}, with which the keys of their images begin. Rename one of them, "
                f"or give it by a link of another name: ln -s {os.path.abspath(second)} {name}2."  # noqa: PTH100
            )
    return names


def unite(roots: Sequence[str], opened: Sequence[tuple[Source, ...]]) -> tuple[Source, ...]:
    """Return the union of data sets: splits and classes with the same name are one.

    ``opened[i]`` are the splits of ``roots[i]``. The keys of its images begin with its name (``name_roots``). Data sets without
    splits belong to the split that the names of their folders mean; without such a meaning all of them are one split. Labels
    are positions among the sorted names of the classes of every ``train``, or of all splits if there is no ``train``.

    Raises:
        SourceError: the names are not distinct, only some data sets have splits, or a split has a class that ``train`` lacks.
    """
    names = name_roots(roots)
    parts: dict[str, list[tuple[str, Source]]] = defaultdict(list)
    lone: list[tuple[str, Source]] = []
    for name, sources in zip(names, opened, strict=True):
        for source in sources:
            split = source.split if source.named else SPLIT_NAMES.get(source.split.lower())
            (parts[split] if split else lone).append((name, source))
    if lone and parts:
        raise SourceError(
            f"{lone[0][1].root} has no splits, but there is the split {next(iter(parts))} of "
            f"{next(iter(parts.values()))[0][1].root}, so it is unclear where its images belong. Move its class folders to "
            f"{lone[0][1].root}/train, or give only data sets with splits, or only such without."
        )
    if lone:
        parts = {"+".join(names): lone}
    known = parts.get("train") or [part for group in parts.values() for part in group]
    classes = sort_class_names(name for _, source in known for name in source.classes)
    order = sorted(parts, key=lambda split: ([*SPLITS, split].index(split), split))
    return tuple(_unite_split(split, roots, parts[split], classes, named=not lone) for split in order)


def _unite_split(
    split: str, roots: Sequence[str], parts: Sequence[tuple[str, Source]], classes: tuple[str, ...], *, named: bool
) -> Source:
    builder, numbers = ListingBuilder(), ClassNumbers()
    for name in classes:
        numbers.number(name)
    for name, source in parts:
        labels = [numbers.number(own) for own in source.classes]
        for item in source.items:
            label = labels[item.label]
            if label >= len(classes):
                raise SourceError(
                    f"{source.store.locate(item)} of the split {split} has the class {source.classes[item.label]!r}, which "
                    "train lacks. Remove it, or add images of the class to train."
                )
            builder.add(f"{name}/{item.key}", label, item.size, item.container, item.offset)
    return Source(
        roots[0],
        split,
        classes,
        builder.build(),
        UnionStore({name: source.store for name, source in parts}),
        sum(source.ignored for _, source in parts),
        named=named,
        unlabelled=sum(source.unlabelled for _, source in parts),
        flat_classes=any(source.flat_classes for _, source in parts),
        more_roots=tuple(roots[1:]),
    )
