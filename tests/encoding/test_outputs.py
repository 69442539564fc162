"""Outputs in other formats than a beton: who reads them, stops and full disks, names, and conversions between all of them."""

import hashlib
import io
import json
import os
import resource
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import encode_all, jpeg, photograph

from jpegcurr.cli import main
from jpegcurr.encoding.beton.manifest import read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.convert import convert_output
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import FORMATS, Format, format_of, output_path, parse_formats
from jpegcurr.encoding.outputs.sample_names import SampleNames
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import BetonError, EncodeError, SourceError, UsageError

OTHERS: tuple[Format, ...] = ("folder", "webdataset", "parquet")
SHARD = 9_000  # bytes, which two or three of the small images fill


def encode_to(
    root: str | Path, out: str | Path, kinds: Sequence[Format], qualities: Sequence[Quality] = (50,), **options: Any
) -> None:
    sources = open_sources(root)
    outputs = plan_outputs(sources, [EncodeSpec(quality) for quality in qualities], Path(out), kinds)
    with open_executor(1) as (executor, workers):
        encode_dataset(sources, outputs, executor=executor, workers=workers, **{"shard_bytes": SHARD} | options)


@pytest.fixture
def val(photos: Path) -> Path:
    """The 16 photographs of val in 4 classes, 4 of them grey; with a PNG, an image that cannot be read, and time stamps."""
    root = Path("val")
    shutil.copytree(photos / "val", root)
    photograph("cat").resize((60, 50)).save(root / "cat" / "00.png")
    (root / "cat" / "broken.jpg").write_bytes(b"no image")
    for number, path in enumerate(sorted(root.rglob("*.*"))):
        os.utime(path, ns=(number, 10**18 + 123 * number))
    return root


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.filterwarnings("ignore")
def test_one_encode_is_read_by_torchvision_timm_and_datasets_with_equal_pixels_and_labels(val: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    with pytest.raises(SystemExit) as left:
        main(shlex.split("encode val --quality 50 --to beton,folder --to webdataset --to parquet -o out --max-failures 1 -q"))
    assert not left.value.code
    beton, rows = Beton(Path("out/val-q50.beton")), [row for row in read_items(Path("out/val-q50.beton")) if "bytes" in row]
    pixels = [np.asarray(Image.open(io.BytesIO(beton.payload(index))).convert("RGB")) for index in range(17)]
    by_key = dict(zip((row["key"] for row in rows), zip(pixels, beton.labels.tolist(), strict=True), strict=True))

    folder = ImageFolder("out/val_50")
    assert folder.classes == list(read_manifest(Path("out/val_50")).classes)  # type: ignore[union-attr]
    keys = [str(Path(path).relative_to("out/val_50")).replace(".png.jpg", ".png") for path, _ in folder.samples]
    assert sorted(keys) == sorted(by_key)
    for key, (image, label) in zip(keys, folder, strict=True):
        assert label == by_key[key][1]
        assert np.array_equal(np.asarray(image), by_key[key][0])
    timm = create_dataset("wds/val", root="out", split="val-q50")
    assert len(timm) == 17
    for expected, label, (image, number) in zip(pixels, beton.labels, timm, strict=True):
        assert number == label
        assert np.array_equal(np.asarray(image), expected)
    training = create_dataset("wds/val", root="out/val-q50.wds", split="val-q50", is_training=True, batch_size=4)
    assert sum(1 for _ in training) == 20  # whole batches, because the number of samples is known
    files = "out/val-q50.parquet/*.parquet"
    hub = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hub"))
    assert type(hub.features["image"]).__name__ == "Image"
    assert hub.features["label"].names == folder.classes
    for expected, label, row in zip(pixels, beton.labels, hub, strict=True):
        assert row["label"] == label
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), expected)


def test_a_folder_has_the_names_and_the_time_stamps_of_the_source(val: Path) -> None:
    encode_to(val, "out", ["folder"], ["source"], max_failures=1)
    files = {str(path.relative_to("out/val_source")): path for path in Path("out/val_source").rglob("*.*")}
    assert files.keys() == {str(path.relative_to(val)).replace(".png", ".png.jpg") for path in val.rglob("*.*")} - {
        "cat/broken.jpg"
    }
    for name, path in files.items():
        original = val / name.replace(".png.jpg", ".png")
        assert path.stat().st_mtime_ns == original.stat().st_mtime_ns
        assert (path.read_bytes() == original.read_bytes()) == (original.suffix == ".jpg")
    (failed,) = (row for row in read_items(Path("out/val_source")) if row["status"] == "failed")
    assert failed["key"] == "cat/broken.jpg"


def test_conversions_are_what_the_encode_would_have_written(val: Path) -> None:
    encode_to(val, "out", FORMATS, max_failures=1)
    expected = tree(Path("out"))
    for kind in FORMATS:
        path = output_path(Path("out"), "val", EncodeSpec(50), kind)
        assert format_of(path) == kind
        convert_output(path, FORMATS, Path(f"from-{kind}"), shard_bytes=SHARD)
        actual = tree(Path(f"from-{kind}"))
        differing = {name for name in expected | actual if expected.get(name) != actual.get(name)}
        assert differing == ({"val_50.items.jsonl"} if kind != "folder" else set())
    stamp = next(row for row in read_items(Path("out/val_50")))["modified"]
    assert stamp >= 10**18
    assert "modified" not in next(read_items(Path("out/val-q50.beton")))
    assert json.loads(Path("out/_info.json").read_text())["splits"]["val-q50"]["num_samples"] == 17


def stop_after(flushes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the writing after some chunks, as Ctrl-C does."""
    from jpegcurr.encoding.output import Output

    flush, calls = Output.flush, iter(range(flushes))

    def stopping(self: Output) -> None:
        flush(self)
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Output, "flush", stopping)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("crash", [False, True])
def test_a_stopped_encode_is_resumed_to_the_same_bytes(val: Path, kind: Format, crash: bool) -> None:
    encode_to(val, "straight", [kind], ["source"], max_failures=1)
    for flushes in (2, 5) if crash else (0, 4):
        out = Path(f"out{flushes}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jpegcurr.encoding.workers.CHUNK", 3)
            stop_after(flushes, patch)
            with pytest.raises(KeyboardInterrupt):
                encode_to(val, out, [kind], ["source"], max_failures=1)
        assert all(path.name.startswith(".") for path in out.iterdir())
        with pytest.MonkeyPatch.context() as patch:
            if crash:  # of the machine: the youngest file of the samples lost its bytes
                patch.setattr("jpegcurr.encoding.resume.read_boot_id", lambda: "another".ljust(36))
                samples = [path for path in out.glob(".*.partial/**/*") if path.is_file()]
                if samples:
                    samples[-1].write_bytes(bytes(samples[-1].stat().st_size))
            encode_to(val, out, [kind], ["source"], max_failures=1, resume=True)
        assert tree(out) == tree(Path("straight"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more into any file, as it refuses on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_disk_that_takes_no_more_is_one_sentence_and_nothing_half(val: Path, kind: Format) -> None:
    encode_to(val, "straight", ["beton", kind], ["source"], max_failures=1, shard_bytes=1 << 20)
    path = output_path(Path("out"), "val", EncodeSpec("source"), kind)
    starts: list[Callable[..., object]] = [
        lambda **more: encode_to(val, "out", [kind], ["source"], max_failures=1, shard_bytes=1 << 20, **more),
        lambda **more: convert_output(Path("straight/val-source.beton"), [kind], Path("out"), shard_bytes=1 << 20, **more),
    ]
    largest = max(file.stat().st_size for file in (Path("straight") / path.name).rglob("*") if file.is_file())
    for start in starts:
        with files_of_at_most(largest - 2000), pytest.raises(EncodeError, match=r"File too large\. .*--resume\.") as caught:
            start()
        assert ".partial/" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert all(file.name.startswith(".") for file in Path("out").iterdir())
        start(resume=True)
        assert tree(path) == tree(Path("straight") / path.name)
        shutil.rmtree("out")


@pytest.mark.parametrize("kind", OTHERS)
def test_only_outputs_of_jpegcurr_are_replaced_and_only_with_force(val: Path, kind: Format) -> None:
    path = output_path(Path("out"), "val", EncodeSpec(50), kind)
    path.mkdir(parents=True)
    (path / "mine.jpg").write_bytes(b"mine")
    for options in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(UsageError, match="is not of jpegcurr"):
            encode_to(val, "out", [kind], max_failures=1, **options)
    assert [file.name for file in Path("out").iterdir()] == [path.name]
    shutil.rmtree(path)
    encode_to(val, "out", [kind], max_failures=1)
    before = tree(Path("out"))
    with pytest.raises(UsageError, match=r"exists.*--resume, or replace it with --force"):
        encode_to(val, "out", [kind], max_failures=1)
    (val / "cat" / "broken.jpg").unlink()
    encode_to(val, "out", [kind], force=True)
    assert tree(Path("out")) != before
    assert not [file for file in Path("out").iterdir() if file.name.startswith(".")]
    assert read_manifest(path).failures == 0  # type: ignore[union-attr]


def test_another_index_of_timm_is_not_replaced(val: Path) -> None:
    Path("out").mkdir()
    Path("out/_info.json").write_text('{"splits": {"train": {}}}')
    with pytest.raises(UsageError, match=r"_info\.json is not of jpegcurr"):
        encode_to(val, "out", ["webdataset"], max_failures=1)


def test_names_of_samples() -> None:
    names = SampleNames(["cat", "a/b", "n\n1", ".x"])
    assert names.path("cat/images/1.JPEG", 0) == "cat/images/1.JPEG"
    assert names.path("dogs/1.jpg", 0) == "cat/dogs/1.jpg"
    assert names.path("cat/1.png", 0) == "cat/1.png.jpg"
    assert names.path("7", 1) == "a_b/7.jpg"
    assert names.path("../.hidden.jpg", 2) == "n_1/_../_.hidden.jpg"
    assert names.shard_key("cat/1.5.jpg", 0) == "cat/1_5"
    assert names.folders == ["cat", "a_b", "n_1", "_.x"]


def test_images_and_classes_that_would_have_one_name_are_refused_by_name() -> None:
    for name in ("a.b.jpg", "a_b.jpg", "c.png", "c.png.jpg"):
        Path("d/x").mkdir(parents=True, exist_ok=True)
        Path("d/x", name).write_bytes(jpeg(photograph("cat").resize((20, 20))))
    with pytest.raises(SourceError, match=r"x/a\.b\.jpg and x/a_b\.jpg would both be x/a_b in WebDataset"):
        encode_to("d", "out", ["webdataset"])
    with pytest.raises(SourceError, match=r"x/c\.png and x/c\.png\.jpg would both be x/c\.png\.jpg in a folder"):
        encode_to("d", "out", ["folder"])
    assert not Path("out").exists()
    encode_to("d", "out", ["beton", "parquet"])
    Path("labels.csv").write_text("path,label\na.b.jpg,k/1\nc.png,k_1\n")
    with pytest.raises(SystemExit) as left:
        main(shlex.split("encode d/x --labels labels.csv --quality 50 --to folder -o out -q"))
    assert left.value.code == 2


def test_classes_that_imagefolder_numbers_otherwise_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("2", "10"):
        Path("d", name).mkdir(parents=True)
        Path("d", name, "1.jpg").write_bytes(jpeg(photograph("cat").resize((20, 20))))
    encode_to("d", "out", ["beton"])
    assert "ImageFolder" not in caplog.text
    encode_to("d", "out", ["folder"])
    assert "ImageFolder numbers the folders" in caplog.text


def test_long_names_have_their_places_in_shards() -> None:
    root = Path("d", "k" * 90)
    root.mkdir(parents=True)
    for length in (1, 4, 5, 6, 100, 170):
        (root / f"{'n' * length}.jpg").write_bytes(jpeg(photograph("cat").resize((20 + length, 20))))
    encode_to("d", "out", ["webdataset", "beton"])
    convert_output(Path("out/d-q50.wds"), ["beton"], Path("back"))
    assert Path("back/d-q50.beton").read_bytes() == Path("out/d-q50.beton").read_bytes()


def test_verification_names_what_has_changed(val: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode_to(val, "out", OTHERS, max_failures=1)

    def run(command: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(command.split())
        return int(left.value.code or 0), capsys.readouterr().err

    for kind in OTHERS:
        path = output_path(Path("out"), "val", EncodeSpec(50), kind)
        assert run(f"inspect {path} --verify")[0] == 0
    (image,) = Path("out/val_50/cat").glob("00.jpg")
    image.write_bytes(image.read_bytes()[:-9] + b"123456789")
    Path("out/val_50/cat/new.jpg").write_bytes(b"")
    code, message = run("inspect out/val_50 --verify")
    assert code == 1
    assert "(cat/00.jpg) of out/val_50: its bytes have changed" in message
    assert "out/val_50/cat/new.jpg is no sample of it" in message
    with pytest.raises(BetonError, match=r"cat/00\.jpg have changed"):
        convert_output(Path("out/val_50"), ["beton"], Path("back"))
    assert not Path("back").exists()
    for command, sentence in {
        "convert out/val_50 --to folder": "already of the format folder",
        "convert out/val_50": "Which format?",
        "convert out/val_51 --to beton": "out/val_51 does not exist",
        "convert val --to beton": "jpegcurr encode val --quality source",
        "convert out/val_50 --to parket": "Did you mean 'parquet'?",
        "encode val --quality 50 --shard-size 9": "--shard-size 9 does nothing without",
        "inspect out": "out is a folder",
    }.items():
        code, message = run(command)
        assert (code, message.count("\n") <= 3) == (2, True), message
        assert sentence in " ".join(message.split())
    with pytest.raises(BetonError, match=r"jpegcurr convert out/val_50 --to beton"):
        Beton(Path("out/val_50"))


def test_formats_are_parsed_in_one_order() -> None:
    assert parse_formats(["parquet,beton", "beton"]) == ("beton", "parquet")
    assert set(OUTPUT_FORMATS) == set(FORMATS)


def test_parquet_files_are_a_source(val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    encode_to(val, "out", ["parquet"], max_failures=1)
    (source,) = open_sources("out/val-q50.parquet")
    assert source.split == "val"
    assert source.classes == read_manifest(Path("out/val-q50.parquet")).classes  # type: ignore[union-attr]
    encode_all("out/val-q50.parquet", Path("again"), ["source"])
    rows = [row["crc32"] for row in read_items(Path("out/val-q50.parquet")) if "crc32" in row]
    assert [row["crc32"] for row in read_items(Path("again/val-source.beton"))] == rows
