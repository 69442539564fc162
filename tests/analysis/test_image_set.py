"""Evaluation of images as they lie, and in several processes: the numbers of a beton, and of one process."""

import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from forked import PYTHON
from samples import jpeg, photograph

from jpegcurr.analysis.evaluation.evaluate import evaluate_runs
from jpegcurr.analysis.evaluation.image_set import LEFT_OUT, ImageLoader, open_images
from jpegcurr.analysis.evaluation.sets import choose_sets, open_betons, open_sets
from jpegcurr.cli import main
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.runtime import Runtime, World
from jpegcurr.training.models.load import load_run


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize("stage", ["before_crop", "after_resize"])
def test_a_folder_gives_the_outcomes_of_its_beton_at_every_quality(
    trained: Path, betons: Path, photos: Path, cpu: Runtime, stage: str
) -> None:
    run = load_run(trained, cpu)
    results = []
    for data in (betons / "val-source.beton", photos / "val"):
        sets = choose_sets(run, [data], ["source", 50, 10], stage)  # type: ignore[arg-type]
        results.append(list(evaluate_runs([run], open_sets([run], sets), cpu, loader="plain")))
    for of_beton, of_images in zip(*results, strict=True):
        assert of_images.loader == "images"
        assert (of_images.quality, of_images.tested, of_images.at_load) == ("source", of_beton.tested, of_beton.at_load)
        assert of_images.outcomes.labels.tolist() == of_beton.outcomes.labels.tolist()
        assert of_images.outcomes.predicted.tolist() == of_beton.outcomes.predicted.tolist()
        np.testing.assert_allclose(of_images.outcomes.loss, of_beton.outcomes.loss, rtol=1e-5)


def test_a_tar_a_table_and_the_root_of_splits_are_sets_too(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((photos / "val").rglob("*.jpg"))
    with tarfile.open("val-000.tar", "w") as tar:
        for number, file in enumerate(files):
            for name, data in ((f"{number:03}.jpg", file.read_bytes()), (f"{number:03}.cls", file.parent.name.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
    Path("flat").mkdir()
    rows = []
    for number, file in enumerate(files):
        shutil.copy(file, f"flat/{number:03}.jpg")
        rows.append(f"{number:03}.jpg,{file.parent.name}")
    Path("labels.csv").write_text("\n".join(["path,label", *rows]))
    accuracies = []
    for arguments in (["val-000.tar"], ["flat", "--labels", "labels.csv"], [photos]):
        code, printed, err = call(capsys, "evaluate", trained, "--data", *arguments, "--json")
        assert code == 0, err
        (row,) = json.loads(printed)
        assert row["images"] == len(files)
        accuracies.append((row["top1"], round(row["loss"], 6)))
    assert len(set(accuracies)) == 1


def test_the_closing_line_is_the_authors(trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = call(capsys, "evaluate", trained, "--data", photos / "val")
    assert code == 0
    (row,) = (line for line in printed.splitlines() if "Acc@1" in line)
    words = row.split()
    assert words[:2] + words[3:4] + words[5:6] == ["*", "Acc@1", "Acc@5", "loss"]
    assert len(words[2].partition(".")[2]) == 3


def test_an_image_that_cannot_be_read_is_left_out_and_that_is_said(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "val", "d")
    Path("d/cat/bad.jpg").write_bytes(b"no image")
    code, printed, err = call(capsys, "evaluate", trained, "--data", "d", "--qualities", "source,50", "--json")
    assert code == 0
    assert [row["images"] for row in json.loads(printed)] == [16, 16]
    assert err.count("1 of 17 images of d cannot be read and are left out; d/cat/bad.jpg: ") == 1


def test_every_image_belongs_to_one_process(photos: Path, trained: Path, cpu: Runtime) -> None:
    images = open_images(photos / "val")
    section = load_run(trained, cpu).image
    numbers, labels = [], {}
    for rank in range(3):
        loader = ImageLoader(images, section, 4, replace(cpu, world=World(rank, 3)), 1)
        batches = list(loader.at(0))
        assert len(batches) == len(loader)
        for batch in batches:
            assert batch.images.shape[1:] == (3, section.size, section.size)
            numbers += batch.numbers.tolist()
            labels |= dict(zip(batch.numbers.tolist(), batch.labels.tolist(), strict=True))
    assert sorted(numbers) == list(range(len(images)))
    assert [labels[number] for number in range(len(images))] == images.labels.tolist()
    assert LEFT_OUT not in labels.values()


def test_two_processes_give_the_counts_of_one(
    trained: Path, betons: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "val", "odd")
    Path("odd/cat/more.jpg").write_bytes(jpeg(photograph("cat")))
    data = ["--data", str(betons / "val-source.beton"), "--data", "odd", "--loader", "plain", "--device", "cpu"]
    assert call(capsys, "evaluate", trained, *data, "--csv", "one.csv")[0] == 0
    torchrun = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jpegcurr"]
    done = subprocess.run(
        [*torchrun, "evaluate", str(trained), *data, "--csv", "two.csv"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Acc@1") == 2
    one, two = (Path(name).read_text().splitlines() for name in ("one.csv", "two.csv"))
    assert len(one) == len(two) == 3
    for first, second in zip(one[1:], two[1:], strict=True):
        for a, b in zip(first.split(","), second.split(","), strict=True):
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-6)


def test_what_is_no_set_is_a_sentence(trained: Path, betons: Path, photos: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    with pytest.raises(JpegcurrError, match="nowhere does not exist"):
        open_sets([run], {"": Path("nowhere")})
    with pytest.raises(UsageError, match=r"--labels labels\.csv is for images"):
        open_sets([run], {"": betons / "val-source.beton"}, Path("labels.csv"))
    with pytest.raises(UsageError, match=r"is no \.beton, which is needed here. Encode it: jpegcurr encode"):
        open_betons(run, {"": photos / "val"})
    shutil.copytree(photos / "val/cat", "d/zebra")
    shutil.copytree(photos / "val/cat", "d/cat")
    with pytest.raises(UsageError, match=r"d has images of a class that .* lacks: 'zebra'"):
        open_sets([run], {"": Path("d")})
