"""Hugging Face's Trainer through a swap; it resumes within an epoch from its own checkpoints: python huggingface_trainer.py"""

from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

import jpegcurr


class Batches(transformers.TrainerCallback):
    def __init__(self, loader: jpegcurr.TrainLoader) -> None:
        self.loader, self.set_epoch = loader, loader.set_epoch  # which the Trainer calls

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"pixel_values": images.float() / 127.5 - 1, "labels": labels} for images, labels, *_ in self.loader)

    def on_train_begin(self, _args: object, state: transformers.TrainerState, _control: object, **_others: object) -> None:
        self.set_epoch(*divmod(state.global_step, len(self)))  # the place of a checkpoint


class SwapTrainer(transformers.Trainer):
    def __init__(self, loader: jpegcurr.TrainLoader, model: torch.nn.Module, **options: object) -> None:
        self.batches = Batches(loader)
        arguments = transformers.TrainingArguments(**options, ignore_data_skip=True)  # set_epoch needs no skipping
        super().__init__(model, arguments, callbacks=[self.batches])

    def get_train_dataloader(self) -> Batches:
        return self.batches


if __name__ == "__main__":
    files = {0: Path("betons/train-source.beton"), 20: Path("betons/train-q50.beton")}
    loader = jpegcurr.SwapLoader(files, batch=64, size=160)
    model = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=len(loader.classes)))
    SwapTrainer(loader, model, output_dir="huggingface", num_train_epochs=30).train()
