"""The standard schedule is DDPM's."""

import math

import numpy as np
import pytest

from experiments.standard_diffusion import standard_sigmas


def test_standard_levels_are_those_of_ddpm():
    """By the product of the definition, one level at a time."""
    kept, wanted = 1.0, []
    for t in range(1, 1001):
        kept *= 1.0 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 999)
        wanted.append(math.sqrt((1.0 - kept) / kept))
    np.testing.assert_allclose(standard_sigmas(999), wanted[::-1], rtol=1e-9)
    np.testing.assert_allclose(standard_sigmas(3), [wanted[t - 1] for t in (1000, 667, 334, 1)])
    assert np.all(np.diff(standard_sigmas(250)) < 0)


@pytest.mark.parametrize("steps", [0, 1000])
def test_the_standard_schedule_has_no_more_levels_than_it_has(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; want 1 to 999"):
        standard_sigmas(steps)
