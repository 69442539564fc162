import os
import pickle
from itertools import permutations
from pathlib import Path

import pytest
from samples import jpeg, photograph

from jpegcurr.encoding.sources import table_paths
from jpegcurr.encoding.sources.base import MISSING, Source
from jpegcurr.encoding.sources.csv_labels import open_table
from jpegcurr.errors import ImageError, SourceError


def put(*names: str) -> None:
    """Empty files below ``pictures``."""
    for name in names:
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def opened(text: str | bytes, name: str = "labels.csv") -> tuple[Source, ...]:
    Path(name).write_bytes(text if isinstance(text, bytes) else os.fsencode(text))
    return open_table(Path("pictures"), Path(name))


def rows(text: str | bytes, name: str = "labels.csv") -> dict[str, str]:
    """Class by key."""
    (source,) = opened(text, name)
    return {item.key: source.classes[item.label] for item in source.items}


def test_kaggles_table_of_dog_breeds_works_as_it_is() -> None:
    Path("pictures").mkdir()
    breeds = {"000bec180eb18c7604dcecc8fe0dba07": "boston_bull", "001513dfcb2ffafc82cccf4d8bbaba97": "dingo"}
    for number, key in enumerate(breeds):
        Path(f"pictures/{key}.jpg").write_bytes(jpeg(photograph("cat").crop((number, 0, 40, 30))))
    (source,) = opened("id,breed\r\n" + "".join(f"{key},{breed}\r\n" for key, breed in breeds.items()))
    assert (source.root, source.split, source.labels) == ("pictures", "pictures", "labels.csv")
    assert source.classes == ("boston_bull", "dingo")
    assert {item.key: source.classes[item.label] for item in source.items} == {
        f"{key}.jpg": breed for key, breed in breeds.items()
    }
    store = pickle.loads(pickle.dumps(source.store))  # noqa: S301
    assert store.read(source.items[1]) == Path("pictures/001513dfcb2ffafc82cccf4d8bbaba97.jpg").read_bytes()
    assert source.items.sizes.tolist() == [len(store.read(item)) for item in source.items]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path,label\na.jpg,cat\nb/c.png,dog\n", "l.csv"),
        ("a.jpg,cat\nb/c.png,dog", "l.csv"),
        ("\ufeffPath;Class\r\na.jpg;cat\r\n\r\nb/c.png;dog\r\n", "l.csv"),
        ("a.jpg\tcat\nb/c.png\tdog\n", "l.tsv"),
        ("a.jpg\tcat\nb/c.png\tdog\n", "l.txt"),
        ("label,image\ncat,a.jpg\ndog,b/c.png\n", "l.csv"),
        ('"File Name","class"\n"a.jpg","cat"\n"./b//c.png"," dog"\n', "l.csv"),
        ("a.jpg cat\nb/c.png  dog \n", "l.txt"),
        ("Width;Height;Roi.X1;Roi.Y1;ClassId;Path\r\n53;54;6;5;cat;a.jpg\r\n42;45;5;5;dog;b/c.png\r\n", "l.csv"),
        ("path,label\r\na.jpg,cat\rb/c.png,dog\n", "l.csv"),
        ("a.jpg,cat\r\r\nb/c.png,dog\r\r\n", "l.csv"),
        ("foto,species\na.jpg,cat\nb/c,dog\n", "l.csv"),
        (",id,filename,width,class_name\n0,7,a.jpg,640,cat\n1,8,b/c.png,480,dog\n", "l.csv"),
        ("image,name,split\na.jpg,cat,train\nb/c.png,dog,train\n", "l.csv"),
        ("id,breed,\na,cat,\nb/c,dog,\n", "l.csv"),
    ],
)
def test_headers_delimiters_and_columns(text: str, name: str) -> None:
    put("a.jpg", "b/c.png")
    assert rows(text, name) == {"a.jpg": "cat", "b/c.png": "dog"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,breed\na,cat\n", {"id.jpg": "breed", "a.jpg": "cat"}),  # there is an image called so
        ("gone.jpg,cat\na.jpg,cat\n", {"gone.jpg": "cat", "a.jpg": "cat"}),
        ("gone,3\na,4\n", {"gone": "3", "a.jpg": "4"}),
        ("gone,name\na,cat\nid,name\n", {"gone": "name", "a.jpg": "cat", "id.jpg": "name"}),  # which is a class there
        ("gone,cat\na,cat\n", {"gone": "cat", "a.jpg": "cat"}),
        ("gone,dog\na,cat\n", {"gone": "dog", "a.jpg": "cat"}),
        ("a.jpg,name\nid.jpg,species\n", {"a.jpg": "name", "id.jpg": "species"}),
    ],
)
def test_a_first_row_that_is_an_image_is_no_header(text: str, expected: dict[str, str]) -> None:
    put("a.jpg", "id.jpg")
    assert rows(text) == expected


def test_a_header_of_other_words_is_a_row_that_fails_with_a_word_of_advice(caplog: pytest.LogCaptureFixture) -> None:
    put("a.jpg")
    assert rows("foto,rasse\na,cat\n") == {"foto": "rasse", "a.jpg": "cat"}
    assert "labels.csv, line 1: 'foto' is no image. If the line is a header, name its columns path and label" in caplog.text
    assert rows("path,label\na,cat\n") == {"a.jpg": "cat"}


def test_the_same_rows_in_any_order_are_the_same_images() -> None:
    put("a.jpg", "b.jpg")
    lines = ["gone,species", "a,cat", "b,dog"]
    for order in permutations(lines[1:]):
        assert rows("\n".join([*order, lines[0]])) == {"gone": "species", "a.jpg": "cat", "b.jpg": "dog"}
    assert rows("\n".join([*lines, "c,species"])) == {"gone": "species", "a.jpg": "cat", "b.jpg": "dog", "c": "species"}


def test_a_name_of_two_images_is_refused_whatever_came_before() -> None:
    put("1.jpg", "1.png", "2.png", "3", "3.jpg", "x/1.JPG")
    assert rows("2,cat\n1.jpg,dog\n1.png,cat\n3,dog\nx/1,cat\n") == {
        "1.jpg": "dog",
        "1.png": "cat",
        "2.png": "cat",
        "3": "dog",
        "x/1.JPG": "cat",
    }
    for text in ("1,cat\n2,dog\n", "2,cat\n1,dog\n"):
        with pytest.raises(SourceError, match=r"1 names are not the name of one image: line \d: '1' may be 1\.jpg or 1\.png"):
            opened(text)
    put(*(f"{number}.{suffix}" for number in range(10, 20) for suffix in ("jpg", "jpeg")))
    with pytest.raises(
        SourceError, match=r"10 names .* line 1: '10' may be 10\.jpeg or 10\.jpg; line 2: .*; and 7 more\. Write"
    ):
        opened("".join(f"{number},cat\n" for number in range(10, 20)))


def test_names_that_lost_their_zeros_are_refused_also_where_others_did_not() -> None:
    put(*(f"{number:04}.jpg" for number in (0, 7, 12, 1000)), "5.jpg", "x/03.png")
    text = "id,breed\n0,a\n7,b\n12,a\n1000,b\n5,a\nx/3,b\n"
    with pytest.raises(SourceError, match=r"4 names .* line 2: '0' may be 0000\.jpg; .* and 1 more.* spreadsheet as text"):
        opened(text)
    fixed = text.replace("\n0,", "\n0000,").replace("\n7,", "\n0007,").replace("\n12,", "\n0012.jpg,").replace("x/3", "x/03")
    assert list(rows(fixed)) == ["0000.jpg", "0007.jpg", "0012.jpg", "1000.jpg", "5.jpg", "x/03.png"]
    assert rows("8,a\n5,b\n") == {"5.jpg": "b", "8": "a"}, "which is simply missing"


def test_images_that_the_table_does_not_name_are_counted() -> None:
    put("a.jpg", "b.jpg", "c.png", "x/d.jpg", "notes.txt", ".hidden.jpg")
    (source,) = opened("path,label\na.jpg,cat\ngone.jpg,dog\n", "pictures/labels.csv")
    assert (source.unlabelled, source.ignored) == (3, 4)
    train, val = opened("path,label,split\na.jpg,cat,train\nb.jpg,cat,val\n")
    assert [(split.unlabelled, split.ignored) for split in (train, val)] == [(2, 4), (0, 0)]


def test_odd_names_are_kept() -> None:
    names = ["with space.jpg", "a,b.jpg", 'quote".jpg', "new\nline.jpg", "ünï.jpg", "surrogate\udcff.jpg", " edge .jpg"]
    put(*names)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
    assert list(rows("".join(f"{cell},cat\n" for cell in quoted.values()))) == sorted(names, key=os.fsencode)
    (source,) = opened("".join(f"{cell},cat\n" for cell in quoted.values()))
    assert all(source.store.read(item) == b"x" for item in source.items)


def test_absolute_paths_below_the_root_are_paths_from_it() -> None:
    put("a.jpg", "b/c.jpg")
    Path("link").symlink_to("pictures")
    here = Path.cwd()
    Path("l.csv").write_text(f"{here}/link/a.jpg,cat\n{here.resolve()}/pictures/b/c.jpg,cat\nb/../b/d.jpg,cat\n")
    (source,) = open_table(Path("link"), Path("l.csv"))
    assert [item.key for item in source.items] == ["a.jpg", "b/c.jpg", "b/d.jpg"]
    assert source.split == "pictures"


def test_suffixes_cost_one_check_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03}" for number in range(50)]
    put(*(f"{name}.PNG" for name in names), "v1.2.JPEG", "bare", "b.webp")
    Path("pictures/000").mkdir()
    checked: list[str] = []
    size = table_paths.PathFinder._size
    monkeypatch.setattr(table_paths.PathFinder, "_size", lambda self, key: checked.append(key) or size(self, key))
    labels = rows("".join(f"{name},cat\n" for name in [*names, "v1.2", "bare", "b"]))
    assert set(labels) == {*(f"{name}.PNG" for name in names), "v1.2.JPEG", "bare", "b.webp"}
    assert len(checked) < 50 + 5 * 25


def test_an_image_that_is_not_there_is_an_item_all_the_same() -> None:
    put("a.jpg")
    (source,) = opened("path,label\na.jpg,cat\ngone.jpg,dog\nlost,dog\n")
    assert {item.key: item.size for item in source.items} == {"a.jpg": 1, "gone.jpg": MISSING, "lost": MISSING}
    for item in source.items[1], source.items[2]:
        with pytest.raises(ImageError, match="No such file"):
            source.store.read(item)


def test_labels_that_are_numbers_are_sorted_as_such() -> None:
    put(*(f"{number}.jpg" for number in range(5)))
    (source,) = opened("".join(f"{number}.jpg,{label}\n" for number, label in enumerate((10, 9, 2, -1, 10))))
    assert source.classes == ("-1", "2", "9", "10")
    assert source.items.labels.tolist() == [3, 2, 1, 0, 3]
    assert set(rows("0.jpg,10\n1.jpg,9\n2.jpg,b\n").values()) == {"10", "9", "b"}
    assert opened("0.jpg,10\n1.jpg,9\n2.jpg,b\n")[0].classes == ("10", "9", "b")


def test_a_column_of_splits_makes_sources() -> None:
    put(*(f"{number}.jpg" for number in range(5)))
    head = "filename,label,split\n"
    train, val, test = opened(head + "3.jpg,b,validation\n0.jpg,b,train\n1.jpg,c,Train\n2.jpg,a,training\n4.jpg,c,Testing\n")
    assert [source.split for source in (train, val, test)] == ["train", "val", "test"]
    assert {source.classes for source in (train, val, test)} == {("a", "b", "c")}
    assert [(item.key, item.label) for item in train.items] == [("0.jpg", 1), ("1.jpg", 2), ("2.jpg", 0)]
    assert [(item.key, item.label) for item in val.items] == [("3.jpg", 1)]
    (val,) = opened(head + "3.jpg,b,val\n")
    assert (val.split, val.classes) == ("val", ("b",))
    with pytest.raises(SourceError, match=r"4\.jpg of the split val has the class 'zebra', which train lacks"):
        opened(head + "0.jpg,b,train\n4.jpg,zebra,val\n")
    with pytest.raises(SourceError, match=r"line 2: the split is 'dev'\. It must be train, val or test"):
        opened(head + "0.jpg,b,dev\n")
    with pytest.raises(SourceError, match=r"labels\.csv: 0\.jpg is listed twice"):
        opened(head + "0.jpg,b,train\n0.jpg,b,val\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv is empty"),
        ("\n\n", "labels.csv is empty"),
        ("path,label\n", "labels.csv names no images"),
        (
            "a.jpg\nb.jpg\n",
            "line 1: 'a.jpg' has no parent folder in pictures to be its class. Give a second column with labels",
        ),
        ("x\ny\n", "line 1, has one cell. Put a tab, a comma or a semicolon between path and label"),
        (
            "a.jpg,cat,3\n",
            r"line 1: it is unclear which of 'a.jpg', 'cat', '3' are paths and labels\. Name one of them path, .* one label,",
        ),
        ("path,width,height\na.jpg,3,4\n", "line 1: it is unclear which of 'path', 'width', 'height' are paths and labels"),
        ("id,breed\na,cat\nb,\n", "line 3: 'b' has no label"),
        ("id,breed\na,cat\n\nb\n", "line 4: 1 cells instead of 2"),
        ("a.jpg,cat\nb,c.jpg,cat\n", "line 2: 3 cells instead of 2. Quote names"),
        ('a.jpg,cat\n"b\nb.jpg",\n', r"line 3: 'b\\nb.jpg' has no label"),
        ("a.jpg,cat\na.jpg,dog\n", "labels.csv: a.jpg is listed twice. Name every image once"),
        ("a.jpg,cat\na,dog\n", "labels.csv: a.jpg is listed twice"),
        ("a.jpg,cat\n../a.jpg,cat\n", "line 2: '../a.jpg' is not a path below pictures"),
        ("a.jpg,cat\n/etc/a.jpg,cat\n", "line 2: '/etc/a.jpg' is not a path below pictures"),
        ("a.jpg,cat\n,cat\n", "line 2: '' is not a path below pictures"),
        ("a.jpg,cat\nb\0.jpg,cat\n", "line 2: .* is not a path below pictures"),
        (
            "path,label\nx/a.jpg,cat\nx/b.jpg,cat\n",
            "line 2 names 'x/a.jpg', which is not in pictures, .* no other image of the table is",
        ),
        ("path,label\nx\\a.jpg,cat\nx\\b.jpg,cat\n", "Its backslashes separate no folders here: write / in their place"),
        ('a.jpg,cat\n"b.jpg,cat\nc.jpg,cat\n', "labels.csv, line 3: unexpected end of data. Check that every quote is closed"),
        (b"a.jpg,caf\xe9\n", "line 1: the label .* is not UTF-8. Save the table in UTF-8"),
        ("a.jpg,cat\n".encode("utf-16"), "labels.csv is not a text table. Save it as CSV in UTF-8"),
    ],
)
def test_what_is_wrong_is_reported_by_line(text: str | bytes, message: str) -> None:
    put("a.jpg", "b.jpg")
    with pytest.raises(SourceError, match=message):
        opened(text)


def test_a_table_that_cannot_be_read_is_reported() -> None:
    put("a.jpg")
    with pytest.raises(SourceError, match=r"gone\.csv cannot be read: No such file"):
        open_table(Path("pictures"), Path("gone.csv"))
    with pytest.raises(SourceError, match="pictures cannot be read: Is a directory"):
        open_table(Path("pictures"), Path("pictures"))
