"""Albums: photos of one camera locate each other by their times and by those with a position.

Photos with a position are **anchors**; those without are **asked**. Between two anchors a photo
follows a law of motion. With B photos, D draws of an album's scales and S points:

* `von_mises_fisher` (kernels of every width), `motion` (the law), `visits` (places to return to);
* `album` (photos in time), `contradictions` (which anchors are believed), `scales` (how fast and
  far this album moves), `anchors` and `bridge` (the density of a photo between two anchors);
* `decision` and `levels` (point and honest radii), `placing` (an answer or a reason for each);
* `mesh`, `evidence` and `joint` (albums whose photos have densities of their own), `tracks` (draws
  of all positions together);
* `parameters` (what is common to all albums), `fitting` (how it is found), `check` (whether it
  holds for an archive), `table` (albums from a file).
"""
