"""Rows of the table of all files: the facts of one file each."""

from jpegcurr.encoding.jpeg.double_compression import Trace
from jpegcurr.encoding.survey import FileFacts

HEADER = (
    "split",
    "file",
    "class",
    "problem",
    "format",
    "bytes",
    "width",
    "height",
    "bits_per_pixel",
    "quality",
    "tables",
    "exact",
    "factor",
    "chroma_quality",
    "chroma",
    "colour",
    "process",
    "precision",
    "huffman",
    "restart",
    "markers",
    "orientation",
    "make",
    "software",
    "comment",
    "crc32",
    "earlier",
    "earlier_lowest",
    "earlier_highest",
    "earlier_score",
    "moved",
    "moved_lowest",
    "moved_highest",
    "moved_score",
    "moved_offset",
)


def file_row(split: str, key: str, label: str, facts: FileFacts) -> list[object]:
    """Return the row of one file, in the order of ``HEADER``; what is not known, or of no JPEG, is empty."""
    pixels = facts.width * facts.height
    checksum = "" if facts.crc32 is None else f"{facts.crc32:08x}"
    known = [facts.width or "", facts.height or "", 8 * facts.bytes_in / pixels if pixels else ""]
    anatomy = facts.anatomy
    problem = facts.reason or ("" if anatomy is None or anatomy.ended else "no end-of-image marker")
    row: list[object] = [split, key, label, problem, facts.format, facts.bytes_in, *known]
    if anatomy is None:
        return [*row, *[""] * 16, checksum, *[""] * 9]
    quantisation = anatomy.quantisation
    if quantisation is None:
        row += [""] * 5
    else:
        chroma = quantisation.chroma if quantisation.chroma is not None else quantisation.quality
        row += [quantisation.quality, quantisation.maker, int(quantisation.exact), quantisation.factor]
        row += [chroma if anatomy.components > 1 else ""]
    row += [anatomy.layout, anatomy.colour, anatomy.process, anatomy.precision, anatomy.huffman, anatomy.restart]
    row += [" ".join(anatomy.markers), anatomy.orientation, anatomy.make, anatomy.software, anatomy.comment, checksum]
    offset = "" if facts.moved is None else "{} {}".format(*facts.moved.offset)
    return [*row, *_trace_cells(facts.sampled, facts.trace), *_trace_cells(facts.moved_sampled, facts.moved), offset]


def _trace_cells(sampled: bool, trace: Trace | None) -> list[object]:
    """Return whether an earlier compression shows, ``yes``, ``no`` or ``unknown``, and the likeliest; "" if unsampled."""
    if not sampled or trace is None:
        return ["unknown" if sampled else "", "", "", ""]
    return ["yes" if trace.detected else "no", trace.lowest, trace.highest, trace.score]
