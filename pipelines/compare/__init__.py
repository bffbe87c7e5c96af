"""The command `locdiffusion compare`: what changed between two outputs of `geotag`."""
