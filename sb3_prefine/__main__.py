"""``python -m sb3_prefine`` is ``sb3-prefine``."""

from sb3_prefine.cli.main import main

if __name__ == "__main__":
    main()
