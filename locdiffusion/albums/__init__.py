"""Albums: photos of one camera locate each other by their times and by those with a position."""
