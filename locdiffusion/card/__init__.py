"""One photo's answer as a picture: the photo, the globe with its density, a closer map, a table."""
