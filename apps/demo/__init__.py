"""``make demo``: the main job from end to end, as a user would do it on the command line."""
