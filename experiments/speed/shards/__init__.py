"""What a build of training shards costs: Beam against a plain loop over the same functions."""
