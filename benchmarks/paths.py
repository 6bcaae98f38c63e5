"""Default paths of everything that the commands read and write."""

from pathlib import Path

# The folder of the pages.
HERE = Path(__file__).parent
IMAGES = HERE / "images"
# Records of all commands. Committed.
RESULTS = HERE / "results"
# Generated data. Not committed.
DATA = HERE / "generated"
# References, training states and Optuna's studies, which are made again if they are missing. Not committed.
CACHE = HERE / "cache"
