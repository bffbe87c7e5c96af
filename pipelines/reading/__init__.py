"""Reading an archive strictly: tars, folders and their photos, wherever they lie. Knows no Beam."""
