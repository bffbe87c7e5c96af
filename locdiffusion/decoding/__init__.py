"""Decoding: from natural parameters ``(N, K, d)`` to answers.

It uses the conventions of `locdiffusion.density`, and:

* ρ is the **radius** of an answer: in km in a configuration, in radians in code. The answer
  maximises the **score**, the probability within ρ with nearer mass counting more.
* N photos have K densities each; P points are measured at once, M are candidates of one photo, and
  W photos are **wide**: they need the whole sphere.
* A **step** is in radians to the south and east. A **ring** holds nodes at one distance from a
  point; a **zone** is a set of rings with the same number of nodes.

Rooms: `tables` (what densities of one degree and base measure share), `decoder` (the algorithm and
its configuration), `coarse_search`, `mode_seeking`, `answer_rings` (its three stages), `peaks`
(maxima of fields), `distance_profile` (radii), `answers` and `geotag` (answers as columns and as
objects), `point_only` (answers without radii), `adaptive_mesh` and `credible_regions` (regions).
With an appearance map: `fused_decoder`, `fused_density` (nodes and log Z), `fused_mesh` (regions);
`node_masses` decides the answers of densities that are known at nodes.
"""
