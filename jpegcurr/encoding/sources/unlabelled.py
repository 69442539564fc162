"""A plain folder of images as one split without classes, for commands that need none: ``preview``, ``audit``."""

from pathlib import Path

from jpegcurr.encoding.sources.base import FolderStore, ListingBuilder, Source
from jpegcurr.encoding.sources.image_folder import SUFFIXES, image_files
from jpegcurr.encoding.sources.open import LAYOUTS
from jpegcurr.errors import SourceError


def open_unlabelled(where: str) -> Source | None:
    """Return all images in a plain folder, however deep, as one split whose class has no name; None if it is no such folder.

    Raises:
        SourceError: it holds no images.
    """
    if next((layout for layout in LAYOUTS if layout.labels != "required" and layout.matches(where)), None) is not LAYOUTS[-1]:
        return None
    root, builder = Path(where), ListingBuilder()
    for name, size in image_files(root):
        if name:
            builder.add(name, 0, size)
    if not len(builder):
        raise SourceError(f"{where} holds no images. Their names end in {', '.join(sorted(SUFFIXES))}.")
    return Source(where, root.resolve().name, ("",), builder.build(), FolderStore(root), named=False)
