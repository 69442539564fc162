"""TensorBoard's event files of anybody's program, read by tensorboard's own accumulator."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jpegcurr.errors import UsageError
from jpegcurr.system import install_command
from jpegcurr.training.tracking import Row

EVENTS = "events.out.tfevents.*"
_HEAD, _TAIL = struct.Struct("<QI"), 4  # of a record: its length and the checksum of that; then the checksum of its bytes


def read_events(folder: Path) -> list[Row]:
    """Return a row for every step at which a scalar of the event files in ``folder`` was written, with ``epoch`` as the step.

    Values are float32, as they are stored. Where a step was written twice, as after a restart, the later value counts.

    Raises:
        UsageError: tensorboard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise UsageError(f"{folder} is a folder of TensorBoard's: to read it, {install_command('tensorboard')}.") from None
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    rows: dict[int, Row] = {}
    for tag, step, value in _scalars(accumulator):
        rows.setdefault(step, {"epoch": step})[tag] = value
    return [rows[step] for step in sorted(rows)]


def _scalars(accumulator: Any) -> Iterator[tuple[str, int, float]]:
    """Yield tag, step and value: of the scalars of TensorBoard 1, as PyTorch writes them, and of 2, which are tensors."""
    from tensorboard.util.tensor_util import make_ndarray

    tags = accumulator.Tags()
    for tag in tags["scalars"]:
        yield from ((tag, event.step, float(event.value)) for event in accumulator.Scalars(tag))
    for tag in tags["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            yield from ((tag, event.step, float(make_ndarray(event.tensor_proto))) for event in accumulator.Tensors(tag))


def find_torn(folder: Path) -> list[Path]:
    """Return the event files of ``folder`` that end within a record; tensorboard leaves such a record out without a word."""
    return [path for path in sorted(folder.glob(EVENTS)) if _is_torn(path)]


def _is_torn(path: Path) -> bool:
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return True
            place += _HEAD.size + int(_HEAD.unpack(head)[0]) + _TAIL
    return place > size
