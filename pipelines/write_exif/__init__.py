"""Geotags written into the EXIF of copies of JPEGs."""
