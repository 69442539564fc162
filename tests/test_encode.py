import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import CROPS, PHOTOGRAPHS, encode_all, jpeg, photograph

from jpegcurr.encoding.beton import Beton
from jpegcurr.encoding.codec import EncodeSpec, reencode
from jpegcurr.encoding.encode import encode_chunk, encode_dataset, output_files
from jpegcurr.encoding.executors import open_executor
from jpegcurr.encoding.inspect import inspect_beton, verify_beton
from jpegcurr.encoding.manifest import read_items, read_manifest
from jpegcurr.encoding.sources import open_splits
from jpegcurr.errors import BetonError, EncodeError, UsageError

TRAIN = CROPS["train"] * len(PHOTOGRAPHS)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_files_are_the_same_bytes_for_any_number_of_threads(photos: Path) -> None:
    for threads in (1, 2, 8):
        encode_all(photos, Path(f"t{threads}"), ["source", 50], threads=threads)
    assert digests(Path("t1")) == digests(Path("t2")) == digests(Path("t8"))
    assert len(digests(Path("t1"))) == 2 * 2 * 3


def test_every_sample_is_its_image_reencoded(photos: Path, betons: Path) -> None:
    source = open_splits(photos)[0]
    items = source.ordered("shuffle", 0)
    for name, spec in (("q50", EncodeSpec(50)), ("source", EncodeSpec("source"))):
        beton = Beton(betons / f"train-{name}.beton")
        assert beton.labels.tolist() == [item.label for item in items]
        for index, item in enumerate(items):
            (expected,) = reencode(item.path.read_bytes(), [spec])
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
    assert (half.quality, half.subsampling, half.images, half.failures) == (50, "4:2:0", TRAIN, 0)
    assert (source.quality, source.subsampling, source.copied) == ("source", "as in the source", TRAIN)
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


def test_too_many_failures_end_the_run_by_name_and_leave_nothing() -> None:
    spoil(Path("d"))
    with pytest.raises(EncodeError, match=r"1 image could not be encoded.*--max-failures.*\n  d/[ab]/[12]\.jpg: "):
        encode_all(Path("d"), Path("out"), [50, "source"])
    assert list(Path("out").iterdir()) == []


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
    assert verify_beton(Path("out/d-q50.beton")) == []


def test_a_folder_of_broken_images_makes_nothing_however_many_may_fail() -> None:
    Path("d/a").mkdir(parents=True)
    Path("d/a/1.jpg").write_bytes(b"text")
    with pytest.raises(EncodeError, match="None of the 1 files"):
        encode_all(Path("d"), Path("out"), [50], max_failures=10)
    assert list(Path("out").iterdir()) == []


def test_nothing_is_replaced_without_force(photos: Path) -> None:
    source = open_splits(photos)[1]
    outputs = {Path("val-q50.beton"): EncodeSpec(50)}
    output_files(Path("val-q50.beton"))[2].write_text("mine")
    with open_executor(1) as (executor, workers):
        with pytest.raises(UsageError, match=r"val-q50\.items\.jsonl exists.*--force"):
            encode_dataset(source, outputs, executor=executor, workers=workers)
        assert Path("val-q50.items.jsonl").read_text() == "mine"
        encode_dataset(source, outputs, executor=executor, workers=workers, force=True)
    assert verify_beton(Path("val-q50.beton")) == []


def test_an_interrupted_run_leaves_nothing_half_made(photos: Path) -> None:
    def interrupt(_outcome: object) -> None:
        raise KeyboardInterrupt

    with open_executor(2) as (executor, workers), pytest.raises(KeyboardInterrupt):
        encode_dataset(
            open_splits(photos)[0],
            {Path("out/x.beton"): EncodeSpec(50)},
            executor=executor,
            workers=workers,
            on_outcome=interrupt,
        )
    assert list(Path("out").iterdir()) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(photos: Path) -> None:
    """A limit on the size of files stands in for the disk: both are an OSError in the middle of a write."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from jpegcurr.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "encode", str(photos), "--quality", "50", "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Nothing of the split train was kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(Path("out").iterdir()) == []


def test_failures_are_outcomes_of_a_pure_function_that_pickles() -> None:
    import pickle

    spoil(Path("d"))
    items = open_splits(Path("d"))[0].items
    outcomes = pickle.loads(pickle.dumps(encode_chunk))(items, [EncodeSpec(50)])  # noqa: S301
    assert [bool(outcome.reason) for outcome in outcomes] == [False, True, False, False, False, True]
    assert pickle.loads(pickle.dumps(outcomes)) == outcomes  # noqa: S301


def test_a_dask_cluster_makes_the_same_bytes(photos: Path, betons: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        source = open_splits(photos)[1]
        with open_executor(dask=cluster.scheduler_address) as (executor, workers):
            assert workers == 2
            encode_dataset(source, {Path("out/val-q50.beton"): EncodeSpec(50)}, executor=executor, workers=workers)
    assert Path("out/val-q50.beton").read_bytes() == (betons / "val-q50.beton").read_bytes()


def test_a_dask_scheduler_that_does_not_answer_is_told() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="No Dask scheduler answers"), open_executor(dask="nonsense://here"):
        pass


def test_inspection_reads_every_header(betons: Path) -> None:
    found = inspect_beton(betons / "train-source.beton")
    assert found.samples == TRAIN
    assert found.labels == 4
    assert sum(found.subsampling.values()) == TRAIN
    assert found.subsampling["grey"] == 4
    assert {"4:4:4", "4:2:0", "4:2:2"} < set(found.subsampling)
    assert found.widths[0] >= 64
    assert found.widths[2] <= 160
    assert inspect_beton(betons / "train-q50.beton").subsampling == {"4:2:0": TRAIN}


def test_verifying_finds_a_sample_that_was_overwritten(betons: Path) -> None:
    data = bytearray((betons / "val-q50.beton").read_bytes())
    start = int(Beton(betons / "val-q50.beton")._ptrs[3])
    data[start : start + 40] = bytes(40)
    Path("x.beton").write_bytes(data)
    (complaint,) = verify_beton(Path("x.beton"))
    assert "sample 3 of x.beton" in complaint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_failure_by_name() -> None:
    Path("d/a").mkdir(parents=True)
    Path("d/a/1.jpg").write_bytes(jpeg(photograph("cat")))
    Path("d/a/1.jpg").chmod(0)
    with pytest.raises(EncodeError, match="Permission denied"):
        encode_all(Path("d"), Path("out"), [50])
