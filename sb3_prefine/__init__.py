"""Make a policy you already trained safe: PREFINE for Stable-Baselines3."""

import lazy_loader

__version__ = "0.1.0"

# The public names are those of __init__.pyi. Each is imported when it is first used, so that the command line, which
# imports this package too, does not wait for torch before it can print its help.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
