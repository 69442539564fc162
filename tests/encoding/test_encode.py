import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagenet import tar, write_archives
from samples import CROPS, PHOTOGRAPHS, TOOLS, digests, encode_all, jpeg, photograph
from threads import no_thread_left

from jpegcurr.encoding.beton.manifest import read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.verify import inspect_beton, verify_beton
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.estimate import estimate_splits
from jpegcurr.encoding.jpeg.codec import EncodeSpec, reencode
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.resume import output_files
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import encode_chunk, open_executor
from jpegcurr.errors import BetonError, EncodeError, UsageError

TRAIN = CROPS["train"] * len(PHOTOGRAPHS)


def test_the_files_are_the_same_bytes_for_any_number_of_threads(photos: Path) -> None:
    for threads in (1, 2, 8):
        encode_all(photos, Path(f"t{threads}"), ["source", 50], threads=threads)
    assert digests(Path("t1")) == digests(Path("t2")) == digests(Path("t8"))
    assert len(digests(Path("t1"))) == 2 * 2 * 3


def test_every_sample_is_its_image_reencoded(photos: Path, betons: Path) -> None:
    source = open_sources(photos)[0]
    items = [source.items[int(position)] for position in source.ordered("shuffle", 0)]
    for name, spec in (("q50", EncodeSpec(50)), ("source", EncodeSpec("source"))):
        beton = Beton(betons / f"train-{name}.beton")
        assert beton.labels.tolist() == [item.label for item in items]
        for index, item in enumerate(items):
            (expected,) = reencode(source.store.read(item), [spec])
            assert beton.payload(index) == expected.data
            assert (beton.widths[index], beton.heights[index]) == (expected.width, expected.height)


def test_train_is_shuffled_and_val_is_not(betons: Path) -> None:
    train, val = (Beton(betons / f"{split}-q50.beton").labels for split in ("train", "val"))
    assert (np.diff(val) >= 0).all()
    assert (np.diff(train) < 0).any()


def test_the_manifest_says_what_was_made(betons: Path, photos: Path) -> None:
    half, source = (read_manifest(betons / f"train-{name}.beton") for name in ("q50", "source"))
    assert half is not None
    assert source is not None
    assert (half.quality, half.subsampling, half.images, half.failures) == (50, "420", TRAIN, 0)
    assert (source.quality, source.copied, half.copied) == ("source", TRAIN, 0)
    assert half.keys_sha256 == source.keys_sha256
    assert half.classes == tuple(sorted(PHOTOGRAPHS))
    assert half.bytes_in == source.bytes_in == source.bytes_out == sum(p.stat().st_size for p in photos.glob("train/*/*"))
    assert half.bytes_out == int(Beton(betons / "train-q50.beton").sizes.sum())
    assert half.versions["pillow"][0].isdigit()
    rows = list(read_items(betons / "train-q50.beton"))
    assert len(rows) == TRAIN
    assert {row["status"] for row in rows} == {"encoded"}


def test_a_manifest_of_another_run_is_refused(betons: Path) -> None:
    for path in betons.glob("val-q50*"):
        Path(path.name).write_bytes(path.read_bytes())
    with Path("val-q50.beton").open("ab") as file:
        file.write(bytes(24))
    with pytest.raises(BetonError, match="manifest says"):
        read_manifest(Path("val-q50.beton"))
    Path("val-q50.json").write_text("{}")
    with pytest.raises(BetonError, match="not a jpegcurr manifest"):
        read_manifest(Path("val-q50.beton"))


def spoil(root: Path) -> Path:
    """A split of six images, two of which cannot be read."""
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(3):
            (root / label / f"{number}.jpg").write_bytes(jpeg(photograph("cat").resize((40 + number, 30))))
    (root / "a" / "1.jpg").write_bytes(b"a text file")
    (root / "b" / "2.jpg").unlink()
    (root / "b" / "2.jpg").symlink_to("nowhere.jpg")
    return root


def test_too_many_failures_end_the_run_by_name_and_keep_what_is_done() -> None:
    spoil(Path("d"))
    with pytest.raises(
        EncodeError, match=r"2 images could not be encoded and 0 may fail, so the encode stopped\.\n  d/[ab]/[12]\.jpg: "
    ) as caught:
        encode_all(Path("d"), Path("out"), [50, "source"])
    assert "--max-failures" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert not [path for path in Path("out").iterdir() if not path.name.startswith(".")]
    encode_all(Path("d"), Path("out"), [50, "source"], max_failures=2, resume=True)
    encode_all(Path("d"), Path("straight"), [50, "source"], max_failures=2)
    assert digests(Path("out")) == digests(Path("straight"))


def test_a_share_of_failures() -> None:
    spoil(Path("d"))
    with pytest.raises(EncodeError, match="1 may fail"):
        encode_all(Path("d"), Path("out"), [50], max_failures=Fraction("0.3"))
    encode_all(Path("d"), Path("out"), [50], max_failures=Fraction(1, 3), resume=True)


def test_an_image_that_a_page_cannot_hold_fails_at_every_quality(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.encoding.plan.page_size_for", lambda *_sizes: 1 << 14)
    encode_all(photos, Path("out"), ["source", 50], max_failures=Fraction(1))
    for name in ("source", "q50"):
        failed = [row for row in read_items(Path(f"out/train-{name}.beton")) if row["status"] == "failed"]
        assert 0 < len(failed) < TRAIN
        assert all(row["source_bytes"] > 1 << 14 for row in failed)
        assert all(re.fullmatch(r"\d+ bytes do not fit into a page of the beton", row["reason"]) for row in failed)
        assert list(verify_beton(Path(f"out/train-{name}.beton"))) == []


def test_allowed_failures_are_rows_and_leave_the_same_gap_at_every_quality() -> None:
    spoil(Path("d"))
    encode_all(Path("d"), Path("out"), [50, "source"], max_failures=2)
    for name in ("q50", "source"):
        path = Path(f"out/d-{name}.beton")
        manifest = read_manifest(path)
        assert manifest is not None
        assert (len(Beton(path)), manifest.images, manifest.failures) == (4, 4, 2)
        failed = {row["key"]: row["reason"] for row in read_items(path) if row["status"] == "failed"}
        assert failed == {"a/1.jpg": "not an image that Pillow can read", "b/2.jpg": "No such file or directory"}
    assert list(verify_beton(Path("out/d-q50.beton"))) == []


def test_a_folder_of_broken_images_makes_nothing_however_many_may_fail() -> None:
    Path("d/a").mkdir(parents=True)
    Path("d/a/1.jpg").write_bytes(b"text")
    with pytest.raises(EncodeError, match="None of the 1 files"):
        encode_all(Path("d"), Path("out"), [50], max_failures=10)
    assert not [path for path in Path("out").iterdir() if not path.name.startswith(".")]


def test_nothing_is_replaced_without_force(photos: Path) -> None:
    sources = open_sources(photos, splits=["val"])
    outputs = plan_outputs(sources, [EncodeSpec(50)], Path())
    output_files(Path("val-q50.beton"))[2].write_text("mine")
    with open_executor(1) as (executor, workers):
        with pytest.raises(UsageError, match=r"val-q50\.items\.jsonl exists.*--force"):
            encode_dataset(sources, outputs, executor=executor, workers=workers)
        assert Path("val-q50.items.jsonl").read_text() == "mine"
        encode_dataset(sources, outputs, executor=executor, workers=workers, force=True)
    assert list(verify_beton(Path("val-q50.beton"))) == []


def test_failures_are_outcomes_of_a_pure_function_that_pickles() -> None:
    import pickle

    spoil(Path("d"))
    (source,) = open_sources(Path("d"))
    work = (source.store, list(source.items), [EncodeSpec(50)])
    outcomes = pickle.loads(pickle.dumps(encode_chunk))(*pickle.loads(pickle.dumps(work)))  # noqa: S301
    assert [bool(outcome.reason) for outcome in outcomes] == [False, True, False, False, False, True]
    assert pickle.loads(pickle.dumps(outcomes)) == outcomes  # noqa: S301


@pytest.mark.parametrize("killed", [False, True])
def test_a_dask_cluster_makes_the_same_bytes(photos: Path, betons: Path, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two worker processes, one of which is killed when the first two of 48 images are written and 16 are under way."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("jpegcurr.encoding.workers.CHUNK", 2)

    class Killer:
        def begin(self, source: Source, done: int) -> None:
            pass

        def done(self, source: Source, outcomes: object) -> None:
            if pids:
                os.kill(pids.pop(), signal.SIGKILL)

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None, silence_logs=50
    ) as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()][:1] if killed else []
        sources = open_sources(photos)
        outputs = plan_outputs(sources, [EncodeSpec("source"), EncodeSpec(50)], Path("out"))
        with open_executor(dask=cluster.scheduler_address) as (executor, workers):
            assert workers == 2
            encode_dataset(sources, outputs, executor=executor, workers=workers, watcher=Killer())
    assert not pids
    assert digests(Path("out")) == digests(betons)


def test_workers_that_are_lost_end_the_run_with_a_sentence(photos: Path) -> None:
    class Lost(ThreadPoolExecutor):
        def submit(self, *arguments: object, **options: object) -> "Future[Any]":  # type: ignore[override]
            future: Future[Any] = Future()
            future.set_exception(MemoryError())
            return future

    sources = open_sources(photos)
    outputs = plan_outputs(sources, [EncodeSpec(50)], Path())
    with Lost() as executor:
        with pytest.raises(EncodeError, match=r"The workers failed \(MemoryError\): .*and --resume"):
            encode_dataset(sources, outputs, executor=executor, workers=1)
        with pytest.raises(EncodeError, match=r"The workers failed \(MemoryError\): MemoryError\."):
            estimate_splits(sources, outputs, executor)


def test_a_dask_scheduler_that_does_not_answer_is_reported() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="No Dask scheduler answers"), open_executor(dask="nonsense://here"):
        pass


def test_dask_workers_without_jpegcurr_are_reported() -> None:
    distributed = pytest.importorskip("distributed")
    hidden = "import sys; sys.modules['jpegcurr'] = None; from distributed.cli.dask_worker import main; main()"
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        command = [sys.executable, "-c", hidden, cluster.scheduler_address, "--no-nanny", "--no-dashboard"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
            message = r"The workers at tcp:.* cannot run jpegcurr: .*Install the same version"
            try:
                with pytest.raises(UsageError, match=message), open_executor(dask=cluster.scheduler_address):
                    pass
            finally:
                worker.terminate()


def test_inspection_reads_every_header(betons: Path) -> None:
    inspection = inspect_beton(betons / "train-source.beton")
    assert inspection.samples == TRAIN
    assert inspection.labels == 4
    assert sum(inspection.subsampling.values()) == TRAIN
    assert inspection.subsampling["grey"] == 4
    assert {"4:4:4", "4:2:0", "4:2:2"} < set(inspection.subsampling)
    assert inspection.widths[0] >= 64
    assert inspection.widths[2] <= 160
    assert inspect_beton(betons / "train-q50.beton").subsampling == {"4:2:0": TRAIN}


def test_archives_make_the_same_bytes_as_the_folder_they_unpack_to() -> None:
    """All but the name of the source, which the manifest keeps."""
    write_archives(Path("downloads"))
    subprocess.run([sys.executable, str(TOOLS / "prepare_imagenet"), "downloads", "folder"], check=True, capture_output=True)
    for root in ("downloads", "folder"):
        encode_all(Path(root), Path(f"from-{root}"), ["source", 50])
    packed, unpacked = (digests(Path(f"from-{root}")) for root in ("downloads", "folder"))
    assert sum(name.endswith((".beton", ".jsonl")) for name in packed) == 8
    assert {name for name in packed if packed[name] != unpacked[name]} == {name for name in packed if name.endswith(".json")}


def test_shards_and_a_hub_data_set_are_encoded() -> None:
    datasets = pytest.importorskip("datasets")
    picture = jpeg(photograph("cat").crop((0, 0, 60, 50)), quality=90)
    Path("shards").mkdir()
    Path("shards/train-0.tar").write_bytes(
        tar({f"{n}.{end}": data for n in range(5) for end, data in (("jpg", picture), ("cls", b"3"))})
    )
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    rows = {"image": [{"bytes": picture, "path": None}] * 5, "label": [1] * 5}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("saved")
    for where in ("shards", "hf:saved"):
        encode_all(where, Path(where.replace(":", "-")), ["source", 50])
    for path in (Path("shards/train-source.beton"), next(Path("hf-saved").glob("*-source.beton"))):
        beton = Beton(path)
        assert {beton.payload(index) for index in range(5)} == {picture}
        assert list(verify_beton(path)) == []
    assert set(Beton(Path("shards/train-q50.beton")).labels) == {3}


def test_one_call_encodes_a_data_set_and_counts_its_images(photos: Path, betons: Path) -> None:
    counted: list[tuple[int, int]] = []
    with no_thread_left():
        outputs = encode_dataset(str(photos), [50, "source"], "api", progress=lambda done, total: counted.append((done, total)))
    names = [f"{split}-{quality}.beton" for split in ("train", "val") for quality in ("q50", "source")]
    assert [(path.name, manifest.images, manifest.failures) for path, manifest in outputs.items()] == [
        (name, 48 if name.startswith("train") else 16, 0) for name in names
    ]
    assert all((Path("api") / name).read_bytes() == (betons / name).read_bytes() for name in names)
    assert counted == sorted(counted)
    assert counted[-1] == (64, 64)
    again = encode_dataset(photos, [50, 20], "api", resume=True, progress=lambda done, total: counted.append((done, total)))
    assert [manifest.quality for manifest in again.values()] == [50, 20] * 2
    assert counted[-1] == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "api"), r"quality 0 is not a JPEG quality\. Give a whole number from 1 to 100"),
        ((["50"], "api"), "quality '50' is not a JPEG quality"),
        (([], "api"), "No quality is given"),
        (([50, 50], "api"), "The quality q50 is given twice"),
        ((50,), "Which folder"),
        (({}, "api"), "have paths already, so the folder api does nothing"),
    ],
)
def test_an_unclear_call_is_a_sentence(arguments: tuple[Any, ...], message: str, photos: Path) -> None:
    with pytest.raises(UsageError, match=message):
        encode_dataset(photos, *arguments)
    assert not Path("api").exists()
