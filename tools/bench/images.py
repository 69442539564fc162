"""The images of a benchmark: as many as it needs, some of them repeatedly if the folder has too few."""

import random
import sys
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor


@dataclass(frozen=True, slots=True)
class Data:
    """The same images twice: in the class folders of ``folder``, and in ``beton``."""

    folder: Path
    beton: Path
    classes: int


def copy_images(source: Path, folder: Path, count: int) -> int:
    """Copy ``count`` images from all classes of ``source`` to ``folder/<class>``; return the number of classes."""
    sources = open_sources(source)
    chosen = next((candidate for candidate in sources if candidate.split == "train"), sources[0])
    items = [chosen.items[i] for i in random.Random(0).sample(range(len(chosen.items)), min(count, len(chosen.items)))]  # noqa: S311
    files = []
    for number, item in enumerate(items):
        files.append(folder / chosen.classes[item.label] / f"{number}{Path(item.key).suffix}")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(chosen.store.read(item))
    for number, file in enumerate(islice(cycle(files), count - len(files)), start=len(files)):
        file.with_stem(str(number)).hardlink_to(file)
    return len(list(folder.iterdir()))


def make_data(source: Path, folder: Path, count: int) -> Data:
    """Copy the images of a round from ``source`` below ``folder``, as files and as a beton."""
    print(f"copying and encoding {count} images", file=sys.stderr)
    classes = copy_images(source, folder / "train", count)
    sources = open_sources(folder / "train")
    outputs = plan_outputs(sources, [EncodeSpec("source")], folder / "betons")
    with open_executor() as (executor, workers):
        encode_dataset(sources, outputs, executor=executor, workers=workers)
    return Data(folder / "train", folder / "betons" / "train-source.beton", classes)
