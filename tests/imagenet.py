"""Small copies of ImageNet's archives."""

import io
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from samples import PHOTOGRAPHS, jpeg, photograph

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CLASSES = dict(zip(("n01440764", "n02123045", "n07920052", "n12102133"), PHOTOGRAPHS, strict=True))
# The class of every validation image, in the order of their names: not sorted, with unequal counts.
TRUTH = ("n07920052", "n01440764", "n12102133", "n01440764", "n02123045")


_whole = cache(photograph)


def tar(files: Mapping[str, bytes], layout: int = tarfile.GNU_FORMAT, **attributes: object) -> bytes:
    """Return an archive of ``{name: bytes}``, in that order; ``attributes`` are set on every member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@cache
def crop(name: str, number: int) -> bytes:
    """Return a JPEG of 40 by 32 pixels, a different one for every number."""
    return jpeg(_whole(name).crop((8 * number, 16, 8 * number + 40, 48)))


def train_files(count: int = 3) -> dict[str, dict[str, bytes]]:
    """Return ``{class: {name: JPEG}}``."""
    return {wnid: {f"{wnid}_{n}.JPEG": crop(name, n) for n in range(count)} for wnid, name in CLASSES.items()}


def val_name(number: int) -> str:
    """Return a validation image's name; numbers start at 1, as in ImageNet."""
    return f"ILSVRC2012_val_{number:08}.JPEG"


def val_files() -> dict[str, bytes]:
    """Return ``{name: JPEG}``, one for every class in ``TRUTH``."""
    return {val_name(number): crop(CLASSES[wnid], 10 + number) for number, wnid in enumerate(TRUTH, 1)}


def nested(classes: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Return an archive of class archives."""
    return tar({f"{wnid}.tar": tar(files) for wnid, files in classes.items()})


def write_archives(root: Path, *splits: str) -> Path:
    """Write the archives of ``splits`` (both if none), and Kaggle's table beside that of val."""
    root.mkdir(exist_ok=True)
    if "train" in splits or not splits:
        (root / TRAIN).write_bytes(nested(train_files()))
    if "val" in splits or not splits:
        (root / VAL).write_bytes(tar(val_files()))
        (root / "LOC_val_solution.csv").write_text(kaggle_table())
    return root


def kaggle_table() -> str:
    """Return ``LOC_val_solution.csv``, whose rows are unordered and hold boxes."""
    rows = [f"ILSVRC2012_val_{number:08},{wnid} 1 2 30 40 {wnid} 5 6 7 8 " for number, wnid in enumerate(TRUTH, 1)]
    return "\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n"
