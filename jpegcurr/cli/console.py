"""What each command says of what came of it."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from jpegcurr.cli.terminal import Bar, err, out, print_table, progress_bar
from jpegcurr.files import nearest_folder
from jpegcurr.text import duration, megabytes

if TYPE_CHECKING:
    from jpegcurr.analysis.evaluation.evaluate import Evaluation
    from jpegcurr.analysis.prediction.confusion import Confusion
    from jpegcurr.analysis.prediction.outputs import Summary
    from jpegcurr.analysis.stats import Paired
    from jpegcurr.encoding.beton.manifest import Manifest
    from jpegcurr.encoding.beton.verify import Inspection
    from jpegcurr.encoding.estimate import EncodeEstimate
    from jpegcurr.encoding.sources.base import Source
    from jpegcurr.encoding.workers import Outcome
    from jpegcurr.training.models.load import Listed
    from jpegcurr.training.schedule import PlannedEpoch

SHOWN_FAILURES = 20


class EncodeBar:
    """What ``encode_dataset`` tells, on a bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._done, self._failed = bar, 0, 0

    def begin(self, source: "Source", done: int) -> None:
        """A split begins, ``done`` of whose images need not be encoded again."""
        self._done = done
        if done:
            err.print(f"encode {source.split}: {done:,} of {len(source.items):,} images are there already", markup=False)
        self._bar.update(f"encode {source.split}", done, len(source.items))

    def done(self, source: "Source", outcomes: "Sequence[Outcome]") -> None:
        """Some more images of the split are encoded, or have failed."""
        self._done += len(outcomes)
        self._bar.update(f"encode {source.split}", self._done, len(source.items))
        for outcome in outcomes:
            if outcome.reason:
                self._failed += 1
                if self._failed <= SHOWN_FAILURES:
                    err.print(f"not encoded: {source.store.where(outcome.item)}: {outcome.reason}", markup=False)
                elif self._failed == SHOWN_FAILURES + 1:
                    err.print("not encoded: more, which are in the outputs' .items.jsonl", markup=False)


@contextmanager
def encode_progress(*, quiet: bool) -> "Iterator[EncodeBar | None]":
    """Yield what ``encode_dataset`` calls."""
    with progress_bar("img", quiet=quiet) as bar:
        yield None if quiet else EncodeBar(bar)


def print_encoded(done: "Mapping[Path, Manifest]", *, as_json: bool) -> None:
    """The closing table of ``encode``."""
    if as_json:
        out.print_json(json.dumps([{"path": str(path), **made.model_dump()} for path, made in done.items()]))
        return
    rows = []
    for path, made in done.items():
        ratio = made.bytes_out / made.bytes_in if made.bytes_in else 1.0
        sizes = [megabytes(made.bytes_in), megabytes(made.beton_bytes), f"{ratio:.2f}"]
        rows.append([str(path), f"{made.images:,}", *sizes, f"{made.failures:,}"])
    print_table(["beton", "images", "images' bytes", "beton", "JPEG ratio", "failures"], rows)
    for split, ignored in {made.split: made.ignored for made in done.values() if made.ignored}.items():
        out.print(f"{split}: {ignored:,} files without an image's suffix were passed over", markup=False)


def print_estimates(estimates: "Sequence[EncodeEstimate]", folder: Path, refused: str, *, as_json: bool) -> None:
    """What ``encode --dry-run`` says."""
    free = shutil.disk_usage(nearest_folder(folder)).free
    if as_json:
        splits = [
            {"split": each.split, "images": each.images, "bytes_in": each.bytes_in, "seconds": each.seconds}
            | {"sampled": each.sampled, "sample_failures": len(each.failed)}
            | {"outputs": {str(path): size for path, size in each.bytes_out.items()}}
            for each in estimates
        ]
        out.print_json(json.dumps({"splits": splits, "free_bytes": free, "refused": refused or None}))
        return
    rows = []
    for each in estimates:
        for path, size in each.bytes_out.items():
            rows.append([str(path), f"{each.images:,}", megabytes(each.bytes_in), f"about {megabytes(size)}"])
    print_table(["would be made", "images", "images' bytes", "beton"], rows)
    seconds, needed = sum(each.seconds for each in estimates), sum(sum(each.bytes_out.values()) for each in estimates)
    sampled, failed = sum(each.sampled for each in estimates), [each for split in estimates for each in split.failed]
    out.print(f"about {duration(seconds)} here, from {sampled:,} images that were encoded to find out", markup=False)
    if refused:
        out.print(f"As things are it would be refused: {refused}", markup=False)
    if needed > free:
        out.print(f"It does not fit: {megabytes(needed)} are needed in {folder}, {megabytes(free)} are free.", markup=False)
    for wrong in failed[:SHOWN_FAILURES]:
        out.print(f"would fail: {wrong}", markup=False)
    if failed:
        share = 100 * len(failed) / sampled
        out.print(f"{len(failed)} of the sample would fail: {share:.2g} %, which --max-failures has to allow.", markup=False)


def print_inspection(found: "Inspection", wrong: list[str] | None, *, as_json: bool) -> None:
    """Everything that ``inspect`` says; ``wrong`` is what a verification found, None without one."""
    manifest = found.manifest
    if as_json:
        facts = {
            "path": str(found.path),
            "samples": found.samples,
            "subsampling": found.subsampling,
            "page_size": found.page_size,
        }
        facts |= {"widths": found.widths, "heights": found.heights, "sample_bytes": found.sample_bytes}
        out.print_json(json.dumps(facts | {"manifest": manifest.model_dump() if manifest else None, "wrong": wrong}))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    verdict = {} if wrong is None else {"verified": _verdict(found, wrong)}
    for name, value in (_facts(found) | verdict).items():
        table.add_row(name, escape(value))
    out.print(table, soft_wrap=False)


def _verdict(found: "Inspection", wrong: list[str]) -> str:
    if wrong:
        return f"wrong in {len(wrong):,} places"
    checked = "and every byte is as it was written" if found.manifest else "(without a manifest there are no checksums)"
    return f"every sample decodes {checked}"


def _facts(found: "Inspection") -> dict[str, str]:
    """What an inspection found, in words, by name."""
    manifest = found.manifest
    unknown = "not recorded: there is no manifest beside the file"
    spread = "smallest {:,}, median {:,}, largest {:,}".format
    layouts = ", ".join(f"{name} {100 * count / found.samples:.1f} %" for name, count in found.subsampling.items())
    facts = {
        "file": str(found.path),
        "samples": f"{found.samples:,}",
        "classes": f"{len(manifest.classes):,}, {found.labels:,} with samples" if manifest else f"{found.labels:,} labels",
        "quality": str(manifest.quality) if manifest else unknown,
        "subsampling": layouts,
        "width, pixels": spread(*found.widths),
        "height, pixels": spread(*found.heights),
        "bytes a sample": spread(*found.sample_bytes),
        "page size": megabytes(found.page_size),
    }
    if manifest:
        order = f"shuffle, seed {manifest.seed}" if manifest.order == "shuffle" else "folder"
        facts |= {
            "failures": f"{manifest.failures:,}",
            "other files passed over": f"{manifest.ignored:,}",
            "original bytes kept": _kept(manifest),
            "split and source": f"{manifest.split} of {manifest.source}",
            "labels from": manifest.labels or "the source itself",
            "limit": f"{manifest.limit:,} images" if manifest.limit else "none",
            "made smaller": _resize(manifest),
            "order": order,
            "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        }
    return facts


def _kept(manifest: "Manifest") -> str:
    converted = manifest.images - manifest.copied if manifest.quality == "source" else 0
    others = f"; {converted:,} converted, to quality 95 and 4:4:4" if converted else ""
    return f"{manifest.copied:,}{others}"


def _resize(manifest: "Manifest") -> str:
    resize = manifest.spec.resize
    if resize is None:
        return "no"
    which = "longer" if resize.side == "max" else "shorter"
    scaled = f"; {manifest.scaled:,} images decoded at a smaller scale" if manifest.scaled else ""
    return f"{which} side to {resize.pixels} pixels at most, {resize.filter}{scaled}"


def print_plan(epochs: "Sequence[PlannedEpoch]", *, as_json: bool) -> None:
    """One row an epoch, and their sums."""
    if as_json:
        out.print_json(json.dumps([each.as_dict() for each in epochs]))
        return
    rows = []
    for each in epochs:
        rates = [f"{each.lr_first:.3e}", f"{each.lr_last:.3e}"]
        counts = [str(each.size), f"{each.steps:,}", f"{each.images:,}"]
        rows.append([str(each.plan.epoch), str(each.plan.phase), each.plan.data, *rates, *counts])
    print_table(["epoch", "phase", "data", "lr, first step", "last step", "pixels", "steps", "images"], rows, left=3)
    steps, images = sum(each.steps for each in epochs), sum(each.images for each in epochs)
    out.print(f"{len(epochs)} epochs, {steps:,} steps, {images:,} images", markup=False)


def print_evaluations(
    results: "Sequence[Evaluation]", pairs: "Sequence[Paired | None]", written: Sequence[Path], *, as_json: bool
) -> None:
    """One row an arm; top-1 by run and quality; each arm, and the classes, against the first on the same images; the files."""
    from jpegcurr.analysis.evaluation import tables
    from jpegcurr.analysis.evaluation.evaluate import paired_values
    from jpegcurr.analysis.evaluation.naming import evaluation_name
    from jpegcurr.analysis.evaluation.tables import changed_classes

    if as_json:
        rows = zip(results, pairs, strict=True)
        out.print_json(json.dumps([each.as_dict() | {"against_first": paired_values(pair)} for each, pair in rows]))
        return
    columns, cells = tables.score_table(results)
    print_table(columns, cells, title=tables.score_title(results), left=columns.index("images"))
    if matrix := tables.accuracy_matrix(results):
        out.print()
        print_table(*matrix)
    if paired := tables.paired_table(results, pairs):
        out.print()
        reference = evaluation_name(results[0], results)
        print_table(*paired, title=f"against {reference}, on the same {results[0].scores.images:,} images")
        out.print(tables.paired_verdicts(results, pairs), markup=False)
        out.print("Detectable is the difference that is seen with 80 % power, in points of top-1.", markup=False)
    if changed := changed_classes(results, pairs):
        out.print()
        print_table(*changed[0], title="classes that changed most, the least likely by chance first", left=2)
        told = f"p is McNemar's within the class, by Holm's correction for all {changed[1]:,} comparisons of a class in an arm."
        out.print(told, markup=False)
    for path in written:
        out.print(f"{path}", markup=False)


def print_predictions(summary: "Summary", written: Sequence[Path]) -> None:
    """The first files' likeliest classes, what was confused, what was not read, and where all of it is."""
    from jpegcurr.analysis.class_names import full_name
    from jpegcurr.text import sanitize

    rows = []
    for each in summary.first:
        tops = [f"{sanitize(full_name(name))} {100 * share:.1f} %" for name, share in each.top]
        rows.append([sanitize(each.file), ", ".join(tops) if tops else f"not read: {sanitize(each.error)}"])
    print_table(["file", "likeliest"], rows, left=2)
    if summary.files > len(rows):
        out.print(f"... and {summary.files - len(rows)} more", markup=False)
    if summary.confusion is not None and summary.confusion.images:
        _print_confusion(summary.confusion)
    for path in written:
        out.print(f"{path}", markup=False)
    if summary.unread:
        err.print(f"{len(summary.unread)} of {summary.files} files could not be read; the table says why.", markup=False)
    for name, reason in summary.unread[:SHOWN_FAILURES]:
        err.print(f"not read: {name}: {reason}", markup=False)


def _print_confusion(confusion: "Confusion") -> None:
    from jpegcurr.analysis.class_names import full_name
    from jpegcurr.text import sanitize

    share = 100 * confusion.right / confusion.images
    out.print(f"{confusion.right:,} of {confusion.images:,} labelled images are right: {share:.2f} %", markup=False)
    pairs = confusion.most_confused()
    rows = [
        [sanitize(full_name(each.truth)), sanitize(full_name(each.predicted)), f"{each.count} of {each.images}"]
        for each in pairs
    ]
    if rows:
        print_table(["class", "most often taken for", "images"], rows, left=2)


def print_models(found: "Sequence[Listed]", *, as_json: bool) -> None:
    """One row a set of weights."""
    if as_json:
        out.print_json(json.dumps([each.as_dict() for each in found]))
        return
    rows = []
    for each in found:
        millions = f"{each.parameters / 1e6:,.1f} M" if each.parameters else "not counted"
        rows.append([each.name, each.legacy or "", millions, str(each.size), f"{each.classes:,}"])
    print_table(["name", "legacy name", "parameters", "pixels", "classes"], rows, left=2)
