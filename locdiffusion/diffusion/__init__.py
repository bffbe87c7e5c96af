"""Diffusion in SHDD space: tensors in, tensors out, no network.

Forward process (variance exploding): x_σ = code(x₀) + σ·ε, ε ~ N(0, I), σ in unit-RMS units.
A `Denoiser` maps (x_σ, σ, condition) to natural parameters η of p(x₀ | x_σ, image); a sampler
needs the mean parameter E_p[code] instead, which `focused_mean_denoiser` computes.
"""
