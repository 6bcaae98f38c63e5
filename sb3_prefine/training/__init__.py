"""The training loop that every offline algorithm shares."""
