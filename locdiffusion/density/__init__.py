"""Densities on the sphere: conventions used wherever a vector of coefficients means a density.

* A **code** of a point x is code(x) = √4π (Y_lm(x)), ``(d,)`` with d = (L + 1)² and the index of
  `locdiffusion.sphere`. **Coefficients** c mean the field F(y) = ⟨c, code(y)⟩.
* **Natural parameters** η mean the density p(y) = q₀(y) exp F(y) / Z with F(y) = ⟨η, code(y)⟩ and
  Z = (1/4π) ∫ q₀ exp F dΩ, against the uniform *probability* of the sphere: the uniform density is
  p = 1, and log p is in nats above it.
* The **base measure** q₀ has mean 1 over the sphere. A user gives one with `--prior`.
* **Shapes.** Flat coefficients are ``(B, d)``. Photos whose posterior is a mixture of K densities
  with equal weight have ``(N, K, d)``. Values on a product grid are ``(B, rows, columns)``, rows
  from north to south.
* **Precision.** Tables are built in float64 and kept in float32, as all tensors are.

Rooms: `shdd` (codes), `transforms` (fields on grids, rotations), `raster` (equal-area rasters),
`base_measure` (q₀), `log_partition` (log Z in training).
"""
