"""Rival methods, trained on the same frozen embeddings and photos in as many steps as our model.

Each rival is a module that says what it predicts. The rest is shared:

* `kernel_mixture` is the posterior of all rivals, with answers, radii and densities;
* `evidence` fits the settings of that posterior, on validation photos only;
* `calibration` gives each photo a temperature, and the rival a decision rule, as ours has them;
* `network` holds the network trunk and the training loop;
* `registry` lists the rivals by name in `RIVALS`; its `fit` trains and asks one, and its `answer`
  makes answers of what it said.
"""

from experiments.baselines.network import Budget
from experiments.baselines.registry import RIVALS

__all__ = ["RIVALS", "Budget"]
