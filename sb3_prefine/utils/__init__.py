"""Files, random numbers, threads and argument checks: nothing here knows what a policy is."""
