"""The benchmarks: datasets, runs, analyses, pages and speed. ``python -m benchmarks --help`` lists the commands."""
