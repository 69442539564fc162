"""A plain PyTorch loop that swaps the files of its training set and resumes within an epoch: python plain_pytorch.py"""

import logging
from pathlib import Path

import timm
import torch
from torch.nn.functional import cross_entropy

import jpegcurr


def train(files: dict[int, str], out: Path, *, network: str, epochs: int, batch: int, size: int) -> torch.nn.Module:
    """Train on ``files`` by first epoch; save into ``out`` every 100 steps, and continue from there."""
    runtime = jpegcurr.resolve_runtime()
    loader = jpegcurr.SwapLoader(files, batch=batch, size=size, runtime=runtime)
    torch.manual_seed(0)
    model = runtime.place(timm.create_model(network, num_classes=len(loader.classes)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    parts = {"model": model, "optimizer": optimizer, "loader": loader}
    for name, state in (torch.load(out, weights_only=True) if out.exists() else {}).items():
        parts[name].load_state_dict(state)
    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)  # keeps the place within the epoch that was loaded
        for images, labels, *_ in loader:
            cross_entropy(model(images.float() / 127.5 - 1), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if loader.step % 100 == 0 or loader.step == loader.steps:
                torch.save({name: part.state_dict() for name, part in parts.items()}, out.with_suffix(".new"))
                out.with_suffix(".new").replace(out)  # so that a killed run leaves a whole file
    return model


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")  # the swap is logged
    betons = {0: "betons/train-source.beton", 20: "betons/train-q50.beton"}
    train(betons, Path("plain_pytorch.pt"), network="convnext_atto", epochs=30, batch=64, size=160)
