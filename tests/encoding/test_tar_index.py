import io
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from imagenet import tar
from samples import jpeg, photograph

from jpegcurr.encoding.sources.tar_index import BLOCK, Member, read_members
from jpegcurr.errors import SourceError


def contents() -> dict[str, bytes]:
    picture = photograph("cat")
    return {
        "a.jpg": jpeg(picture.crop((0, 0, 40, 30))),
        "sub/b.jpg": jpeg(picture.crop((9, 9, 60, 50))),
        "c.txt": b"",
        "d": b"dd",
    }


def index(data: bytes, start: int = 0, end: int | None = None) -> list[Member]:
    return list(read_members(io.BytesIO(data), "x.tar", start, end))


def unpacked(data: bytes, start: int = 0, end: int | None = None) -> dict[str, bytes]:
    return {member.name: data[member.offset : member.offset + member.size] for member in index(data, start, end)}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_at_their_offsets(format: int) -> None:
    files = contents() | {"long/" + "x" * 90 + "/" + "y" * 80 + ".jpg": b"long name", "two\nlines, ünï \udcff.jpg": b"odd name"}
    data = tar(files, format)
    assert unpacked(data) == unpacked(bytes(77) + data, 77) == files
    assert [member.name for member in index(data)] == list(files), "in the archive's order"


def test_a_tar_in_a_tar_has_offsets_in_the_outer_file() -> None:
    inner = tar(contents())
    outer = tar({"n01.tar": inner, "n02.tar": inner, "more": b"x" * 2000})
    first, second, _ = index(outer)
    for member in (first, second):
        assert unpacked(outer, member.offset, member.offset + member.size) == contents()
    with pytest.raises(SourceError, match=r"x\.tar is cut short"):  # and does not run on into what follows
        index(outer, first.offset, first.offset + len(inner.rstrip(b"\0")) // BLOCK * BLOCK)


def test_the_file_may_be_moved_between_members() -> None:
    data = tar(contents())
    file = io.BytesIO(data)
    files = {}
    for member in read_members(file, "x.tar"):
        file.seek(member.offset)
        files[member.name] = file.read(member.size)
        file.seek(0)
    assert files == contents()


def test_folders_and_hidden_names_are_passed_over_and_names_tidied() -> None:
    Path("t/.git").mkdir(parents=True)
    Path("t/deep").mkdir()
    for name in ("t/.DS_Store", "t/.git/a.jpg", "t/deep/1.jpg", "t/deep/._1.jpg"):
        Path(name).write_bytes(b"x")
    with tarfile.open("x.tar", "w") as archive:
        archive.add("t", "./")
    assert [member.name for member in index(Path("x.tar").read_bytes())] == ["deep/1.jpg"]
    assert unpacked(tar({"./a//b.jpg": b"1", ".hidden.jpg": b"2"})) == {"a/b.jpg": b"1"}


def test_an_empty_archive_has_no_members() -> None:
    assert index(tar({})) == []


def test_a_truncated_archive_is_an_error_or_loses_nothing() -> None:
    files = contents()
    data = tar(files, tarfile.PAX_FORMAT, mtime=1.5)  # a fraction needs an extended header, which can be cut off too
    last = index(data)[-1]
    mark = last.offset + -(-last.size // BLOCK) * BLOCK
    whole = [end for end in range(0, len(data), BLOCK) if tells_the_truth(data[:end], files)]
    assert whole == list(range(mark + BLOCK, len(data), BLOCK)), "one block of zeros is an end, and all that may be left"
    for end in (1, 100, 511, 513, 700, len(data) // 2 + 1):
        assert not tells_the_truth(data[:end], files)


def tells_the_truth(data: bytes, files: Mapping[str, bytes]) -> bool:
    """Return whether the archive is whole; check that damage is reported, also inside of another archive."""
    outer = b"#" * 1000 + data + tar({"next.jpg": b"next"})
    message, message_inside = refusal(data, 0, len(data)), refusal(outer, 1000, 1000 + len(data))
    assert (message is None) == (message_inside is None)
    if message is not None:
        assert message.startswith("x.tar is ")
        return False
    assert unpacked(data) == unpacked(outer, 1000, 1000 + len(data)) == files
    return True


def refusal(data: bytes, start: int, end: int) -> str | None:
    try:
        index(data, start, end)
    except SourceError as error:
        return str(error)
    return None


def test_a_header_that_is_damaged_or_gone_is_no_end() -> None:
    data = tar(contents())
    for start in [member.offset - BLOCK for member in index(data)]:
        damaged = data[: start + 3] + bytes([data[start + 3] ^ 1]) + data[start + 4 :]
        hole = data[:start] + bytes(BLOCK) + data[start + BLOCK :]
        for before in (0, 1000):
            no_header = (
                f"x.tar is damaged at byte {before + start}: there is no header" if start else "its beginning is damaged"
            )
            for changed, message in ((damaged, no_header), (hole, "has data after its end mark")):
                with pytest.raises(SourceError, match=message):
                    index(bytes(before) + changed, before)


def test_archives_that_were_joined_are_reported() -> None:
    with pytest.raises(SourceError, match="has data after its end mark"):
        index(tar(contents()) + tar({"e.jpg": b"5"}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.tar is empty"),
        (b"x" * 100, "x.tar is cut short"),
        (b"x" * 5000, "x.tar is not a tar archive"),
        (b"\x1f\x8b\x08" + b"x" * 5000, r"x.tar is compressed \(gzip\), but images are read in place. Decompress it"),
        (b"BZh91AY" + b"x" * 5000, "bzip2"),
        (b"\xfd7zXZ\0" + b"x" * 5000, "xz"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 5000, "zstd"),
        (tar({"/etc/a.jpg": b"1"}), "x.tar: '/etc/a.jpg' lies outside"),
        (tar({"a/../../b.jpg": b"1"}), "lies outside"),
        *[
            (tar({"a.jpg": b""}, type=kind, linkname="b.jpg"), "x.tar: a.jpg is a link, a sparse file or a device")
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)
        ],
        (
            tar({"a.jpg": b""}, tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.size": "99999999", "GNU.sparse.numblocks": "0"}),
            "sparse",
        ),
    ],
)
def test_what_cannot_be_read_in_place_is_reported(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        index(data)
    if len(data) > BLOCK:
        with pytest.raises(SourceError, match=message):
            index(b"#" * 77 + data, 77)


def test_memory_does_not_grow_with_the_members() -> None:
    def peak(count: int) -> int:
        file = io.BytesIO(tar({f"{number:06}.jpg": b"" for number in range(count)}, tarfile.USTAR_FORMAT))
        tracemalloc.start()
        assert sum(1 for _ in read_members(file, "x.tar")) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(3000) < peak(300) + 20_000
