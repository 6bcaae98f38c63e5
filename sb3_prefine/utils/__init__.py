"""Files, random numbers, threads, observations and argument checks: nothing here knows what a policy is."""
