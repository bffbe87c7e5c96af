"""Distillation of GeoCLIP: its density over places, learned without a photo.

GeoCLIP (Cepeda et al., NeurIPS 2023, arXiv 2309.16020) scores a position y for an image embedding q
by ⟨q, loc(y)⟩ and answers with the best place of a gallery. Read as a density, that is

    t(y | q) ∝ q₀(y) exp(s ⟨q, loc(y)⟩)

with s the trained scale and q₀ a distribution over places. No photo is needed: queries q are
*simulated* (`queries`), the teacher (`teacher`) draws positions from t, and the network learns the
same density by SHDD-KL (`source`, `locdiffusion.train.trainer`). The paper does not have this step;
it is ours.
"""
