"""Writes geotags into the EXIF of copies of JPEGs."""
