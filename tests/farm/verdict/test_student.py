"""Student's t without scipy.stats is scipy.stats' own, to the bit."""

import numpy as np
import pytest
from scipy import stats

from farm.verdict import student

DF = np.array([1, 1.7, 2, 3, 5, 9.3, 19, 76, 500, 1e4, 1e6])[:, None]
CHANCES = np.array([1e-300, 1e-12, 1e-6, 1e-3, 0.0125, 0.025, 0.05, 0.2, 0.5, 0.8, 0.975, 1 - 1e-12])
VALUES = np.array([-1e4, -40, -3.1, -0.2, 0, 0.2, 1.96, 3.1, 40, 1e4])


@pytest.mark.parametrize(("name", "at"), [("sf", VALUES), ("cdf", VALUES), ("ppf", CHANCES), ("isf", CHANCES)], ids=str)
def test_it_is_scipy_s_to_the_bit(name: str, at: np.ndarray) -> None:
    assert np.array_equal(getattr(student, name)(at, DF), getattr(stats.t, name)(at, DF))
