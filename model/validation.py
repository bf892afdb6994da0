"""Validation while training: now and then the model is scored on a small slice next to the test's.

It changes no bit of the training: dropout is off, nothing random is drawn, no gradient is kept, and the next step seeds
its dropout again. It is neither trained nor tested on, so that choices made by it leave the test untouched.
"""

import time
from collections.abc import Callable

import numpy as np

from farm.record.ledger import Validation
from farm.study.recipe import Recipe
from model.corpus.checks import validation_slice
from model.evaluate import evaluate
from model.gpt import GPT
from model.group import Group

SHORT = 12  # hex digits of a fingerprint in the ledger


class Validator:
    """Scores the slice of `recipe` in `tokens`, the split of its test, `size` sequences at a time, each rank its share.

    Every rank gets the same number, whatever their count (see model.evaluate).
    """

    def __init__(self, recipe: Recipe, tokens: np.ndarray, fingerprint: str | None, group: Group, size: int):
        """`fingerprint` is that of the slice; None where there is none (see model.corpus.checks)."""
        self._recipe, self._tokens, self._group, self._size = recipe, tokens, group, size
        self._slice = validation_slice(recipe, len(tokens)) if fingerprint else None
        self._fingerprint = fingerprint and fingerprint[:SHORT]
        if self._slice:
            count = (len(self._slice) - 1) // recipe.tested_context
            its = recipe.evaluation.model_copy(update={"offset": self._slice.start, "sequences": count})
            self._recipe = recipe.model_copy(update={"evaluation": its})

    def after(self, step: int, gpt: GPT, advanced: Callable[[], None]) -> Validation | None:
        """The validation loss after `step`, if that is a step after which it is validated."""
        if not self._slice or not self._recipe.validates(step):
            return None
        began = time.perf_counter()
        score = evaluate(gpt, self._recipe, self._tokens, self._group, self._size, advanced)
        return Validation(self._fingerprint, score.tokens, score.loss * score.tokens, time.perf_counter() - began)
