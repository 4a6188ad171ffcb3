"""placeholder"""


def command() -> None:
    """Not there yet."""
