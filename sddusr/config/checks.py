"""What every config checks itself with."""


def require(condition: bool, message: str) -> None:
    """Refuse a value at once, where it was set."""
    if not condition:
        raise ValueError(message)
