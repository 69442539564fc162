"""What can be encoded, and how a data set's kind is told from what is there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.csv_labels import open_table
from jpegcurr.encoding.sources.huggingface import PREFIX, open_hub
from jpegcurr.encoding.sources.image_folder import open_folders
from jpegcurr.encoding.sources.imagenet_tars import is_imagenet, open_imagenet
from jpegcurr.encoding.sources.webdataset import is_shards, open_shards
from jpegcurr.errors import SourceError


def open_sources(
    where: str | Path,
    *,
    labels: Path | None = None,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> tuple[Source, ...]:
    """Open every split of a data set, or those named in ``splits``.

    ``where`` is an image folder, a flat folder with a table of ``labels``, ImageNet's own archives, WebDataset shards,
    or ``hf:NAME[:CONFIGURATION]``, a Hugging Face data set. ``classes`` keeps some of them; ``limit`` keeps so many
    images of each split, chosen by ``seed``. A data set without splits is one split, called what ``splits`` says.

    Raises:
        SourceError: there is nothing that can be encoded, a split or class is not there, or ``val`` has a class that
            ``train`` lacks.
    """
    sources = _choose(_open(str(where), labels), splits, str(where))
    if classes:
        sources = tuple(source.with_classes(classes) for source in sources)
    if limit is not None:
        sources = tuple(source.limited(limit, seed) for source in sources)
    return sources


def _open(where: str, labels: Path | None) -> tuple[Source, ...]:
    root = Path(where)
    if where.startswith(PREFIX) or is_shards(where):
        if labels is not None:
            raise SourceError(f"{where} has labels of its own, so --labels {labels} would do nothing. Leave it away.")
        return open_hub(where) if where.startswith(PREFIX) else open_shards(where)
    if not root.exists():
        hint = " Name shards like this: 'shards/train-{000..146}.tar'." if "*" in where else ""
        raise SourceError(
            f"{root} does not exist.{hint} Give a folder that holds train/<class>/* and val/<class>/*, or <class>/*."
        )
    if is_imagenet(root):
        return open_imagenet(root, labels)
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder, nor an archive that is known. `jpegcurr encode --help` says what is.")
    return open_table(root, labels) if labels is not None else open_folders(root)


def _choose(sources: tuple[Source, ...], splits: Sequence[str], where: str) -> tuple[Source, ...]:
    """The splits that were asked for; one that is only called like its folder takes the name it is given."""
    names = list(dict.fromkeys(splits)) or [source.split for source in sources]
    if len(sources) == len(names) == 1 and not sources[0].named:
        return (replace(sources[0], split=names[0]),)
    by_name = {source.split: source for source in sources}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SourceError(f"{where} has no split {unknown[0]!r}, only {', '.join(by_name)}.")
    return tuple(by_name[name] for name in names)
