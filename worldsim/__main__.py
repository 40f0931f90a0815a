"""`python -m worldsim` is the command `worldsim`.

Here for environments where the console script is not on the path.
Leaves out everything: see `worldsim.cli.main`.
"""

import sys

from worldsim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
