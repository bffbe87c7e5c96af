"""Rival methods, trained on the same frozen embeddings and photos in as many steps as our model.

Each rival is a module that says what it predicts. The rest is shared:

* `kernel_mixture` is the posterior of all rivals, with answers, radii and densities;
* `evidence` fits the settings of that posterior, on validation photos only;
* `network` holds the network trunk and the training loop;
* `registry` lists the rivals by name in `RIVALS`, and fits and asks one in `fit_and_predict`.
"""

from experiments.baselines.network import Budget
from experiments.baselines.registry import RIVALS, fit_and_predict

__all__ = ["RIVALS", "Budget", "fit_and_predict"]
