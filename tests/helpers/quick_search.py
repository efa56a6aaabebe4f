"""A score for searches that fits no model."""

import numpy as np


def quick(model, X, y, years):
    """As tuning.skills, without training: a score that depends on the hyperparameters alone."""
    value = -abs(np.log10(model[-1].C)) - abs(years - 7) / 10
    for fold in range(3):
        yield value - fold / 100
