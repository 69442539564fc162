"""Loaders as a loop of one's own takes them: iterables of batches; for training, of the batches of one epoch from any step on.

``TrainLoader`` knows its place, and what else an exact resume needs is drawn from (seed, epoch, sample). It follows the
protocols by which other programs keep places: ``set_epoch``, as torch's samplers have it, and ``state_dict``.
"""

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

from jpegcurr.errors import UsageError
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.sampling import Batch, EpochSampler, Loader

log = logging.getLogger("jpegcurr")


class ValLoader:
    """The batches of a validation set: every image once, in the order of the file, whenever it is iterated."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    @property
    def replaced(self) -> int:
        """See ``sampling.Loader``."""
        return self._loader.replaced

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return self._loader.at(0)

    def at(self, epoch: int, first: int = 0) -> Generator[Batch]:
        """Iterate from batch ``first``; all epochs are alike."""
        return self._loader.at(epoch, first)


@dataclass(slots=True)
class _Place:
    """An epoch, and the number of its ``batches`` that were yielded; ``begun`` once an iteration has started from here."""

    epoch: int
    batches: int = 0
    begun: bool = False


class TrainLoader:
    """The batches of one epoch of a curriculum, at the qualities that its plan draws.

        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                ...

    Iterating yields a ``Batch`` at a time, and ends with the epoch. A second iteration needs a ``set_epoch`` in between,
    because without it every epoch would be the first one. An epoch has whole optimiser steps only; ``len`` is its number of
    batches. Every swap is logged, at the first batch of its epoch.

    Raises, when iterated:
        UsageError: the epoch was iterated already.
        ImageError: a sample does not decode.
        BetonError: a file was changed since it was opened.
    """

    def __init__(self, loader: Loader, sampler: EpochSampler) -> None:
        self._loader, self._sampler = loader, sampler
        self._place = _Place(0)
        self._logged: EpochPlan | None = None

    @property
    def replaced(self) -> int:
        """Number of samples of the current or last epoch that did not decode and were replaced by others."""
        return self._loader.replaced

    @property
    def images(self) -> int:
        """The number of images in the training set, of which an epoch takes as many as make whole steps."""
        return len(self._sampler.beton)

    @property
    def epoch(self) -> int:
        """The epoch that is iterated, or is next."""
        return self._place.epoch

    @property
    def step(self) -> int:
        """The number of optimiser steps of the epoch whose batches were yielded."""
        return self._place.batches // self.batches_per_step

    @property
    def batches_per_step(self) -> int:
        """The number of batches, forward passes of this process, of one optimiser step of the epoch."""
        return self._sampler.batches_per_step(self.epoch)

    @property
    def steps(self) -> int:
        """The number of optimiser steps of the whole epoch."""
        return len(self) // self.batches_per_step

    @property
    def sampler(self) -> Self:
        """The loader itself: Lightning calls ``set_epoch`` of a loader's sampler at the start of every epoch."""
        return self

    def __len__(self) -> int:
        """Return the number of batches of the whole epoch, wherever in it the iteration is."""
        return self._sampler.length(self.epoch)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration yield ``epoch``, counted from 0, from optimiser step ``step`` on.

        A place within ``epoch`` that was set before, and that no iteration has started from, is kept: so a loop that calls this
        at the start of every epoch resumes where ``load_state_dict`` put it.

        Raises:
            UsageError: the plan ends before that epoch, or the epoch before that step.
        """
        self._check_epoch(epoch)
        if step or self._place.begun or epoch != self.epoch:
            self._place = self._place_of(epoch, step)

    def _place_of(self, epoch: int, step: int) -> _Place:
        per_step = self._sampler.batches_per_step(epoch)
        steps = self._sampler.length(epoch) // per_step
        if not 0 <= step <= steps:
            raise UsageError(f"Epoch {epoch} has {steps} steps, so it has no step {step} to start from.")
        return _Place(epoch, step * per_step)

    def _check_epoch(self, epoch: int) -> None:
        if epoch < 0:
            raise UsageError(f"Epoch {epoch} is negative; epochs are counted from 0.")
        if not self._sampler.endless and epoch >= len(self._sampler.plans):
            last = len(self._sampler.plans) - 1
            raise UsageError(
                f"Epoch {epoch} is beyond the plan, which ends with epoch {last}. Set a later until_epoch in the recipe."
            )

    def __iter__(self) -> Iterator[Batch]:
        place = self._place
        if place.begun:
            raise UsageError(
                f"Epoch {place.epoch} was iterated already: call set_epoch({place.epoch + 1}) before the next iteration, or "
                f"set_epoch({place.epoch}) to repeat it. Without it every epoch would be the same."
            )
        place.begun = True
        self._log_data(place)
        with closing(self._loader.at(place.epoch, place.batches)) as batches:
            for batch in batches:
                place.batches += 1
                yield batch

    def at(self, epoch: int, first: int = 0) -> Generator[Batch]:
        """Iterate over ``epoch`` from batch ``first``, apart from the place of this loader; see ``sampling.Loader``."""
        return self._loader.at(epoch, first)

    def _log_data(self, place: _Place) -> None:
        """Log the data of the first iteration, and from then on every change of the data sets that are drawn from."""
        plan, before = self._sampler.plan(place.epoch), self._logged
        names = [name for name, _ in plan.shares]
        if before is None:
            log.info("epoch %d: start with %s", place.epoch, plan.data)
        elif names != [name for name, _ in before.shares]:
            log.info("epoch %d: swap to %s", place.epoch, plan.data)
        self._logged = plan

    def state_dict(self) -> dict[str, Any]:
        """Return the place as plain numbers: ``epoch``, and ``step``, the optimiser steps whose batches were yielded.

        Of a step that is under way nothing is counted, since its gradients are in no checkpoint. ``seed``, ``images`` and
        ``batch`` (images per step) tell another training set or order from this one.
        """
        return {"epoch": self.epoch, "step": self.step, **self._identity(self.epoch)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration yield the rest of the epoch at the place of ``state``, bit for bit the batches that were due.

        Raises:
            UsageError: the state is of another training set, batch or seed, or is none of ``state_dict``.
        """
        try:
            epoch, step = int(state["epoch"]), int(state["step"])
            given = {name: int(state[name]) for name in ("seed", "images", "batch")}
        except (KeyError, TypeError, ValueError):
            raise UsageError("This is no state of a loader: it lacks epoch, step, seed, images or batch.") from None
        self._check_epoch(epoch)
        for name, value in self._identity(epoch).items():
            if given[name] != value:
                raise UsageError(
                    f"The loader's state is of another training: its {name} was {given[name]}, and is {value} now."
                )
        self._place = self._place_of(epoch, step)

    def _identity(self, epoch: int) -> dict[str, int]:
        sampler = self._sampler
        return {"seed": sampler.seed, "images": len(sampler.beton), "batch": sampler.step_of(epoch)}
