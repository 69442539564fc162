"""A beton as a map-style data set of torch's: for a ``DataLoader``, a loop, or an analysis of one's own."""

import logging
from collections.abc import Callable
from functools import cached_property
from operator import index as as_index
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils import data

from jpegcurr.encoding.beton.manifest import Manifest, refuse_second_encode
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.jpeg.codec import Quality, check_quality
from jpegcurr.training.data.datasets import open_dataset
from jpegcurr.training.sample_rng import samples_named

log = logging.getLogger("jpegcurr")

Transform = Callable[[Any], Any]


class BetonDataset(data.Dataset[tuple[Any, int]]):
    """The images and labels of a beton, like torchvision's ``ImageFolder``: ``dataset[i]`` is (RGB image of Pillow's, label).

    It can be pickled, and the workers of a ``DataLoader`` may be forked or spawned. A ``JPEG`` with a seed among the transforms
    draws by the sample's index.

    Args:
        path: a ``.beton``, of jpegcurr's or FFCV's.
        quality: None for the stored images; or a JPEG quality, 1 to 100, at which every whole image is encoded again when it is
            loaded, which gives, to the bit, the pixels that ``encode`` stores at that quality. ``source`` is the stored images
            of a beton that holds the source images, and no others.
        transform: a function of the image, whose result takes its place.
        target_transform: a function of the label.

    Attributes:
        classes: the names of the labels, in order; their numbers for a file without a manifest.
        class_to_idx: the label of every class.
        targets: the label of every image.

    Raises:
        BetonError: the file is missing or damaged.
        UsageError: ``quality`` is none, or the images of the file have a quality already.
    """

    def __init__(
        self,
        path: str | Path,
        quality: Quality | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ) -> None:
        self.quality = None if quality is None else check_quality(quality)
        self.transform, self.target_transform = transform, target_transform
        self._opened = open_dataset(Path(path))
        self.classes = list(self._opened.classes.names)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        if self.quality is not None and self._opened.manifest is not None:
            refuse_second_encode(self.path, self._opened.manifest, f"quality={self.quality}")
            if self.quality != "source":
                _warn_of_converted(self.path, self._opened.manifest)

    @property
    def path(self) -> Path:
        """The file."""
        return self._opened.path

    @cached_property
    def targets(self) -> list[int]:
        """The label of every image."""
        labels: list[int] = self._opened.labels.tolist()
        return labels

    def __len__(self) -> int:
        return len(self._opened)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the image of ``index``, which may be negative as a list's may, and its label.

        Raises:
            IndexError: there is no such image.
            ImageError: the image does not decode.
        """
        number = as_index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.path} has no sample {number}: it holds {len(self)}, from 0 to {len(self) - 1}.")
        number %= len(self)
        quality = None if self.quality == "source" else self.quality
        image: Any = Image.fromarray(read_pixels(self._opened.beton, number, quality=quality, scratch=True))
        label: Any = int(self._opened.labels[number])
        if self.transform is not None:
            with samples_named(number):
                image = self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)

    def __repr__(self) -> str:
        quality = "" if self.quality is None else f", quality={self.quality!r}"
        return f"BetonDataset({str(self.path)!r}{quality}: {len(self):,} images of {len(self.classes):,} classes)"


def _warn_of_converted(path: Path, manifest: Manifest) -> None:
    """Warn of images whose own bytes a beton of source images could not keep."""
    if converted := manifest.images - manifest.copied:
        log.warning(
            "%s: %d of %d images were converted or resized to quality 95, so their pixels at another quality are not those "
            "that encode stores of their files",
            path,
            converted,
            manifest.images,
        )
