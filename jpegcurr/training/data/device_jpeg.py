"""JPEG on the fly after the resize, on the device: integer arithmetic on a whole batch in place of a codec on threads.

A loader whose ``sampler.jpeg_on_device`` is set renders such samples as they are before the encoding, which is to say not
mirrored either, because an image is encoded before it is mirrored. What is left travels with the batch, two bytes a sample from
page-locked memory, and is applied as soon as the batch is uploaded. All of it is known on the host, so nothing waits for the
device. The pixels are those of the codec to the bit (``augment/exact_jpeg.py``).
"""

import numpy as np
import torch

from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.exact_jpeg import jpeg_unchecked
from jpegcurr.training.data.sampling import EpochSampler, Indices


def finish_on_device(
    images: torch.Tensor, sampler: EpochSampler, epoch: int, samples: np.ndarray, indices: Indices, runtime: Runtime
) -> torch.Tensor:
    """Encode and mirror those of an uploaded batch, uint8 [b 3 h w], that the loader has left to the device.

    ``samples`` are the batch's ``SAMPLE`` records, and ``indices`` the samples that it shows: where one is another, because the
    first did not decode, its own quality and mirroring are drawn again, as ``transforms.make_sample`` drew its crop.
    """
    if not sampler.jpeg_on_device:
        return images
    replaced = samples["index"] != indices
    if replaced.any():
        samples = samples.copy()
        samples[replaced] = sampler.samples(epoch, indices[replaced])
    rows = np.flatnonzero(sampler.deferred(samples))
    if not len(rows):
        return images
    left = np.stack([samples["quality"][rows], samples["flip"][rows]])
    qualities, flips = runtime.upload(torch.from_numpy(left)).unbind()
    if len(rows) == len(images):
        return _encoded(images, qualities, flips)
    places = runtime.upload(torch.from_numpy(rows))
    return images.index_copy_(0, places, _encoded(images.index_select(0, places), qualities, flips))


def _encoded(images: torch.Tensor, qualities: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Return images as a JPEG shows them, mirrored where ``flips`` is 1, in channels_last as loaders yield them."""
    shown = jpeg_unchecked(images, qualities.int())
    mirrored = torch.where(flips.bool()[:, None, None, None], shown.flip(3), shown)
    return mirrored.contiguous(memory_format=torch.channels_last)
