"""Checks of a recipe that need no images, and neither torch nor timm, so that ``train --plan`` answers at once."""

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.augment.policies import check_policies
from jpegcurr.training.models.names import check_model
from jpegcurr.training.tracking import check_trackers


def check_recipe(recipe: Recipe, ranks: int = 1, *, start: bool = False) -> None:
    """Raise UsageError or RecipeError for every mistake that is known before a file of images is opened.

    ``ranks`` is the number of processes that will train; ``start`` is whether the weights to start from are needed.
    """
    check_model(recipe.model, start=start)
    check_trackers(recipe.tracking)
    check_policies(recipe)
    try:
        recipe.micro(ranks)
    except ValueError as error:
        raise RecipeError(f"{error}. Set a smaller batch.per_device, or start another number of processes.") from None
