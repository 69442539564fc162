"""Words of an audit: the facts of a split as a table, and what they mean in sentences."""

from collections.abc import Mapping, Sequence

from jpegcurr.analysis.audit.label_prediction import FOLDS, FieldScore, LabelPrediction
from jpegcurr.analysis.audit.report import AuditReport
from jpegcurr.analysis.audit.summary import FALSE_ALARMS, ClassSummary, SplitSummary, TraceCounts
from jpegcurr.analysis.stats import LEVEL, precise_p, short_p, state_p
from jpegcurr.encoding.jpeg.former_size import FormerSize
from jpegcurr.text import join_words, megabytes

MOST_VALUES = 6  # of a distribution that are named
FIELD_COLUMNS = ("field", "alone, %", "p (Holm)", "all others, %")
CLASS_COLUMNS = (
    "class",
    "files",
    "median quality",
    "most often",
    "chroma",
    "width x height",
    "bytes a file",
    "bits a pixel",
)
# Fields that depend on the subject as well as on the encoder: detail takes bytes, and towers are tall.
OF_SUBJECT = {"sides", "bytes", "bits a pixel"}


def percent(count: float, total: float) -> str:
    """Return a share such as ``76.4 %``; one that is neither none nor all never looks as if it were."""
    if not total:
        return "-"
    share = 100 * count / total
    if 0 < share < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < share < 100 else f"{share:.3g} %"


def distribution(counts: Mapping[str, int] | Mapping[int, int], total: int, most: int = MOST_VALUES) -> str:
    """Return ``96 (67 %), 75 (6.2 %)`` of counts whose most frequent values come first; the rest is counted."""
    named = list(counts.items())[:most]
    words = ", ".join(f"{value} ({percent(count, total)})" for value, count in named)
    rest = len(counts) - len(named)
    return f"{words}, {rest} more" if rest > 0 else words or "-"


def split_facts(split: SplitSummary) -> dict[str, str]:
    """Return the facts of a split in words, by name; the same names for every split."""
    jpegs = split.jpegs
    formats = distribution(split.formats, split.images - split.unread)
    exact = split.makers.get("libjpeg", 0)
    tables = distribution(split.makers, jpegs)
    if "other" in split.makers:
        tables += f" (nearest quality stated; steps differ by a factor of {split.largest_factor:.2f} at most)"
    if split.split_quality:
        tables += f"; luma and chroma of different quality: {split.split_quality:,}"
    qualities = distribution(split.qualities, jpegs)
    if len(split.qualities) > 1:
        qualities += f"; {min(split.qualities)} to {max(split.qualities)}"
    rotated = sum(split.orientations.values())
    return {
        "files": f"{split.images:,}, {megabytes(split.total_bytes)}",
        "not readable": f"{split.unread:,}",
        "without end-of-image marker": f"{split.unended:,}",
        "format": formats,
        "suffix of another format": f"{split.misnamed:,}",
        "quality": qualities,
        "made by the tables of": tables if exact or jpegs else "-",
        "chroma": distribution(split.layouts, jpegs),
        "coding": distribution(split.processes, jpegs),
        "Huffman tables": distribution(split.huffman, jpegs),
        "restart markers": percent(split.restarts, jpegs),
        "markers": distribution(split.markers, jpegs, most=10),
        "turned by EXIF or XMP": f"{rotated:,}",
        "encoder stated": f"{percent(split.encoders_stated, jpegs)}" + _most_stated(split),
        "width, pixels": _spread(split.width),
        "height, pixels": _spread(split.height),
        "bytes a file": _spread(split.file_bytes),
        "bits a pixel": " / ".join(f"{value:.2f}" for value in split.bits_per_pixel),
        "earlier compression": trace_words(split.traces),
        "the same, then cropped": trace_words(split.moved),
        "the same, then resized": _former_words(split),
    }


def _former_words(split: SplitSummary) -> str:
    """Return what the images together show of a compression before they were resized."""
    if not split.traces.sampled:
        return "not looked for"
    if not split.resized:
        return "no side in common"
    if split.former is None:
        return "cannot be told"
    result = f"from {split.former.former} pixels" if split.former.detected else "none found"
    return f"{result}, {split.former.images:,} together"


def fact_rows(report: AuditReport) -> list[list[str]]:
    """Return a row for each fact, with a column for each split; counts of what is nowhere are left out."""
    by_split = [split_facts(split) for split in report.splits]
    rows = [[name, *(facts[name] for facts in by_split)] for name in by_split[0]]
    return [row for row in rows if set(row[1:]) != {"0"}]


def _most_stated(split: SplitSummary) -> str:
    first = next(iter(split.encoders.items()), None)
    return f", most often {first[0]!r} ({first[1]:,})" if first else ""


def _spread(values: Sequence[float]) -> str:
    return "-" if values[0] != values[0] else " / ".join(f"{value:,.10g}" for value in values)


def trace_words(traces: TraceCounts) -> str:
    """Return how many of the sampled images show an earlier compression."""
    if not traces.sampled:
        return "not looked for"
    if not traces.judged:
        return "cannot be told"
    return f"{traces.detected:,} of {traces.judged:,} sampled"


def sentences(report: AuditReport) -> list[str]:
    """Return what the facts mean, in sentences."""
    by_line: dict[str, list[str]] = {}  # what is true of several splits is said once
    for split in report.splits:
        for line in _split_sentences(split):
            by_line.setdefault(line, []).append(split.name)
    lines = [line if len(report.splits) == 1 else f"{join_words(names)}: {line}" for line, names in by_line.items()]
    lines += _duplicate_sentences(report)
    for prediction in report.predictions:
        lines += prediction_sentences(prediction)
    return lines


def _split_sentences(split: SplitSummary) -> list[str]:
    jpegs, lines = split.jpegs, []
    if jpegs:
        quality, count = next(iter(split.qualities.items()), (0, 0))
        others = sum(split.makers.get(maker, 0) for maker in ("other", "mozjpeg"))
        by = "by libjpeg's tables" if not others else f"nearest to libjpeg's, whose tables {percent(others, jpegs)} do not have"
        layout, alike = next(iter(split.layouts.items()))
        most = f"quality {quality} ({percent(count, jpegs)}, {by})" if quality else "no quality"
        files = "1 JPEG" if jpegs == 1 else f"{jpegs:,} JPEGs"
        lines.append(f"{files}, most often of {most} and {layout} ({percent(alike, jpegs)}).")
    lines += [_trace_sentence(split), _moved_sentence(split.moved)]
    problems = [
        (split.unread, "cannot be read"),
        (split.unended, "do not end in an end-of-image marker: cut off, perhaps"),
        (split.misnamed, "have the suffix of another format"),
        (sum(split.orientations.values()), "are turned by a flag that many loaders ignore"),
        (split.layouts.get("CMYK", 0), "are CMYK"),
    ]
    lines += [f"{count:,} of {split.images:,} files {what}." for count, what in problems if count]
    return [line for line in lines if line]


def _trace_sentence(split: SplitSummary) -> str:
    traces = split.traces
    if not traces.sampled:
        return ""
    resized = f" {_former_sentence(split)}" if split.resized else ""
    if not traces.judged:
        none = f"of {traces.sampled:,} sampled, none has coefficients enough"
        return f"Whether the JPEGs were compressed before cannot be told: {none}.{resized}"
    expected = FALSE_ALARMS * traces.judged
    counted = f"{traces.detected:,} of {traces.judged:,} sampled JPEGs show an earlier compression on their grid of blocks"
    if traces.p_value >= LEVEL:
        alarms = f"no more than false alarms, of which up to {expected:.1f} are expected"
        none = f"None of {traces.judged:,} sampled JPEGs shows an earlier compression on its grid of blocks"
        counted = f"{counted}, {alarms}" if traces.detected else none
        return f"{counted}. One at the quality of the file or above would leave no trace.{resized}"
    named = [f"{_quality_range(*range_)} ({count})" for range_, count in traces.earlier.most_common(3)]
    return (
        f"{counted}, most often at quality {join_words(named)}; up to {expected:.1f} are expected as false alarms "
        f"({state_p(short_p(traces.p_value))}).{resized}"
    )


def _former_sentence(split: SplitSummary) -> str:
    since, former = f"Since {split.resized}, the set was probably resized, and", split.former
    if former is None:
        return f"{since} what came before a resize cannot be told."
    if not former.detected:
        shown = f"{former.images:,} images together show no blocks of JPEGs from before that"
        return f"{since} {shown}; a high quality, a crop, or a reduction by more than about 1.5 can hide them."
    shown = f"{former.images:,} images together show that they were JPEGs with {former_sides(former)} before that"
    return f"{since} {shown} (correlation {former.correlation:.2f}, standard error {former.error:.2f})."


def former_sides(former: FormerSize) -> str:
    """Return the side that images had before they were resized, and those that would explain them nearly as well."""
    others = f" (or {join_words([str(side) for side in former.alike])})" if former.alike else ""
    return f"a side of {former.former} pixels{others}"


def _moved_sentence(traces: TraceCounts) -> str:
    if not traces.judged or traces.p_value >= LEVEL:
        return ""
    named = [f"{_quality_range(*range_)} ({count})" for range_, count in traces.earlier.most_common(3)]
    counted = f"{traces.detected:,} of {traces.judged:,} sampled JPEGs show an earlier compression on another grid"
    return f"{counted}, most often at quality {join_words(named)}: they were cropped after it."


def _quality_range(lowest: int, highest: int) -> str:
    return f"{lowest}" if lowest == highest else f"{lowest} to {highest}"


def _duplicate_sentences(report: AuditReport) -> list[str]:
    duplicates = report.duplicates
    if not duplicates.copies:
        return []
    parts = [f"{duplicates.copies:,} files are copies of another, byte for byte"]
    if duplicates.across_splits:
        parts.append(f"{duplicates.across_splits:,} files have a copy in another split")
    if duplicates.across_classes:
        parts.append(f"{duplicates.across_classes:,} have one in another class")
    return [f"{'; '.join(parts)}."]


def prediction_sentences(prediction: LabelPrediction) -> list[str]:
    """Return what headers tell about a label, and which of their fields does."""
    target = prediction.target
    if prediction.missing:
        return [f"Whether headers tell the {target} was not computed: {prediction.missing.rstrip('.')}."]
    shuffles = f"{state_p(precise_p(prediction.p_value))}, {prediction.permutations:,} shuffles"
    accuracy, majority = (f"{100 * share:.1f} %" for share in (prediction.accuracy, prediction.majority))
    if prediction.p_value >= LEVEL:
        line = f"Headers alone do not tell the {target}: {accuracy} of {prediction.images:,} images are predicted, and the most"
        return [f"{line} frequent {target} has {majority} ({shuffles}).", *_left_out(prediction)]
    line = (
        f"Headers alone tell the {target} of {accuracy} of {prediction.images:,} images, where the most frequent {target} has"
    )
    lines = [f"{line} {majority} ({shuffles})."]
    telling = [field for field in prediction.fields if field.p_holm < LEVEL]
    if telling:
        lines.append(f"A field by itself tells the {target}: {_name_fields(telling)}.")
    encoder = [field.name for field in telling if field.name not in OF_SUBJECT]
    if encoder:
        lines.append(
            f"{join_words(encoder).capitalize()} {'differs' if len(encoder) == 1 else 'differ'} by {target}: a trace of the "
            "encoder, which a network can learn in place of the subject. Encode all images alike, and test on such images."
        )
    elif telling:
        lines.append("Sides and bytes depend on the subject too, so this need not be a trace of the encoder.")
    else:
        lines.append(f"No field by itself tells the {target}; together they do.")
    return [*lines, *_left_out(prediction)]


def _name_fields(fields: Sequence[FieldScore]) -> str:
    return ", ".join(f"{field.name} {100 * field.alone:.1f} % (all others {100 * field.without:.1f} %)" for field in fields)


def _left_out(prediction: LabelPrediction) -> list[str]:
    parts = []
    if prediction.duplicates:
        parts.append(f"{prediction.duplicates:,} copies")
    if prediction.rare:
        parts.append(f"{prediction.rare:,} images of {prediction.rare_classes:,} classes with fewer than {FOLDS}")
    if prediction.unsampled:
        parts.append(f"{prediction.unsampled:,} beyond the sample")
    return [f"Left out of that: {join_words(parts)}."] if parts else []


def field_rows(prediction: LabelPrediction) -> list[list[str]]:
    """Return a row for each field: its name, its accuracy alone, corrected p-value, and the accuracy of all others."""
    return [
        [field.name, f"{100 * field.alone:.1f}", precise_p(field.p_holm), f"{100 * field.without:.1f}"]
        for field in prediction.fields
    ]


def class_rows(classes: Sequence[ClassSummary], most: int | None = None) -> list[list[str]]:
    """Return a row for each class, of the ``most`` largest if it is given."""
    chosen = classes if most is None else sorted(classes, key=lambda one: -one.images)[:most]
    return [_class_row(one) for one in chosen]


def _class_row(one: ClassSummary) -> list[str]:
    if not one.jpegs:
        common, chroma, quality = "-", "-", "-"
    else:
        quality = f"{one.quality:g}"
        common = f"{one.common_quality} ({percent(one.common_quality_share, 1)})"
        chroma = f"{one.common_layout} ({percent(one.common_layout_share, 1)})"
    if one.unread == one.images:
        return [one.name, f"{one.images:,}", quality, common, chroma, "-", "-", "-"]
    sides = f"{one.width:,.10g} x {one.height:,.10g}"
    return [one.name, f"{one.images:,}", quality, common, chroma, sides, f"{one.file_bytes:,.10g}", f"{one.bits_per_pixel:.2f}"]


def trace_rows(traces: TraceCounts) -> list[list[str]]:
    """Return a row for each range of earlier qualities: the range, and its number of images."""
    return [[_quality_range(*qualities), f"{count:,}"] for qualities, count in traces.earlier.most_common()]
