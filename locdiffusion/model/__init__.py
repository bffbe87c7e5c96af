"""Networks: the conditional denoiser and the frozen image encoders it listens to; no sampling."""
