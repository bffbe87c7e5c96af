"""Distillation of GeoCLIP: its answers on the sphere, learned without a photo.

GeoCLIP (Cepeda et al., NeurIPS 2023, arXiv 2309.16020) scores a position y for an image embedding q
by ⟨q, loc(y)⟩ and answers with the best of a gallery. Read as a density, that is

    t(y | q) ∝ q₀(y) exp(s ⟨q, loc(y)⟩)

with s the trained scale and q₀ the places that are asked. Nothing in it needs a photo: queries q
are *simulated* (`queries`), the teacher (`teacher`) gives positions drawn from t, and the network
learns the same density by SHDD-KL (`source`, `locdiffusion.train.trainer`). This is our step beyond
the paper.
"""
