"""From a density to an answer: mode seeking, radii, alternatives, credible regions."""
