"""Drawn splits: exact shares, images that stay, groups that stay together, and tables that read back."""

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagenet import tar

from jpegcurr.cli import main
from jpegcurr.encoding.sources.base import SPLITS, Listing, ListingBuilder, Source, SplitDraw
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.splits import TEST, TRAIN, UNDRAWN, VAL, DrawnSplits, draw_splits, round_shares
from jpegcurr.errors import SourceError

SHARES = st.sampled_from([(0.2, 0.0), (0.2, 0.1), (0.0, 0.3), (1 / 3, 1 / 3), (0.05, 0.15)])


def listing(images: dict[str, int]) -> Listing:
    builder = ListingBuilder()
    for key, label in images.items():
        builder.add(key, label, 1)
    return builder.build()


def numbered(sizes: list[int], start: int = 0) -> dict[str, int]:
    """Images by class, named so that their names tell nothing of it."""
    return {f"{start + number:05}-{label}.jpg": label for label, size in enumerate(sizes) for number in range(size)}


def by_key(items: Listing, drawn: DrawnSplits) -> dict[str, int]:
    return dict(zip((item.key for item in items), drawn.splits.tolist(), strict=True))


def kept_of(items: Listing, before: dict[str, int]) -> np.ndarray:
    return np.array([before.get(item.key, UNDRAWN) for item in items], np.int8)


def put(*paths: str | bytes) -> None:
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(b"x")


def command(line: str | list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(line.split() if isinstance(line, str) else line)
    return int(left.value.code or 0)


def opened(where: str | list[str], labels: str) -> dict[str, tuple[str, str]]:
    """Split and class of every key, as encode reads them."""
    sources = open_sources(where, labels=labels)
    return {item.key: (source.split, source.classes[item.label]) for source in sources for item in source.items}


def test_600_images_of_10_classes_give_exact_shares() -> None:
    drawn = draw_splits(listing(numbered([60] * 10)), 10, SplitDraw(0.2, 0.1, 0))
    assert drawn.counts.tolist() == [[42, 12, 6]] * 10
    assert (drawn.counts == drawn.targets).all()


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 25), min_size=1, max_size=5), shares=SHARES, seed=st.integers(0, 2**32 - 1))
def test_shares_are_exact_and_larger_ones_include_smaller_ones(
    sizes: list[int], shares: tuple[float, float], seed: int
) -> None:
    items = listing(numbered(sizes))
    drawn = draw_splits(items, len(sizes), SplitDraw(*shares, seed))
    for size, counts in zip(sizes, drawn.counts.tolist(), strict=True):
        quotas = [size * (1 - sum(shares)), size * shares[0], size * shares[1]]
        assert sum(counts) == size
        assert all(abs(count - quota) < 1 + 1e-9 for count, quota in zip(counts, quotas, strict=True))
    assert (draw_splits(items, len(sizes), SplitDraw(*shares, seed)).splits == drawn.splits).all()
    less, more = (draw_splits(items, len(sizes), SplitDraw(share, 0.0, seed)).splits == VAL for share in (0.1, 0.4))
    assert (more | ~less).all()


def test_seeds_draw_different_images_evenly() -> None:
    items = listing(numbered([40]))
    picked = sum((draw_splits(items, 1, SplitDraw(0.25, 0.0, seed)).splits == VAL).astype(int) for seed in range(400))
    assert picked.min() > 60  # 100 expected, with a standard deviation of 9
    assert picked.max() < 140


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [(5, [9, 1, 0], [5, 0, 0]), (10, [7, 2, 1], [7, 2, 1]), (2, [1, 1, 1], [1, 1, 0]), (0, [1, 1], [0, 0])],
)
def test_largest_remainder(total: int, weights: list[int], parts: list[int]) -> None:
    assert round_shares(total, weights) == parts


def test_1000_added_images_move_none_and_the_shares_are_exact_again() -> None:
    draw, first = SplitDraw(0.2, 0.1, 0), numbered([60] * 10)
    before = by_key(items := listing(first), draw_splits(items, 10, draw))
    grown = listing(first | numbered([100] * 10, start=500))
    drawn = draw_splits(grown, 10, draw, kept=kept_of(grown, before))
    assert before.items() <= by_key(grown, drawn).items()
    assert drawn.counts.tolist() == [[112, 32, 16]] * 10


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    added=st.integers(0, 20),
    shares=SHARES,
    other=SHARES,
    data=st.data(),
)
def test_what_is_kept_stays_whatever_is_added_or_removed(
    sizes: list[int], added: int, shares: tuple[float, float], other: tuple[float, float], data: st.DataObject
) -> None:
    images = numbered(sizes)
    before = by_key(items := listing(images), draw_splits(items, len(sizes), SplitDraw(*shares, 1)))
    gone = data.draw(st.sets(st.sampled_from(sorted(images))))
    grown = listing({key: label for key, label in images.items() if key not in gone} | numbered([added] * len(sizes), 100))
    kept = kept_of(grown, before)
    drawn = draw_splits(grown, len(sizes), SplitDraw(*other, 1), kept=kept)
    after = by_key(grown, drawn)
    assert UNDRAWN not in after.values()
    assert all(after[key] == split for key, split in before.items() if key not in gone)
    for label in range(len(sizes)):
        held = [int(((grown.labels == label) & (kept == split)).sum()) for split in range(3)]
        for count, target, before_count in zip(drawn.counts[label], drawn.targets[label], held, strict=True):
            assert count <= max(target, before_count)


@settings(max_examples=60, deadline=None)
@given(members=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=40), seed=st.integers(0, 99))
def test_groups_stay_together_within_the_shares(members: list[tuple[int, int]], seed: int) -> None:
    items = listing({f"{number:03}.jpg": label for number, (label, _) in enumerate(members)})
    groups = [None if group == 9 else f"g{group}" for _, group in members]
    drawn = draw_splits(items, 3, SplitDraw(0.3, 0.2, seed), groups=groups)
    splits, sizes = defaultdict(set), defaultdict(Counter)
    for number, (group, split) in enumerate(zip(groups, drawn.splits.tolist(), strict=True)):
        splits[group or number].add(split)
        sizes[group or number][members[number][0]] += 1
    assert all(len(one) == 1 for one in splits.values())
    for split in (VAL, TEST):
        room = drawn.targets[:, split] - drawn.counts[:, split]
        assert (room >= 0).all()
        trained = [sizes[unit] for unit, (one,) in splits.items() if one == TRAIN]
        assert not any(all(room[label] >= size for label, size in unit.items()) for unit in trained), "a unit would fit"
    grown = listing({f"{number:03}.jpg": label for number, (label, _) in enumerate([*members, *members])})
    again = draw_splits(grown, 3, SplitDraw(0.3, 0.2, seed), groups=groups + groups, kept=kept_of(grown, by_key(items, drawn)))
    for number, group in enumerate(groups):
        assert again.splits[number] == drawn.splits[number]
        assert group is None or again.splits[len(groups) + number] == drawn.splits[number], "a new image follows its group"


def test_a_group_that_is_kept_in_two_splits_is_refused() -> None:
    items = listing(numbered([4]))
    with pytest.raises(SourceError, match=r"The group 'g' is kept in two splits: 00000-0.jpg in train and 00001-0.jpg in val"):
        draw_splits(items, 1, SplitDraw(0.2, 0, 0), groups=["g"] * 4, kept=np.array([TRAIN, VAL, -1, -1], np.int8))


AWKWARD = ("=1+1", "-x", "@a,b", 'q"uote', "a\nb", "'=q", r"\x1b", "\x1b[31m", " space ", "\u202egnp", "naïve", "'", "mv 1")


def test_tables_read_back_whatever_images_and_classes_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in AWKWARD if name != " space "]
    put(*(f"d/{kind}/{name}.jpg" for kind in (*names, "007", "7") for name in AWKWARD), os.fsencode("d/7/") + b"\xff\x80.jpg")
    (source,) = open_sources("d")
    assert command("split d --val 0.2 --test 0.2") == 0
    read = opened("d", "splits.csv")
    assert {key: name for key, (_, name) in read.items()} == {item.key: source.classes[item.label] for item in source.items}
    draw = draw_splits(source.items, len(source.classes), SplitDraw(0.2, 0.2, 0))
    assert {key: SPLITS.index(split) for key, (split, _) in read.items()} == by_key(source.items, draw)
    written = Path("splits.csv").read_bytes()
    assert not any(line.startswith((b"=", b"+", b"-", b"@")) for line in written.split(b"\n")), "a spreadsheet would run it"
    assert b"\x1b" not in written
    assert command("split d --val 0.2 --test 0.2 --keep splits.csv -o splits.csv") == 0
    assert Path("splits.csv").read_bytes() == written
    capsys.readouterr()
    put("d/ space /a.jpg")
    assert command("split d --val 0.2 -o other.csv") == 2
    assert "The class ' space ' begins or ends with a space" in capsys.readouterr().err


def test_a_table_divides_archives_as_it_divides_folders() -> None:
    files = {kind: {f"{number}.jpg": b"x" for number in range(5)} for kind in ("cat", "dog")}
    put(*(f"d/{kind}/{name}" for kind, names in files.items() for name in names))
    Path("tars").mkdir()
    for kind, members in files.items():
        Path(f"tars/{kind}.tar").write_bytes(tar(members))
    assert command("split tars --val 0.2 -o tars.csv") == 0
    assert command("split d --val 0.2 -o d.csv") == 0
    assert Path("tars.csv").read_bytes() == Path("d.csv").read_bytes()
    assert opened("tars", "d.csv") == opened("d", "d.csv")
    table = Path("d.csv").read_text()
    for text, message in (
        (table.replace("0.jpg,cat", "0.jpg,cow"), "is of the class 'cow', and tars that it is of 'cat'"),
        (table + "cat/9.jpg,cat,val\n", "names 1 images that are not in tars"),
        (table + "cat/0.jpg,cat,val\n", "line 12: cat/0.jpg is listed twice"),
        ("path,label,split\nx.jpg,cat,val\n", "names no image of tars: its 1 paths start elsewhere"),
    ):
        Path("wrong.csv").write_text(text)
        with pytest.raises(SourceError, match=message):
            open_sources("tars", labels="wrong.csv")
    Path("some.csv").write_text("".join(line for line in table.splitlines(keepends=True) if "0.jpg" not in line))
    (train, val) = open_sources("tars", labels="some.csv")
    assert (train.unlabelled, val.unlabelled, len(train.items) + len(val.items)) == (2, 0, 8)


def test_drawing_again_keeps_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    put(*(f"d/{kind}/{number}.jpg" for kind in "ab" for number in range(10)))
    assert command("split d --val 0.2") == 0
    before = opened("d", "splits.csv")
    assert command("split d --val 0.2") == 2
    assert "keep the splits in it with --keep splits.csv, or replace it with --force" in capsys.readouterr().err
    put(*(f"d/a/new{number}.jpg" for number in range(10)))
    assert command("split d --val 0.2 --keep splits.csv -o splits.csv") == 0
    assert "Kept where splits.csv has them: 20 images; drawn: 10." in capsys.readouterr().out
    grown = opened("d", "splits.csv")
    assert before.items() <= grown.items()
    assert Counter(grown.values()) == {("train", "a"): 16, ("val", "a"): 4, ("train", "b"): 8, ("val", "b"): 2}
    Path("d/a/0.jpg").unlink()
    text = Path("splits.csv").read_text()
    assert command("split d --val 0.2 --keep splits.csv -o splits.csv") == 2
    assert "Not all images of splits.csv are in d: 1 would be lost from it" in capsys.readouterr().err
    assert Path("splits.csv").read_text() == text
    assert command("split d --val 0.2 --keep splits.csv -o splits.csv --force") == 0
    assert opened("d", "splits.csv").items() <= grown.items()


def test_groups_are_what_the_expression_captures(capsys: pytest.CaptureFixture[str]) -> None:
    put(*(f"d/{kind}/film{film}-{frame}.jpg" for kind in "ab" for film in range(5) for frame in range(4)), "d/a/photo.jpg")
    assert command(["split", "d", "--val", "0.2", "--group", r"(./film\d)-"]) == 0
    assert "Groups: 10; images that match none, and are drawn one by one: 1." in capsys.readouterr().out
    films = defaultdict(set)
    for key, (split, _) in opened("d", "splits.csv").items():
        films[key.partition("-")[0]].add(split)
    assert Counter(map(len, films.values())) == {1: 11}
    assert command(["split", "d", "--val", "0.2", "--group", r"film\d", "-o", "both.csv"]) == 0, "a group in both classes"
    assert command(["split", "d", "--val", "0.1", "--group", r"film\d", "-o", "none.csv"]) == 0
    out = capsys.readouterr().out
    assert "val has no images of 1 of 2 classes." in out
    assert "val has 3 images fewer in 2 classes than its exact share." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("d", "Which share? Give --val 0.2, --test 0.1, or both"),
        ("d --val 0", "Which share?"),
        ("d --val 1.2", "--val 1.2: give a share of the images of every class, from 0 to below 1"),
        ("d --test -0.1", "--test -0.1: give a share"),
        ("d --val nan", "--val nan: give a share"),
        ("d --val 0.6 --test 0.4", "--val 0.6 and --test 0.4 leave no images to train on"),
        ("d --val 0.7", "2 classes have no images to train on: 'b' (1 in val) and 'c' (1 in val)"),
        ("d --val 0.01", "--val 0.01 leaves val empty: no class has enough images"),
        ("d --val 0.2 --group jpg", "--val 0.2 leaves val empty: no group is small enough"),
        ("d --val 0.2 --group film", "--group film matches no image, such as a/0.jpg"),
        ("d --val 0.2 --group (", "--group ( is not a regular expression"),
        ("d --val 0.2 --keep none.csv", "none.csv cannot be read"),
        ("d --val 0.2 --keep two.csv", "two.csv has no columns path, label and split"),
        ("d --val 0.2 --keep other.csv", "other.csv names no image of d: its 1 paths start elsewhere"),
        ("d --val 0.2 -o splits.tsv", "Give it a name that ends in .csv"),
        ("d --val 0.2 --label-from parent", "--label-from parent is for a list of bare paths"),
        ("e --val 0.2", "e has the splits train and val already, so none is drawn"),
        ("f --val 0.2", "The images of f lie in f/train. Give that folder"),
        ("nothing --val 0.2", "nothing does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(*(f"d/a/{number}.jpg" for number in range(10)), "d/b/0.jpg", "d/c/0.jpg")
    put("e/train/a/0.jpg", "e/val/a/0.jpg", "f/train/a/0.jpg")
    Path("two.csv").write_text("a/0.jpg,a\n")
    Path("other.csv").write_text("path,label,split\nz/0.jpg,a,val\n")
    before = sorted(Path().rglob("*"))
    assert command(f"split {arguments}") == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_encode_draws_as_split_does(capsys: pytest.CaptureFixture[str]) -> None:
    put(*(f"d/{kind}/{number}.jpg" for kind in "ab" for number in range(10)))
    assert command("split d --val 0.2 --test 0.1 --seed 3") == 0
    sources: tuple[Source, ...] = open_sources("d", draw=SplitDraw(0.2, 0.1, 3))
    drawn = {item.key: (source.split, source.classes[item.label]) for source in sources for item in source.items}
    assert drawn == opened("d", "splits.csv")
    assert [source.split for source in open_sources("d", draw=SplitDraw(0.2, 0, 3), splits=["val"])] == ["val"]
    put("e/train/a/0.jpg", "e/val/a/0.jpg")
    capsys.readouterr()
    assert command("encode e --val 0.2 --quality 50") == 2
    assert "e has the splits train and val already" in capsys.readouterr().err
