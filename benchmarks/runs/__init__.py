"""Train and evaluate methods on a grid of tasks, data and seeds, and score their records."""
