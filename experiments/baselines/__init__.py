"""The rivals: small and honest, on the same frozen embeddings, photos and budget as our model.

Each is a file that says what it predicts; everything else is shared:

* `kernel_mixture` is the posterior of them all, with its answers, radii and densities;
* `evidence` fits what makes that posterior, on validation photos only;
* `network` is the trunk and the training loop;
* `registry` has them by name: `RIVALS`, `fit_and_predict`.
"""

from experiments.baselines.network import Budget
from experiments.baselines.registry import RIVALS, fit_and_predict

__all__ = ["RIVALS", "Budget", "fit_and_predict"]
