"""What --resume compares of the images of an earlier encode: names, order, classes and content."""

import json
import os
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from samples import digests, image, jpeg, photograph

from jpegcurr.encoding.beton.manifest import items_path, read_items, read_manifest
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import Outcome, open_executor
from jpegcurr.errors import EncodeError, JpegcurrError, UsageError

Q50 = Path("betons/train-q50.beton")


def folder() -> str:
    for number in range(6):
        Path(f"d/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        Path(f"d/{'ab'[number % 2]}/{number}.jpg").write_bytes(image(number))
    return "d"


def shards(labels: str = "cat dog cat dog") -> str:
    with tarfile.open("s-0.tar", "w") as tar:
        for number, label in enumerate(labels.split()):
            for name, data in ((f"{number}.jpg", image(number)), (f"{number}.cls", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
    return "s-0.tar"


def table(labels: str = "cat dog cat dog") -> str:
    Path("d").mkdir(exist_ok=True)
    for number in range(4):
        Path(f"d/{number}.jpg").write_bytes(image(number))
    Path("labels.csv").write_text("".join(f"{number}.jpg,{label}\n" for number, label in enumerate(labels.split())))
    return "d"


def encode(where: str, qualities: list[Quality], **options: Any) -> None:
    labels = Path("labels.csv") if Path("labels.csv").exists() else None
    sources = open_sources(where, labels=labels, splits=["train"])
    outputs = plan_outputs(sources, [EncodeSpec(quality) for quality in qualities], Path("betons"))
    with open_executor(2) as (executor, workers):
        encode_dataset(sources, outputs, executor=executor, workers=workers, **options)


class Stop:
    """Stops an encode after its first chunk of images, as Ctrl-C does."""

    def begin(self, source: Source, done: int) -> None:
        pass

    def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
        raise KeyboardInterrupt


def classes_of_keys() -> dict[str, str]:
    manifest = read_manifest(Q50)
    assert manifest is not None
    return {row["key"]: manifest.classes[row["label"]] for row in read_items(Q50)}


@pytest.mark.parametrize("source", [table, shards])
def test_labels_that_were_corrected_are_refused_by_name_and_force_encodes_them(source: Callable[..., str]) -> None:
    encode(source(), [50])
    before = classes_of_keys()
    where = source("cat cat dog dog")
    with pytest.raises(UsageError, match=r"is of the class '...' and was of '...': its label changed .*--resume --force"):
        encode(where, [50], resume=True)
    assert classes_of_keys() == before
    encode(where, [50], resume=True, force=True)
    assert list(classes_of_keys().values()) != list(before.values())
    assert sorted(classes_of_keys().values()) == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("source", [table, shards])
def test_labels_that_were_corrected_while_an_encode_was_stopped(source: Callable[..., str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(source(), [50], watcher=Stop())
    where = source("dog dog cat cat")
    with pytest.raises(UsageError, match="its label changed since"):
        encode(where, [50], resume=True)
    encode(where, [50], resume=True, force=True)
    assert sorted(classes_of_keys().items())[0][1] == "dog"


def test_an_image_that_moved_to_another_class_is_another_image() -> None:
    encode(folder(), [50])
    Path("d/a/0.jpg").rename("d/b/0.jpg")
    with pytest.raises(UsageError, match="images were added, removed or renamed"):
        encode("d", [50], resume=True)


def test_a_picture_replaced_by_one_of_the_same_size_is_seen() -> None:
    encode(folder(), [50])
    path = Path("d/a/2.jpg")
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # a bit of the picture
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as copies with their old dates are
    with pytest.raises(UsageError, match=r"d/a/2\.jpg has other content of the same size"):
        encode("d", [50], resume=True)


def test_a_file_that_was_only_touched_is_the_same() -> None:
    encode(folder(), [50])
    before = digests(Path("betons"))
    for path in Path("d").rglob("*.jpg"):
        path.touch()
    encode("d", [50], resume=True)
    assert digests(Path("betons")) == before


def test_an_archive_that_was_packed_again_with_another_picture_is_seen() -> None:
    encode(shards(), [50])
    data = bytearray(Path("s-0.tar").read_bytes())
    start = data.index(b"\xff\xd8")
    data[data.index(b"\xff\xd9", start) - 20] ^= 1
    Path("s-0.tar").write_bytes(data)
    with pytest.raises(UsageError, match=r"s-0\.tar: 0\.jpg has other content"):
        encode("s-0.tar", [50], resume=True)


def test_qualities_of_images_that_were_replaced_in_between_do_not_pair() -> None:
    encode(folder(), ["source"])
    Path("d/a/2.jpg").write_bytes(jpeg(photograph("cat").resize((40, 30))))
    encode("d", [50])
    source, q50 = read_manifest(Path("betons/train-source.beton")), read_manifest(Q50)
    assert source is not None
    assert q50 is not None
    assert source.keys_sha256 == q50.keys_sha256
    assert source.content_sha256 != q50.content_sha256
    with pytest.raises(UsageError, match=r"d/a/2\.jpg has .* since betons/train-source\.beton was encoded"):
        encode("d", ["source", 50], resume=True)


def test_qualities_of_the_same_images_have_the_same_content() -> None:
    encode(folder(), ["source"])
    encode("d", [50, 20])
    contents = {read_manifest(path).content_sha256 for path in Path("betons").glob("*.beton")}  # type: ignore[union-attr]
    assert len(contents) == 1
    assert None not in contents


def test_outputs_of_the_former_version_have_no_checksums_and_are_kept() -> None:
    encode(folder(), [50])
    rows = [{name: row[name] for name in row if name != "source_crc32"} for row in read_items(Q50)]
    items_path(Q50).write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads(Q50.with_suffix(".json").read_text())
    del manifest["content_sha256"]
    Q50.with_suffix(".json").write_text(json.dumps(manifest))
    encode("d", ["source", 50], resume=True)
    assert read_manifest(Q50).content_sha256 is None  # type: ignore[union-attr]


def test_a_picture_that_cannot_be_read_any_more_is_named() -> None:
    encode(folder(), [50])
    Path("d/a/2.jpg").unlink()
    Path("d/a/2.jpg").mkdir()
    with pytest.raises(JpegcurrError, match=r"d/a/2\.jpg") as caught:
        encode("d", [50], resume=True)
    assert not isinstance(caught.value, EncodeError)
