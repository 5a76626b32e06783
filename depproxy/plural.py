"""Words for numbers of things."""


def plural(number: int, one: str, several: str = "") -> str:
    """``one`` for 1, and ``several`` for any other number, if not given ``one`` with an s."""
    return one if number == 1 else several or f"{one}s"


def counted(number: int, one: str, several: str = "") -> str:
    """A number of things: ``1 blob``, ``20 blobs``."""
    return f"{number} {plural(number, one, several)}"
