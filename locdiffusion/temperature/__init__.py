"""How far a photo's density is trusted: its temperature, and whether the photo is of a known kind.

`model` gives each photo a temperature, `familiarity` tells photos that are unlike those of training
from the others, and `denoiser` applies both to the network's densities.
"""

from locdiffusion.temperature.denoiser import CalibratedDenoiser
from locdiffusion.temperature.familiarity import Familiarity
from locdiffusion.temperature.model import (
    COLDEST,
    FEATURES,
    STORED_IN_HALF,
    TemperatureConfig,
    TemperatureModel,
)

__all__ = [
    "COLDEST",
    "FEATURES",
    "STORED_IN_HALF",
    "CalibratedDenoiser",
    "Familiarity",
    "TemperatureConfig",
    "TemperatureModel",
]
