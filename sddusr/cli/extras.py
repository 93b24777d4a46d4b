"""Optional dependencies: what a command needs, and how to install it."""

import sys
from importlib.util import find_spec


def require(extra: str, *packages: str) -> None:
    """End the process with one line where a package of an extra is missing.

    Raises:
        SystemExit: with code 2.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        print(
            f"error: {', '.join(missing)} not installed; install what the commands in pipelines/ "
            f"and tune/ need with: pip install 'sddusr[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
