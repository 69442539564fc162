"""A whole recipe in Lightning; checkpoints keep the place within an epoch, and fit(ckpt_path=...) resumes there."""

import lightning
import torch

import jpegcurr


class RecipeModule(lightning.LightningModule):
    def __init__(self, recipe: jpegcurr.Recipe, loaders: jpegcurr.Loaders) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.recipe, self.images = recipe, loaders.train.images
        self.augment, self.loss_of = jpegcurr.Augment.from_recipe(recipe), jpegcurr.recipe_loss(recipe)
        self.model = jpegcurr.create_model(recipe.model, len(loaders.classes)).to(memory_format=torch.channels_last)

    def training_step(self, batch: jpegcurr.Batch, _number: int) -> torch.Tensor:
        inputs, targets = self.augment(batch)
        return self.loss_of(self.model(inputs), targets)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, object]]]:
        optimizer = jpegcurr.create_optimizer(self.model, self.recipe.optim)
        schedule = jpegcurr.create_schedule(optimizer, self.recipe, self.images)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class RecipeData(lightning.LightningDataModule):
    def __init__(self, recipe: jpegcurr.Recipe) -> None:
        super().__init__()
        self.loaders = jpegcurr.open_loaders(recipe)

    def train_dataloader(self) -> jpegcurr.TrainLoader:
        return self.loaders.train  # Lightning calls its set_epoch, state_dict and load_state_dict


if __name__ == "__main__":
    data = RecipeData(recipe := jpegcurr.load_recipe("small_data"))
    trainer = lightning.Trainer(max_epochs=recipe.epochs, accumulate_grad_batches=data.loaders.train.batches_per_step)
    trainer.fit(RecipeModule(recipe, data.loaders), data)
