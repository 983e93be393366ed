"""The training loop and what stands around it."""

from kdcourse.training.fastest import fastest
from kdcourse.training.fit import Step, fit
from kdcourse.training.history import History
from kdcourse.training.recipe import Recipe, as_recipe

__all__ = ["History", "Recipe", "Step", "as_recipe", "fastest", "fit"]
