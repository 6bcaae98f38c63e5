"""Generate data in DSRL's layout: train agents, roll them out, and thin their episodes."""
