"""What photos look like by place: a map of predicted appearance, and a likelihood of photos."""
