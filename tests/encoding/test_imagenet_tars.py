import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imagenet import (
    CLASSES,
    TRAIN,
    TRUTH,
    VAL,
    crop,
    kaggle_table,
    nested,
    tar,
    train_files,
    val_files,
    val_name,
    write_archives,
)
from scipy.io import savemat

from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.imagenet_tars import is_imagenet, open_imagenet
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import EncodeError, SourceError

ROOT = Path("d")
KEYS = [f"{wnid}/{name}" for wnid, files in train_files().items() for name in files]
VAL_KEYS = sorted(f"{wnid}/{val_name(number)}" for number, wnid in enumerate(TRUTH, 1))
IDS = {"n12102133": 3, "n01440764": 1, "n07920052": 4, "n02123045": 2}  # the devkit's: not in the classes' order
DEVKIT = "ILSVRC2012_devkit_t12"


def put(path: str, data: bytes | str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(path)


def keys(source: Source) -> list[str]:
    return [item.key for item in source.items]


def contents(source: Source) -> dict[str, bytes]:
    return {item.key: source.store.read(item) for item in source.items}


def only(root: Path, labels: Path | None = None) -> Source:
    (source,) = open_imagenet(root, labels)
    return source


def refusal(root: Path) -> str | None:
    """Return the error of an archive; None if it opens."""
    try:
        open_imagenet(root, None)
    except SourceError as error:
        return str(error)
    return None


def devkit_files(ids: str | None = None) -> dict[str, bytes]:
    """The devkit's two files that count, as MATLAB and the organisers wrote them: leaves first, then what is above them."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    leaves = [(number, wnid, f"words, {wnid}", "a gloss", 0, np.zeros(0)) for wnid, number in IDS.items()]
    above = [(len(IDS) + 1, "n00001740", "entity", "all there is", 4, np.arange(1.0, 5.0))]
    synsets = np.array(leaves + above, dtype=[(name, object) for name in fields]).reshape(-1, 1)
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets})
    truth = ids if ids is not None else "".join(f"{IDS[wnid]}\n" for wnid in TRUTH)
    return {
        f"{DEVKIT}/readme.txt": b"see the web page",
        f"{DEVKIT}/data/meta.mat": mat.getvalue(),
        f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def pack_devkit() -> None:
    put(f"d/{DEVKIT}.tar.gz", gzip.compress(tar(devkit_files())))


def unpack_devkit() -> None:
    for name, data in devkit_files().items():
        put(f"d/{name}", data)


def positions() -> str:
    return "".join(f"{val_name(number)} {sorted(CLASSES).index(wnid)}\n" for number, wnid in enumerate(TRUTH, 1))


def valprep() -> str:
    folders = "".join(f"mkdir -p {wnid}\n" for wnid in CLASSES)
    moved = "".join(f"mv {val_name(number)} {wnid}/\n" for number, wnid in enumerate(TRUTH, 1))
    return f"#!/bin/bash\n# makes folders\n\n{folders}{moved}echo done\n"


def test_both_splits_are_read_in_place_with_the_keys_of_the_unpacked_folders() -> None:
    train, val = open_imagenet(write_archives(ROOT), None)
    assert (train.split, val.split, train.root, val.root) == ("train", "val", "d", "d")
    assert train.classes == val.classes == tuple(sorted(CLASSES))
    assert (keys(train), keys(val)) == (KEYS, VAL_KEYS)
    assert contents(train) == {f"{wnid}/{name}": data for wnid, files in train_files().items() for name, data in files.items()}
    assert contents(val) == {f"{wnid}/{name}": data for wnid, (name, data) in zip(TRUTH, val_files().items(), strict=True)}
    for source in (train, val):
        assert [source.classes[item.label] for item in source.items] == [item.key.split("/")[0] for item in source.items]
        assert source.ignored == 0
    assert (train.labels, val.labels) == (None, "d/LOC_val_solution.csv")
    assert sorted(os.listdir("d")) == [TRAIN, VAL, "LOC_val_solution.csv"]


def test_archives_of_the_tar_command_are_read() -> None:
    for wnid, files in train_files().items():
        for name, data in files.items():
            put(f"images/{wnid}/{name}", data)
        put(f"images/{wnid}/notes.txt", "no image")
        put(f"images/{wnid}/._{wnid}_0.JPEG", "what macOS adds")
        Path("tars").mkdir(exist_ok=True)
        subprocess.run(["tar", "-cf", f"tars/{wnid}.tar", "-C", f"images/{wnid}", "."], check=True)
    Path("d").mkdir()
    subprocess.run(["tar", "-cf", f"d/{TRAIN}", "-C", "tars", "."], check=True)
    source = only(ROOT)
    assert (keys(source), source.ignored) == (KEYS, len(CLASSES))


def test_an_archive_of_any_name_can_be_given_itself() -> None:
    write_archives(ROOT, "train")
    Path(f"d/{TRAIN}").rename("d/pictures.v2.tar")
    source = only(Path("d/pictures.v2.tar"))
    assert (source.split, keys(source), source.root) == ("train", KEYS, "d/pictures.v2.tar")
    put("e/some.tar", tar({f"./val/{name}": data for name, data in val_files().items()}))
    source = only(Path("e/some.tar"), put("table.csv", kaggle_table()))
    assert (source.split, keys(source), source.labels) == ("val", VAL_KEYS, "table.csv")


def test_what_is_taken_for_imagenet() -> None:
    put("folders/train/a/1.jpg", "1")
    put("folders/plain.txt", "1")
    for name in (TRAIN, VAL):
        put(f"{name}.d/{name}", "whatever")
        assert is_imagenet(Path(f"{name}.d"))
    assert is_imagenet(put("other.tar", "whatever"))
    assert is_imagenet(put("other.tar.gz", "whatever"))
    assert not any(is_imagenet(Path(name)) for name in ("folders", "folders/plain.txt", "absent.tar", "absent"))


def test_val_takes_the_classes_of_train_also_where_it_is_given_alone() -> None:
    write_archives(ROOT)
    files = {name: data for name, data in val_files().items() if TRUTH[int(name[-13:-5]) - 1] == "n12102133"}
    put(f"d/{VAL}", tar(files))
    put("d/LOC_val_solution.csv", "".join(f"{name} n12102133\n" for name in files))
    source = only(Path(f"d/{VAL}"))
    assert (source.classes, [item.label for item in source.items]) == (tuple(sorted(CLASSES)), [3])


FORMS: dict[str, Callable[[], object]] = {
    f"{DEVKIT}.tar.gz": pack_devkit,
    f"{DEVKIT}.tar": lambda: put(f"d/{DEVKIT}.tar", tar(devkit_files())),
    DEVKIT: unpack_devkit,
    "imagenet_2012_validation_synset_labels.txt": lambda: put("d/imagenet_2012_validation_synset_labels.txt", "\n".join(TRUTH)),
    "LOC_val_solution.csv": lambda: put("d/LOC_val_solution.csv", kaggle_table()),
    "LOC_val_solution.csv, as Windows writes": lambda: put(
        "d/LOC_val_solution.csv", "\ufeff" + kaggle_table().replace("\n", "\r\n")
    ),
    "valprep.sh": lambda: put("d/valprep.sh", valprep()),
    "valprep.sh, otherwise": lambda: put(
        "d/valprep.sh", valprep().replace("mv ", "  mv -n ./val/").replace(" n", " val/n").replace("/\n", "\n")
    ),
    "valprep.sh, whole names": lambda: put(
        "d/valprep.sh", "".join(f"mv {val_name(n)} val/{wnid}/{val_name(n)}\n" for n, wnid in enumerate(TRUTH, 1))
    ),
    "val.txt": lambda: put("d/val.txt", "".join(f"{val_name(n)}\t{wnid}\n\n" for n, wnid in enumerate(TRUTH, 1))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_train", [False, True])
def test_every_form_of_the_ground_truth_is_found_beside_the_archive(form: str, with_train: bool) -> None:
    write_archives(ROOT, *(["train", "val"] if with_train else ["val"]))
    Path("d/LOC_val_solution.csv").unlink()
    FORMS[form]()
    val = open_imagenet(ROOT, None)[-1]
    assert (keys(val), val.labels) == (VAL_KEYS, f"d/{form.split(',')[0]}")
    assert val.classes == tuple(sorted(CLASSES))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_train", [False, True])
def test_every_form_means_the_same_for_a_folder_of_the_images(form: str, with_train: bool) -> None:
    """Unpack the archive, and name its labels: the classes and every image's class are those of the archive."""
    write_archives(ROOT, *(["train", "val"] if with_train else ["val"]))
    Path("d/LOC_val_solution.csv").unlink()
    FORMS[form]()
    archive = open_imagenet(ROOT, None)[-1]
    for name, data in val_files().items():
        put(f"unpacked/val/{name}", data)
    if with_train:
        for wnid in CLASSES:
            put(f"unpacked/train/{wnid}/1.JPEG", crop(CLASSES[wnid], 1))
    (folder,) = open_sources("unpacked/val", labels=Path("d", form.split(",")[0]))
    assert (folder.split, folder.classes, folder.unlabelled) == ("val", archive.classes, 0)
    expected = {Path(item.key).name: archive.classes[item.label] for item in archive.items}
    assert {item.key: folder.classes[item.label] for item in folder.items} == expected
    assert folder.labels == archive.labels


def test_positions_mean_the_same_for_a_folder_and_need_the_classes_of_train(caplog: pytest.LogCaptureFixture) -> None:
    for name, data in val_files().items():
        put(f"d/val/{name}", data)
    put("val.txt", positions())
    with pytest.raises(
        SourceError, match=r"val\.txt gives classes as positions .* their folder train beside the folder of these"
    ):
        open_sources("d/val", labels=Path("val.txt"))
    for wnid in CLASSES:
        put(f"d/train/{wnid}/1.JPEG", "1")
    (val,) = open_sources("d/val", labels=Path("val.txt"))
    assert val.classes == tuple(sorted(CLASSES))
    assert [val.classes[item.label] for item in val.items] == list(TRUTH)
    put("with_folders.txt", positions().replace("ILSVRC", "val/ILSVRC").replace(".JPEG", ""))
    (again,) = open_sources("d/val", labels=Path("with_folders.txt"))
    assert again.items.labels.tolist() == val.items.labels.tolist()
    shutil.rmtree(f"d/train/{TRUTH[0]}")
    put("d/LOC_val_solution.csv", kaggle_table())
    (own,) = open_sources("d/val", labels=Path("d/LOC_val_solution.csv"))
    assert own.classes == tuple(sorted(CLASSES)), "a train folder of other classes is of another data set"


def test_a_table_of_ordinary_columns_is_read_for_an_archive_as_for_a_folder() -> None:
    files = {"a.jpg": b"a", "b.png": b"b", "c.jpg": b"c"}
    table = put("labels.csv", "Class ID;File Name\n007;a.jpg\n7;b\n10;c\n")
    put("some.tar", tar(files))
    for name, data in files.items():
        put(f"some/{name}", data)
    archive = only(Path("some.tar"), table)
    (folder,) = open_sources("some", labels=table)
    assert archive.classes == folder.classes == ("007", "7", "10")
    assert keys(archive) == ["007/a.jpg", "10/c.jpg", "7/b.png"]
    assert [folder.classes[item.label] for item in folder.items] == ["007", "7", "10"]
    put("two.tar", tar({"a.jpg": b"a", "a.png": b"b"}))
    with pytest.raises(SourceError, match=r"t\.csv, line 1: 'a' may be a\.jpg and a\.png of two\.tar\. Write the suffix"):
        only(Path("two.tar"), put("t.csv", "a,cat\na.png,dog\n"))
    assert keys(only(Path("two.tar"), put("t.csv", "a.jpg,cat\na.png,dog\n"))) == ["cat/a.jpg", "dog/a.png"]


def test_a_class_of_several_words_is_not_cut() -> None:
    put(f"d/{VAL}", tar({val_name(1): b"a", val_name(2): b"b"}))
    table = put("t.csv", f"{val_name(1)},great white shark\n{val_name(2)},hen\n")
    assert only(ROOT, table).classes == ("great white shark", "hen")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_named(form: str) -> None:
    FORMS[form]()
    Path("d").rename("elsewhere")
    put(f"d/{VAL}", tar(val_files()))
    labels = Path("elsewhere", form.split(",")[0])
    assert (keys(only(ROOT, labels)), only(ROOT, labels).labels) == (VAL_KEYS, str(labels))


def test_positions_are_those_of_the_sorted_classes_of_train() -> None:
    write_archives(ROOT)
    put("d/val.txt", positions())
    assert keys(open_imagenet(ROOT, Path("d/val.txt"))[1]) == VAL_KEYS
    Path(f"d/{TRAIN}").unlink()
    with pytest.raises(SourceError, match=rf"d/val.txt gives classes as positions .* {TRAIN}, beside"):
        open_imagenet(ROOT, Path("d/val.txt"))


def test_classes_that_are_called_by_numbers_are_meant_by_name() -> None:
    put(f"d/{TRAIN}", nested({name: {"1.jpg": b"1"} for name in ("1", "2", "10")}))
    put(f"d/{VAL}", tar({"a.jpg": b"a", "b.jpg": b"b"}))
    assert keys(open_imagenet(ROOT, put("d/val.txt", "a.jpg 10\nb.jpg 2\n"))[1]) == ["10/a.jpg", "2/b.jpg"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "d/t is empty"),
        ("ImageId,PredictionString\n", "d/t is empty"),
        ("\n".join(TRUTH[1:]), f"d/t holds 4 classes, but d/{VAL} holds 5 images"),
        ("\n".join("12345"), f"d/t holds ILSVRC ids, whose classes only the devkit names. Give {DEVKIT}.tar.gz"),
        (kaggle_table().replace("0002,", "0009,"), f"names ILSVRC2012_val_00000009, which d/{VAL} does not hold"),
        ("".join(f"{val_name(n)},{TRUTH[n - 1]}\n" for n in (1, 3, 4, 5)), f"lacks {val_name(2)}, which d/{VAL} holds"),
        (positions() + f"{val_name(2)} 0\n", f"d/t, line 6: {val_name(2)} is listed twice"),
        (f"path,label,split\n{val_name(1)},n1,val\n", "d/t has a column split, but"),
        (f"{kaggle_table()}ILSVRC2012_val_00000009,n1 ", f"names ILSVRC2012_val_00000009, which d/{VAL} does not hold"),
        (f"{kaggle_table()}{val_name(2)} n1\n", f"d/t gives {val_name(2)} two classes, n01440764 and n1"),
        (f"{kaggle_table()}{val_name(2)}\n", f"has a line without a class, '{val_name(2)}'"),
        (kaggle_table().replace("n02123045", "n99"), f"gives {val_name(5)} the class n99, which the train split lacks"),
        ("\n".join([*TRUTH[1:], "n99"]), f"gives {val_name(5)} the class n99, which the train"),
        (positions().replace(" 3", " 4"), "d/t has the class 4, but train has 4 classes, 0 to 3"),
        (f"mv {val_name(1)}\n", f"has a line without a class, '{val_name(1)}'"),
        ("mv\n", "has a line without a class, ''"),
        (b"\xff\xfe\x00", "d/t is not a text table"),
        (None, "d/t cannot be read: No such file"),
    ],
)
def test_a_table_that_does_not_belong_to_the_archive_is_reported_by_name(table: str | bytes | None, message: str) -> None:
    write_archives(ROOT)
    if table is not None:
        put("d/t", table)
    with pytest.raises(SourceError, match=message):
        open_imagenet(ROOT, Path("d/t"))


@pytest.mark.parametrize("evil", ["../../evil", "/evil", "..", ".hidden"])
def test_a_table_cannot_name_a_class_outside(evil: str) -> None:
    write_archives(ROOT, "val")
    with pytest.raises(SourceError, match="cannot be the name of a folder"):
        open_imagenet(ROOT, put("t", kaggle_table().replace("n07920052", evil)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "lacks data/meta.mat"),
        ({**devkit_files("1 2 3 4 5"), f"{DEVKIT}/data/meta.mat": b"no matrix"}, "is damaged: data/meta.mat or"),
        (devkit_files("1 2 3 4 5"), "gives an image the id 5, which is no class in its data/meta.mat"),
        (devkit_files("1 2 3 4 x"), "is damaged"),
        (devkit_files("1 2 3 4"), "holds 4 classes, but"),
    ],
)
def test_a_devkit_that_cannot_be_right_is_reported(files: dict[str, bytes], message: str) -> None:
    write_archives(ROOT, "val")
    with pytest.raises(SourceError, match=message):
        open_imagenet(ROOT, put(f"{DEVKIT}.tar.gz", gzip.compress(tar(files))))


def test_a_devkit_that_cannot_be_read_is_reported() -> None:
    write_archives(ROOT, "val")
    Path(DEVKIT).mkdir()
    whole = gzip.compress(tar(devkit_files()))
    for path in (Path(DEVKIT), put("a.tar.gz", "no archive"), put("b.tar.gz", whole[: len(whole) // 2]), Path("absent.tgz")):
        with pytest.raises(SourceError, match=f"{path} cannot be read as the devkit: .* Give {DEVKIT}.tar.gz"):
            open_imagenet(ROOT, path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({TRAIN: tar({})}, f"d/{TRAIN} holds no class archives"),
        ({TRAIN: tar(val_files())}, f"d/{TRAIN} holds no class archives"),
        ({TRAIN: tar({"a.tar": tar({"1.jpg": b"1"}), "b.tar": tar({"notes.txt": b"1"})})}, f"d/{TRAIN}: b.tar holds no images"),
        ({TRAIN: tar({"a.tar": tar({}), "b/a.tar": tar({})})}, f"d/{TRAIN} holds b/a.tar twice"),
        ({TRAIN: gzip.compress(tar(val_files()))}, f"d/{TRAIN} is compressed .gzip."),
        ({TRAIN: tar({"a.tar": gzip.compress(tar(val_files()))})}, f"d/{TRAIN}: a.tar is compressed .gzip."),
        ({TRAIN: b"x" * 2048}, f"d/{TRAIN} is not a tar archive"),
        ({TRAIN: b""}, f"d/{TRAIN} is empty"),
        ({VAL: tar(val_files())}, f"The classes of the images in d/{VAL} are unknown. Put {DEVKIT}.tar.gz or"),
        ({VAL: tar({}), "val.txt": b"a.jpg n1"}, f"d/{VAL} holds no images"),
        (
            {VAL: tar({"a/1.jpg": b"1", "b/1.jpg": b"1"}), "val.txt": b"1.jpg n1"},
            f"d/{VAL} holds images in folders, such as b/1",
        ),
        ({VAL: tar({"1.jpg": b"1", "x/../1.jpg": b"1"}), "val.txt": b"1.jpg n1"}, "lies outside"),
        ({VAL: gzip.compress(tar(val_files())), "val.txt": b"1.jpg n1"}, "Decompress it to a plain .tar"),
        ({"train/a/1.jpg": b"1"}, f"d holds neither {TRAIN} nor {VAL}"),
        ({TRAIN: nested(train_files(1)), "val/a/1.jpg": b"1"}, f"d holds the folder val and the archive d/{TRAIN}"),
    ],
)
def test_what_is_no_imagenet_is_reported_by_name(files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        put(f"d/{name}", data)
    with pytest.raises(SourceError, match=message):
        open_imagenet(ROOT, None)


def test_a_lone_archive_that_is_neither_is_reported() -> None:
    for files in ({}, {"notes.txt": b"1"}):
        with pytest.raises(SourceError, match=r"x\.tar holds neither class archives nor images"):
            open_imagenet(put("x.tar", tar(files)), None)


def test_labels_are_for_validation_images() -> None:
    with pytest.raises(SourceError, match="d holds training images only"):
        open_imagenet(write_archives(ROOT, "train"), put("t.csv", kaggle_table()))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_an_archive_that_cannot_be_read_is_reported() -> None:
    Path("d").mkdir()
    Path(f"d/{TRAIN}").symlink_to("/proc/self/mem")  # a file that opens, and whose first byte cannot be read
    with pytest.raises(SourceError, match=f"d/{TRAIN} "):
        open_imagenet(ROOT, None)


def test_folders_and_hidden_files_are_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in {"./": tarfile.DIRTYPE, ".git": tarfile.DIRTYPE, "x": tarfile.DIRTYPE}.items():
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
        for name in ("._1.jpg", "x/.1.jpg", ".git/1.jpg", "x/1.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    put("x.tar", tar({"._a.tar": b"AppleDouble", "./a.tar": buffer.getvalue(), "readme": b"1"}))
    source = only(Path("x.tar"))
    assert (keys(source), source.ignored, source.classes) == (["a/x/1.jpg"], 1, ("a",))


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_archive_that_is_cut_short_is_refused_or_has_lost_nothing(split: str) -> None:
    archive = {"train": f"d/{TRAIN}", "val": f"d/{VAL}"}[split]
    whole = Path(write_archives(ROOT, split), Path(archive).name).read_bytes()
    expected = contents(only(ROOT))
    for size in [*range(0, len(whole), 512), *range(511, len(whole), 512)]:
        put(archive, whole[:size])
        if (message := refusal(ROOT)) is None:
            assert contents(only(ROOT)) == expected
            assert not whole[size:].strip(b"\0")
        else:
            assert archive in message
            assert "again" in message
        assert message is not None or size > len(whole.rstrip(b"\0"))


def test_the_store_goes_to_other_processes_and_says_where_an_image_lies() -> None:
    train, val = open_imagenet(write_archives(ROOT), None)
    for source in (train, val):
        store = pickle.loads(pickle.dumps(source.store))  # noqa: S301
        assert [store.read(item) for item in source.items] == list(contents(source).values())
    assert train.store.locate(train.items[0]) == f"d/{TRAIN}: n01440764/n01440764_0.JPEG"
    assert val.store.locate(val.items[0]) == f"d/{VAL}: {Path(val.items[0].key).name}", "which lies in no folder there"


def test_an_archive_that_shrinks_or_goes_stops_the_run() -> None:
    source = only(write_archives(ROOT, "train"))
    os.truncate(f"d/{TRAIN}", 20_000)
    with pytest.raises(EncodeError, match=r"n12102133_2.JPEG is cut off"):
        source.store.read(source.items[len(source.items) - 1])
    Path(f"d/{TRAIN}").unlink()
    with pytest.raises(EncodeError, match=TRAIN):
        source.store.read(source.items[0])


def test_listing_imports_nothing_heavy() -> None:
    write_archives(ROOT)
    code = f"""
import sys
from pathlib import Path
from jpegcurr.encoding.sources.imagenet_tars import open_imagenet
open_imagenet(Path({str(ROOT)!r}), None)
print([name for name in ("torch", "scipy", "cv2", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
