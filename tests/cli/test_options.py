"""Every option of ``jpegcurr encode``, on the command line."""

import json
import os
import shlex
import shutil
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import CROPS, PHOTOGRAPHS, encode_all, photograph, tiny_recipe

from jpegcurr.cli import main
from jpegcurr.cli.encode import parse_max_failures
from jpegcurr.encoding.beton.manifest import Manifest, read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.verify import inspect_beton, verify_beton
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import SourceError
from jpegcurr.training.data.datasets import open_datasets

TRAIN = CROPS["train"] * len(PHOTOGRAPHS)


@pytest.fixture
def encode(photos: Path, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs ``jpegcurr encode`` beside ``d``, the photographs: exit code, stdout and stderr."""
    Path("d").symlink_to(photos)

    def run(options: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["encode", *shlex.split(options)])
        output = capsys.readouterr()
        return int(left.value.code or 0), output.out, output.err

    return run


def manifest_of(name: str) -> Manifest:
    manifest = read_manifest(Path(f"betons/{name}.beton"))
    assert manifest is not None
    return manifest


def test_a_split_alone(encode) -> None:
    assert encode("d --quality 50 --split val")[0] == 0
    assert [path.name for path in Path("betons").glob("*.beton")] == ["val-q50.beton"]
    code, _, err = encode("d --quality 50 --split test")
    assert (code, "has no split 'test', only train, val" in err) == (2, True)
    assert encode("d/train --quality 50 --split val -o other")[0] == 0, "a folder of classes is called what one likes"
    assert [path.name for path in Path("other").glob("*.beton")] == ["val-q50.beton"]


def test_a_data_set_without_splits_takes_the_name_it_is_given(encode) -> None:
    shutil.copytree("d/train", "flowers")
    assert encode("flowers --quality 50 --split train")[0] == 0
    assert manifest_of("train-q50").order == "shuffle"


def test_some_of_the_classes(encode) -> None:
    assert encode("d --quality 50 --classes grass,cat")[0] == 0
    for split, count in CROPS.items():
        manifest = manifest_of(f"{split}-q50")
        assert (manifest.classes, manifest.images) == (("cat", "grass"), 2 * count)
        assert {(row["key"].split("/")[0], row["label"]) for row in read_items(Path(f"betons/{split}-q50.beton"))} == {
            ("cat", 0),
            ("grass", 1),
        }
    Path("some.txt").write_text("coffee\n\n")
    assert encode("d --quality 50 --classes some.txt --classes cat -o other")[0] == 0
    code, _, err = encode("d --quality 50 --classes dog -o third")
    assert (code, "has no class 'dog'. It has astronaut, cat, coffee, grass.\n" in err) == (2, True)
    assert encode("d --quality 50 --classes , -o third")[0] == 2
    code, _, err = encode(f"d --quality 50 --classes {','.join(f'n{number:08}' for number in range(40))} -o third")
    assert (code, "has no class 'n00000000'" in err) == (2, True), "a list may be longer than a file's name"


def test_a_limit_takes_the_first_of_the_shuffle_and_smaller_ones_nest(encode) -> None:
    keys = {}
    for limit in (5, 20, 1000):
        assert encode(f"d --quality 50 --limit {limit} --order folder --seed 3 -o {limit}")[0] == 0
        keys[limit] = [row["key"] for row in read_items(Path(f"{limit}/train-q50.beton"))]
        assert keys[limit] == sorted(keys[limit])
    assert [len(chosen) for chosen in keys.values()] == [5, 20, TRAIN]
    assert set(keys[5]) < set(keys[20]) < set(keys[1000])
    assert encode("d --quality 50 --limit 0 -o none")[0] == 2


@pytest.mark.parametrize(("given", "layouts"), [("420", {"4:2:0"}), ("422", {"4:2:2"}), ("444", {"4:4:4"})])
def test_subsampling(encode, given: str, layouts: set[str]) -> None:
    assert encode(f"d --quality 50 --subsampling {given}")[0] == 0
    assert set(inspect_beton(Path("betons/train-q50.beton")).subsampling) == layouts
    assert manifest_of("train-q50").subsampling == given


def test_subsampling_without_a_quality_is_refused(encode) -> None:
    code, _, err = encode("d --quality source --subsampling 420")
    assert (code, "--subsampling 420 does nothing" in err) == (2, True)
    assert not Path("betons").exists()


def test_subsampling_kept(encode) -> None:
    assert encode("d --quality 50 --quality source --subsampling keep")[0] == 0
    kept, source = (inspect_beton(Path(f"betons/train-{name}.beton")).subsampling for name in ("q50", "source"))
    grey = source.pop("grey")
    assert kept == {**source, "4:4:4": source["4:4:4"] + grey}


def test_images_that_source_converts_are_recorded_one_by_one_and_counted_by_inspect(
    encode, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mixed/a").mkdir(parents=True)
    photograph("cat").save("mixed/a/1.jpg")
    photograph("cat").save("mixed/a/2.png")
    assert encode("mixed --quality source --quality 50")[0] == 0
    for name, given in (("q50", [(None, None)] * 2), ("source", [(None, None), (95, "444")])):
        rows = read_items(Path(f"betons/mixed-{name}.beton"))
        assert [(row.get("quality"), row.get("subsampling")) for row in rows] == given
    assert list(verify_beton(Path("betons/mixed-source.beton"))) == []
    for name, message in (("source", "1; 1 converted, to quality 95 and 4:4:4"), ("q50", "0")):
        with pytest.raises(SystemExit):
            main(["inspect", f"betons/mixed-{name}.beton"])
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("original bytes kept"))
        assert line.split(maxsplit=3)[3].strip() == message


@pytest.mark.parametrize("option", ["--max-side 80", "--short-side 80", "--max-side 80 --filter lanczos"])
def test_large_images_are_shrunk_and_small_ones_kept(encode, option: str) -> None:
    assert encode(f"d --quality 50 --quality source {option}")[0] == 0
    (train, _) = open_sources("d")
    sizes = {}
    for item in train.items:
        with Image.open(BytesIO(train.store.read(item))) as image:
            sizes[item.key] = image.size
    side = max if "max" in option else min
    for name in ("q50", "source"):
        for row in read_items(Path(f"betons/train-{name}.beton")):
            before, after = sizes[row["key"]], (row["width"], row["height"])
            assert side(after) == min(side(before), 80)
            assert after[0] / after[1] == pytest.approx(before[0] / before[1], rel=0.03)
            assert (row["status"] == "copied") == (name == "source" and before == after)
    manifest = manifest_of("train-source")
    assert 0 < manifest.copied < TRAIN
    assert manifest.filter == ("lanczos" if "lanczos" in option else "bicubic")
    assert (manifest.max_side, manifest.short_side) == ((80, None) if "max" in option else (None, 80))


def test_a_large_photograph_is_decoded_at_a_smaller_scale_which_the_manifest_records(encode) -> None:
    Path("big/a").mkdir(parents=True)
    photograph("astronaut").save("big/a/1.jpg", quality=95)
    photograph("astronaut").resize((90, 90)).save("big/a/2.jpg", quality=95)
    assert encode("big --quality 50 --max-side 64")[0] == 0
    assert manifest_of("big-q50").scaled == 1
    assert [row.get("scaled", False) for row in read_items(Path("betons/big-q50.beton"))] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-side 80 --short-side 80", "--max-side and --short-side"),
        ("--filter bicubic", "--filter bicubic does nothing"),
        ("--filter sharp --max-side 9", "sharp"),
        ("--max-side 0", "--max-side"),
        ("--subsampling 411", "411"),
        ("--threads 2 --dask tcp://nobody:1", "--threads 2 does nothing with --dask"),
        ("--dry-run --resume", "--dry-run estimates a whole encode"),
        ("--max-failures many", "--max-failures many: give a number of images"),
        ("--max-failures -1", "--max-failures"),
        ("--max-failures 101%", "101%"),
        ("--labels none.csv", "none.csv"),
    ],
)
def test_contradictory_options_are_refused_and_nothing_is_written(encode, options: str, message: str) -> None:
    code, out, err = encode(f"d --quality 50 {options}")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not Path("betons").exists()


def test_a_dry_run_estimates_sizes_and_writes_nothing(encode) -> None:
    code, out, _ = encode("d --quality 50 --quality source --dry-run --json")
    assert code == 0
    assert not Path("betons").exists()
    estimate = json.loads(out)
    assert encode("d --quality 50 --quality source")[0] == 0
    for split in estimate["splits"]:
        for path, size in split["outputs"].items():
            assert size == pytest.approx(Path(path).stat().st_size, rel=0.05, abs=2200)
    assert [split["images"] for split in estimate["splits"]] == [TRAIN, 16]
    assert estimate["free_bytes"] > 0
    assert "file to write" in encode("d --quality 50 --dry-run")[1]


def test_a_dry_run_reports_why_the_encode_would_be_refused(encode) -> None:
    assert encode("d --quality 50")[0] == 0
    code, out, _ = encode("d --quality 50 --dry-run")
    assert (code, "As it stands, this encode would be refused: betons/train-q50.beton exists" in out) == (0, True)
    assert "refused" not in encode("d --quality 50 --dry-run --force")[1]
    Path("file").write_text("text")
    for force in ("", "--force"):
        assert (
            "this encode would be refused: file/x cannot be written to"
            in encode(f"d --quality 50 --dry-run -o file/x {force}")[1]
        )


def test_a_folder_without_search_permission_cannot_be_written_to(encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deny by monkeypatch, because root may enter every folder."""
    closed = Path("closed").absolute()
    closed.mkdir()
    stat, access = os.stat, os.access

    def refuse(path, *arguments, **options):
        if isinstance(path, str | Path) and closed in Path(path).absolute().parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        patch.setattr(os, "access", lambda path, mode: Path(path).absolute() != closed and access(path, mode))
        dry, wet = encode("d --quality 50 -o closed/in/there --dry-run"), encode("d --quality 50 -o closed/in/there")
    message = "closed/in/there cannot be written to: no permission to write there"
    assert (dry[0], f"As it stands, this encode would be refused: {message}" in dry[1]) == (0, True)
    assert (wet[0], message in wet[2]) == (2, True)


def test_a_dry_run_names_what_would_fail(encode) -> None:
    Path("bad/a").mkdir(parents=True)
    Path("bad/a/1.jpg").write_text("text")
    photograph("cat").save("bad/a/2.jpg")
    assert "would fail: bad/a/1.jpg: not an image" in encode("bad --quality 50 --dry-run")[1]
    Path("bad/a/2.jpg").unlink()
    code, out, _ = encode("bad --quality 50 --dry-run --json")
    assert (code, json.loads(out)["splits"][0]["sample_failures"]) == (0, 1)


def test_skipped_files_are_counted(encode) -> None:
    shutil.copytree("d", "e", symlinks=True)
    Path("e/train/cat/notes.txt").write_text("x")
    Path("e/train/stray.jpg").write_text("x")
    _, out, err = encode("e --quality 50")
    assert "train: 2 files without the suffix of an image or without a label were skipped" in out
    assert "; 1 images without a label are left out" in err
    assert manifest_of("train-q50").ignored == 2


def test_a_class_without_any_readable_image_is_reported(encode) -> None:
    shutil.copytree("d/train", "e")
    for path in Path("e/cat").iterdir():
        path.write_text("text")
    code, _, err = encode("e --quality 50 --max-failures 12")
    assert (code, "none of the images of the class cat could be encoded" in err) == (0, True)
    assert err.count("not encoded:") == 12


def test_training_reads_the_labels_of_a_missing_val_beton_from_its_own_table(encode, tmp_path: Path) -> None:
    """Use one folder of images with two tables: the missing clean set takes the table of the q50 set."""
    Path("images").mkdir()
    rows = {"tr": [], "va": []}
    for number, path in enumerate(sorted(Path("d/train").rglob("*.jpg"))):
        shutil.copy(path, f"images/{number}.jpg")
        rows["va" if number % 3 == 0 else "tr"].append(f"{number}.jpg,{path.parent.name}")
    for name, lines in rows.items():
        Path(f"{name}.csv").write_text("\n".join(lines))
    assert encode("images --labels tr.csv --split train --quality 50")[0] == 0
    assert encode("images --labels va.csv --split val --quality 50")[0] == 0
    assert len(open_datasets(tiny_recipe(Path("betons"), tmp_path)).val) == 2
    assert (manifest_of("val-source").labels, manifest_of("val-source").images, manifest_of("train-source").images) == (
        "va.csv",
        16,
        32,
    )


def test_stdout_holds_nothing_but_json(encode) -> None:
    code, out, _ = encode("d --quality 50 --json --quiet")
    rows = json.loads(out)
    assert code == 0
    assert [row["path"] for row in rows] == ["betons/train-q50.beton", "betons/val-q50.beton"]
    assert rows[0]["images"] == TRAIN
    assert encode("d --quality 50 --json --resume --quiet")[1] == out, "finished files are listed again"


def test_a_share_of_failures_is_allowed(encode) -> None:
    Path("bad/a").mkdir(parents=True)
    for number in range(10):
        photograph("cat").crop((0, 0, 40, 40)).save(f"bad/a/{number}.jpg")
    Path("bad/a/3.jpg").write_text("text")
    code, _, err = encode("bad --quality 50 --max-failures 9.9%")
    assert (code, "bad/a/3.jpg: not an image" in err, "--resume" in err) == (1, True, True)
    assert encode("bad --quality 50 --max-failures 10% --resume")[0] == 0
    assert manifest_of("bad-q50").failures == 1


@pytest.mark.parametrize(("text", "allowed"), [("0.7%", Fraction(7, 1000)), ("100%", Fraction(1)), ("3", 3)])
def test_a_share_is_an_exact_fraction(text: str, allowed: int | Fraction) -> None:
    tolerated = parse_max_failures(text)
    assert (tolerated, type(tolerated)) == (allowed, type(allowed))


def test_kaggles_dog_breeds(encode) -> None:
    Path("dogs/train").mkdir(parents=True)
    rows = ["id,breed"]
    for number, breed in enumerate(["boxer", "beagle", "boxer", "whippet"]):
        photograph("cat").crop((number, 0, 60, 60)).save(f"dogs/train/00{number}.jpg")
        rows.append(f"00{number},{breed}")
    Path("dogs/labels.csv").write_text("\n".join(rows))
    assert encode("dogs/train --labels dogs/labels.csv --quality 50 --quality source")[0] == 0
    manifest = manifest_of("train-q50")
    assert (manifest.classes, manifest.labels) == (("beagle", "boxer", "whippet"), "dogs/labels.csv")
    assert {row["key"]: row["label"] for row in read_items(Path("betons/train-q50.beton"))} == {
        "000.jpg": 1,
        "001.jpg": 0,
        "002.jpg": 1,
        "003.jpg": 2,
    }


def test_training_encodes_a_missing_beton_with_the_options_of_the_other_one(encode, tmp_path: Path) -> None:
    options = "d --limit 30 --seed 5 --classes cat,grass,coffee --max-side 70 --filter box --subsampling 444"
    assert encode(f"{options} --quality source --quality 50")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("betons").iterdir()}
    for path in Path("betons").glob("*-q50*"):
        path.unlink()
    open_datasets(tiny_recipe(Path("betons"), tmp_path))
    assert {path.name: path.read_bytes() for path in Path("betons").iterdir()} == before


def test_labels_for_a_labelled_source_are_refused() -> None:
    with pytest.raises(SourceError, match="has labels of its own"):
        open_sources("hf:nothing", labels=Path("x.csv"))


def test_the_order_of_the_file_is_the_given_one(encode) -> None:
    assert encode("d --quality 50 --order folder -o folder")[0] == 0
    assert (np.diff(Beton(Path("folder/train-q50.beton")).labels) >= 0).all()
    encode_all(Path("d"), Path("again"), [50], order="folder")
    assert Path("again/train-q50.beton").read_bytes() == Path("folder/train-q50.beton").read_bytes()
