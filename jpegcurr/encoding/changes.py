"""Changes that an encode brings besides its quality: chroma layout, coding, rotation and format, counted on a sample."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from jpegcurr.encoding.jpeg.codec import CONVERTED_QUALITY, LONGEST_SIDE, EncodeSpec, resolve_settings
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.survey import DECODED, FileFacts, read_chunk
from jpegcurr.encoding.workers import map_in_order, split_into_chunks

SAMPLE = 512  # images of a split
MOST_VALUES = 4  # of a distribution that are named


@dataclass(frozen=True, slots=True)
class EncodeChanges:
    """The changes to a sample of a split, of which ``sampled`` images can be read.

    ``qualities`` and ``layouts`` count the JPEGs among them by quality and chroma layout, the most frequent first. ``changes``
    counts by the name of an encoding what it changes, in words.
    """

    split: str
    sampled: int
    qualities: dict[str, int]
    layouts: dict[str, int]
    changes: dict[str, dict[str, int]]

    def describe(self) -> list[str]:
        """Return two kinds of sentences: what the images are, and for each encoding what it changes."""
        if not self.sampled:
            return []
        jpegs = sum(self.layouts.values())
        kinds = f"{self._shares(self.qualities)}; chroma {self._shares(self.layouts)}" if jpegs else "no JPEGs"
        lines = [f"{self.split}: source quality {kinds} (a sample of {self.sampled:,})"]
        for name, changes in self.changes.items():
            quality = name if name == "source" else f"quality {name.removeprefix('q')}"
            counted = "; ".join(f"{what} ({count:,} of {self.sampled:,})" for what, count in changes.items())
            if name == "source":
                lines.append(f"{self.split}: source {f'cannot keep {counted}' if counted else 'keeps every file as it is'}")
            else:
                lines.append(f"{self.split}: {quality} {f'also changes {counted}' if counted else 'changes nothing besides'}")
        return lines

    def _shares(self, counts: dict[str, int]) -> str:
        total, first = sum(counts.values()), list(counts.items())[:MOST_VALUES]
        words = ", ".join(f"{name} {100 * count / total:.3g} %" for name, count in first)
        return words + (f", {len(counts) - len(first)} more" if len(counts) > len(first) else "")


def sample_changes(
    source: Source, specs: Sequence[EncodeSpec], executor: Executor, *, seed: int = 0, sample: int = SAMPLE
) -> EncodeChanges:
    """Read the headers of up to ``sample`` images of a split, chosen by ``seed``, and count what ``specs`` would change.

    Raises:
        EncodeError: the source fails, as in an encode.
    """
    chunks = list(split_into_chunks(source.items, source.items.shuffled(seed)[:sample]))
    parts = [(chunk, [0] * len(chunk)) for chunk in chunks]
    results = map_in_order(partial(read_chunk, source.store), parts, executor, ahead=max(1, len(parts)))
    facts = [one for chunk in results for one in chunk if not one.reason]
    anatomies = [one.anatomy for one in facts if one.anatomy]
    qualities = Counter(
        ("" if one.quantisation.maker == "libjpeg" else "about ") + str(one.quantisation.quality)
        for one in anatomies
        if one.quantisation
    )
    layouts = Counter(one.layout for one in anatomies)
    changes = {spec.name: dict(Counter(what for one in facts for what in _changes(one, spec)).most_common()) for spec in specs}
    return EncodeChanges(source.split, len(facts), dict(qualities.most_common()), dict(layouts.most_common()), changes)


def _changes(facts: FileFacts, spec: EncodeSpec) -> list[str]:
    """Return in words what an encoding changes of one image."""
    anatomy = facts.anatomy
    if anatomy is None:
        return [f"the format {facts.format}"]
    turned = anatomy.orientation > 1
    plain = (
        anatomy.process in DECODED
        and anatomy.precision == 8
        and anatomy.components in (1, 3)
        and anatomy.layout != "other"
        and anatomy.ended
        and not turned
        and max(facts.width, facts.height) <= LONGEST_SIDE
    )
    size = facts.width, facts.height
    resized = spec.resize is not None and spec.resize.target(*size) != size
    if spec.quality == "source":
        if plain and not resized:
            return []
        if not anatomy.ended:
            return ["files without an end-of-image marker, which may not decode"]
        reasons = ["images that are turned by a flag"] if turned else []
        reasons += [f"{anatomy.layout} chroma"] if anatomy.layout in ("CMYK", "other") else []
        reasons += ["images that are resized"] if resized else []
        return [f"{reason} (they become quality {CONVERTED_QUALITY}, 4:4:4)" for reason in reasons or ["unusual JPEGs"]]
    layout = resolve_settings(spec, anatomy.layout)[1]
    words = [f"chroma from {anatomy.layout} to {layout}"] if layout != anatomy.layout else []
    words += [f"coding from {anatomy.process} to baseline"] if anatomy.process != "baseline" else []
    words += ["a rotation flag, which is applied"] if turned else []
    return words + (["size"] if resized else [])
