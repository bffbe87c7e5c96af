"""Ablations: small trainings at equal budget that change one choice of the model at a time.

All runs have the same photos, steps, batches, optimiser and image branch, and about as many
parameters. These choices vary:

* **encoding** of a place: degrees, a unit vector, SHDD;
* **loss**: squared error on x₀, or the negative log density (SHDD-KL; on a unit vector that is the
  von Mises-Fisher density, on degrees there is none);
* **base measure** of the density, **network**, **L**, and the **noise** of training.

The modules: `plan` lists the runs, `encodings` turns places into numbers and back, `networks`
builds the networks, `fitting` trains one, `answers` measures it, `runs` writes one JSON file each.
"""
