"""What the jobs write: the directory of a run, and lines of progress about it. Knows no Beam."""
