"""The class of an image file: what encode takes it for, given the root, or what a table says."""

import unicodedata
from pathlib import Path

import pytest
from samples import image

from jpegcurr.encoding.sources.labelled_files import LabelledFiles, find_labelled
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import SourceError, UsageError


def put(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image(number))


def classes(*paths: str, labels: str | None = None) -> dict[str, str | None]:
    labelled = find_labelled([Path(path) for path in paths], Path(labels) if labels else None)
    return {str(file): name for file, name in zip(labelled.files, labelled.classes, strict=True)}


LAYOUTS = {
    "classes": ("d/ant/1.jpg", "d/bee/2.jpg"),
    "deep": ("d/ant/images/1.jpg", "d/ant/images/more/2.jpg", "d/bee/images/3.jpg"),
    "splits": ("d/train/ant/1.jpg", "d/train/bee/2.jpg", "d/val/ant/3.jpg", "d/val/bee/deep/4.jpg"),
    "other names of splits": ("d/seg_train/ant/1.jpg", "d/seg_train/bee/2.jpg", "d/seg_test/ant/3.jpg", "d/seg_test/bee/4.jpg"),
    "classes called like splits": ("d/bus/1.jpg", "d/car/2.jpg", "d/train/3.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_it_is_what_encode_takes_it_for(names: tuple[str, ...]) -> None:
    put(*names)
    encoded = {}
    for source in open_sources("d"):
        encoded |= {source.store.locate(item): source.classes[item.label] for item in source.items}
    assert len(encoded) == len(names)
    assert classes("d") == encoded


def test_a_file_alone_and_a_folder_of_a_class_are_of_the_class_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    put("d/ant/1.jpg", "d/ant/2.jpg", "d/bee/3.jpg")
    assert classes("d/ant", "d/bee/3.jpg") == {"d/ant/1.jpg": "ant", "d/ant/2.jpg": "ant", "d/bee/3.jpg": "bee"}
    monkeypatch.chdir("d/ant")
    assert classes(".") == {"1.jpg": "ant", "2.jpg": "ant"}
    assert classes("1.jpg") == {"1.jpg": "ant"}


def test_a_folder_above_the_root_gives_nothing_a_class() -> None:
    put("cat/pictures/new/1.jpg", "cat/pictures/2.jpg")
    assert classes("cat/pictures") == {"cat/pictures/2.jpg": "pictures", "cat/pictures/new/1.jpg": "new"}


def test_a_table_names_the_classes_and_images_that_it_lacks_have_none() -> None:
    put("d/1.jpg", "d/2.jpg", "d/sub/3.jpg", "d/4.jpg")
    Path("labels.csv").write_text("id,label\n1,007\n2,7\nsub/3.jpg,bee\n")
    assert classes("d", labels="labels.csv") == {"d/1.jpg": "007", "d/2.jpg": "7", "d/4.jpg": None, "d/sub/3.jpg": "bee"}
    assert classes("d/2.jpg", labels="labels.csv") == {"d/2.jpg": "7"}
    labelled = find_labelled([Path("d")], Path("labels.csv"))
    assert labelled.numbers(["7", "bee"], known=True) == [-1, 0, -1, 1]
    assert labelled.describe_unknown(["7", "bee"], "run", known=True) == (
        "2 of 4 images have no class: the label is no class of run: '007' (1); 1 without a label. They are left out of every "
        "accuracy."
    )
    Path("labels.csv").write_text("id,label\n9,ant\n8,bee\n")
    with pytest.raises(SourceError, match=r"labels\.csv"):
        classes("d", labels="labels.csv")


def test_how_many_have_no_class_of_the_model_is_said() -> None:
    accent = unicodedata.normalize("NFD", "cáncer")
    put(f"d/{accent}/1.jpg", f"d/{accent}/2.jpg", "d/Dog/3.jpg", "d/dog/4.jpg", "d/x/5.jpg", "d/y/6.jpg")
    labelled = find_labelled([Path("d")])
    known = [unicodedata.normalize("NFC", "cáncer"), "dog"]
    assert [
        file.parent.name
        for file, number in zip(labelled.files, labelled.numbers(known, known=True), strict=True)
        if number >= 0
    ] == ["dog"]
    message = labelled.describe_unknown(known, "run", known=True)
    assert message.startswith("5 of 6 images have no class: the folder is no class of run: ")
    assert message.endswith("and 1 more. They are left out of every accuracy.")
    assert labelled.describe_unknown([accent, "Dog", "dog", "x", "y"], "run", known=True) == ""
    assert "class names of run are not known" in labelled.describe_unknown(["0", "1"], "run", known=False)
    assert set(labelled.numbers(["Dog", "x"], known=False)) == {-1}


def test_files_given_by_a_program_are_labelled_by_their_folders() -> None:
    assert LabelledFiles.of([Path("a/ant/1.jpg"), Path("a/bee/2.jpg")]).classes == ("ant", "bee")


def test_a_path_that_is_nowhere_or_empty() -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        classes("nowhere")
    Path("empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no images"):
        classes("empty")
