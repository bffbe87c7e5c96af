"""What every job on Beam shares: its flags, and how it is handed to a runner."""
