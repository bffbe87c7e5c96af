"""What a checkpoint holds of the looks of places: an appearance map and the fitted likelihood."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.likelihood import AppearanceLikelihood

LIKELIHOOD = "likelihood."
"""Beginning of the names of the likelihood's tensors."""


class AppearanceModel(nn.Module):
    """Joins an appearance map with the likelihood of photos under it.

    Attributes:
        map: Predicted appearance of photos by place.
        likelihood: Constants and gates of the fused density.
    """

    def __init__(
        self, appearance_map: AppearanceMap, likelihood: AppearanceLikelihood | None = None
    ) -> None:
        """Takes a map.

        Args:
            appearance_map: Predicted appearance of photos by place.
            likelihood: Fitted constants and gates; None begins with a guess.
        """
        super().__init__()
        self.map = appearance_map
        self.likelihood = likelihood or AppearanceLikelihood(appearance_map.components)
        self.likelihood.requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that is stored, by name; tensors of the map have their own types."""
        found = {name: torch.from_numpy(array) for name, array in self.map.arrays().items()}
        stored = self.likelihood.state_dict()
        return found | {LIKELIHOOD + name: tensor.cpu() for name, tensor in stored.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> AppearanceModel:
        """Reads what `tensors` returned.

        Args:
            tensors: Tensors by name.

        Raises:
            ValueError: A tensor is missing, unknown, of another type or shape, or not finite.
        """
        of_map, fitted = {}, {}
        for name, tensor in tensors.items():
            if name.startswith(LIKELIHOOD):
                fitted[name.removeprefix(LIKELIHOOD)] = tensor
            else:
                of_map[name] = tensor.numpy()
        made = cls(AppearanceMap.from_arrays(of_map))
        for name, tensor in fitted.items():
            if not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise ValueError(f"{LIKELIHOOD}{name} holds values that are no finite numbers")
        try:
            made.likelihood.load_state_dict(fitted)
        except RuntimeError as error:  # torch lists every tensor
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the likelihood has other tensors ({reason})") from error
        if not (made.likelihood.feature_spread > 0.0).all():
            raise ValueError(f"{LIKELIHOOD}feature_spread must be positive")
        return made
