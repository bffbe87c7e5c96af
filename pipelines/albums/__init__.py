"""Places the photos of an archive by the others of their album, on Beam."""
