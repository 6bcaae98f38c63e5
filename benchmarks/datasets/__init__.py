"""Makes the generated data: agents are trained, rolled out, and their episodes thinned to the shape of DSRL's."""
