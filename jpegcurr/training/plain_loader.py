"""The loader that needs nothing but torch: exact decoding, and crops drawn from (seed, epoch, sample)."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from jpegcurr.encoding.pixels import read_pixels
from jpegcurr.errors import ImageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.contract import Batch, View
from jpegcurr.training.views import centre_view, random_view


class PlainLoader:
    """A memory-mapped beton behind torch's DataLoader; ``view.workers`` processes, none if 0.

    The same pixels for any number of workers. Raises ImageError, with the sample's name, for one that does not decode.
    """

    def __init__(self, view: View, runtime: Runtime) -> None:
        self._view = view
        self._runtime = runtime

    def __len__(self) -> int:
        return len(self._view)

    def at(self, epoch: int) -> Iterator[Batch]:
        """See ``contract.Loader``."""
        order = self._view.order(epoch).tolist()
        size = self._view.batch
        batches = DataLoader(
            _Samples(self._view, epoch),
            batch_sampler=[order[start : start + size] for start in range(0, len(order), size)],
            num_workers=self._view.workers,
            collate_fn=_collate,
            pin_memory=self._runtime.pins_memory,
            generator=torch.Generator(),  # torch would draw a seed for its workers from the model's generator
        )
        for batch in batches:
            if isinstance(batch, ImageError):
                raise batch
            images, labels = batch
            yield (
                images.to(self._runtime.device, non_blocking=True, memory_format=torch.channels_last),
                labels.to(self._runtime.device, non_blocking=True),
            )


class _Samples(Dataset[tuple[torch.Tensor, int] | ImageError]):
    """One epoch's samples. An error is returned, not raised: torch would bury it in a traceback of its worker."""

    def __init__(self, view: View, epoch: int) -> None:
        self._view, self._epoch = view, epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | ImageError:
        view = self._view
        try:
            pixels = read_pixels(view.beton, index)
        except ImageError as error:
            return error
        if view.train:
            tensor = random_view(pixels, view.image, (view.seed, self._epoch, index))
        else:
            tensor = centre_view(pixels, view.image)
        return tensor, int(view.beton.labels[index])


def _collate(samples: Sequence[tuple[torch.Tensor, int] | ImageError]) -> Batch | ImageError:
    images, labels = [], []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
    return torch.stack(images), torch.tensor(labels)
