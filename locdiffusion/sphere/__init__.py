"""The sphere: conventions used everywhere in this project, and nothing but NumPy.

* A **point** is ``(latitude, longitude)`` in degrees outside, a float64 **unit vector** inside:
  x to (0°N, 0°E), y to (0°N, 90°E), z to the north pole. Colatitude θ = 90° - latitude.
* **Distances** are great circles on the mean sphere, R = 6371.0088 km.
* **Harmonics** Y_lm are real and orthonormal over the sphere (∫ Y_lm Y_l'm' dΩ = δδ), without
  Condon-Shortley phase, 0 ≤ l ≤ L, -l ≤ m ≤ l, at flat index ``l·l + l + m``::

      Y_lm(θ, φ) = √2 P̄_l|m|(cos θ) sin(|m| φ)   m < 0
                   P̄_l0(cos θ)                     m = 0
                   √2 P̄_lm(cos θ) cos(m φ)         m > 0

  with P̄ normalised so that Y is orthonormal. ``d = (L + 1)²`` is the number of harmonics.

Rooms: `geodesy` (points, distances), `harmonics` (Y_lm and rotations), `grids` (nodes with
weights for integrals), `hilbert` (an order in which neighbours come together).
"""
