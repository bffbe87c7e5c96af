"""The command `locdiffusion aggregate`: how many photos are expected in each area."""
