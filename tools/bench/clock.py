"""The clock of a round of training steps, which waits for a GPU before it starts and stops."""

import time
from dataclasses import dataclass

import torch

from jpegcurr.runtime import Runtime

WARM_UP = 4  # untimed steps at the start of a round


@dataclass(frozen=True, slots=True)
class Lap:
    """The result of a round's timed steps: images/s, and the share of the time that was spent waiting for data."""

    rate: float
    waited: float


class Clock:
    """The clock of one round, which runs from the end of its last untimed step to the end of its last step."""

    def __init__(self, runtime: Runtime, steps: int, batch: int) -> None:
        self.runtime, self.steps, self.batch = runtime, steps, batch
        self.done, self.start = 0, (0.0, 0.0)
        self.lap: Lap | None = None

    def tick(self, waited: float) -> None:
        """Count a step; ``waited`` are the seconds that this round has waited for batches so far."""
        self.done += 1
        if self.done == WARM_UP:
            self.start = self.device_time(), waited
        elif self.done == WARM_UP + self.steps:
            seconds = self.device_time() - self.start[0]
            self.lap = Lap(self.steps * self.batch / seconds, (waited - self.start[1]) / seconds)

    def device_time(self) -> float:
        """Return the time in seconds, after the device has finished its work."""
        wait_for(self.runtime)
        return time.perf_counter()

    def read(self) -> Lap:
        """Return the lap of a whole round. Raise SystemExit if the round was shorter."""
        if self.lap is None:
            raise SystemExit(f"A round had {self.done} steps instead of {WARM_UP + self.steps}.")
        return self.lap


def wait_for(runtime: Runtime) -> None:
    """Wait until a GPU has finished its work."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
