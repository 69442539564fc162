"""timm's loader, augmentation, optimiser and schedule over betons that are swapped at an epoch: python timm_parts.py"""

import timm
import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import jpegcurr

DEVICE = jpegcurr.resolve_runtime().device


def train(files: dict[int, str], *, network: str, epochs: int, batch: int, size: int, workers: int = 4) -> torch.nn.Module:
    """Train on ``files``, betons by their first epochs, as timm's own script would on folders."""
    datasets = {epoch: jpegcurr.BetonDataset(path) for epoch, path in files.items()}
    policy = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "interpolation": "bicubic"}
    options = {"is_training": True, "num_workers": workers, "persistent_workers": False, "device": DEVICE, **policy}
    loaders = {epoch: create_loader(dataset, size, batch, **options) for epoch, dataset in datasets.items()}
    torch.manual_seed(0)
    model = timm.create_model(network, num_classes=len(datasets[0].classes)).to(DEVICE)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    schedule, epochs = create_scheduler_v2(optimizer, num_epochs=epochs, warmup_epochs=1, min_lr=1e-6)
    loss_of, loader = LabelSmoothingCrossEntropy(0.1), loaders[0]
    for epoch in range(epochs):
        if epoch in loaders:
            loader = loaders[epoch]
            print(f"epoch {epoch}: {loader.dataset}")
        for images, labels in loader:
            loss_of(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step(epoch + 1)
    return model


if __name__ == "__main__":
    betons = {0: "betons/train-source.beton", 20: "betons/train-q50.beton"}
    train(betons, network="convnext_atto", epochs=30, batch=64, size=160)
