"""Ablations: small trainings at equal budget that change one choice of the model at a time.

Same photos, steps, batches, optimiser and image branch, and about as many parameters. What varies:

* **encoding** of a place: degrees, a unit vector, SHDD;
* **loss**: squared error on x₀, or the negative log density (SHDD-KL; on a unit vector that is the
  von Mises-Fisher density, on degrees there is none);
* **base measure** of the density, **network**, **L**, and the **noise** of training.

The rooms: `plan` (which runs), `encodings` (places to numbers and back), `networks`, `fitting`
(one training), `answers` (what a trained network says), `runs` (one run to one JSON file).
"""
