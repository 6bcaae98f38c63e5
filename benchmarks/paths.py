"""Where everything is that the commands read and write, unless an option says otherwise."""

from pathlib import Path

# The pages are here.
HERE = Path(__file__).parent
IMAGES = HERE / "images"
# The records, which are committed.
RESULTS = HERE / "results"
# The generated data. Not committed.
DATA = HERE / "generated"
# References, states of training and Optuna's studies, which are made again where they are missing. Not committed.
CACHE = HERE / "cache"
