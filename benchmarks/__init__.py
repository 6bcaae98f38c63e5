"""The benchmark: data, runs, analyses, pages and speed. ``python -m benchmarks --help`` lists the commands."""
