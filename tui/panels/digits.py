"""A figure in large digits, three rows high, for what is read from the back of a room. Pure."""

_DIGITS = {
    "0": ("█▀█", "█ █", "▀▀▀"),
    "1": ("▄█ ", " █ ", "▀▀▀"),
    "2": ("▀▀█", "█▀▀", "▀▀▀"),
    "3": ("▀▀█", " ▀█", "▀▀▀"),
    "4": ("█ █", "▀▀█", "  ▀"),
    "5": ("█▀▀", "▀▀█", "▀▀▀"),
    "6": ("█▀▀", "█▀█", "▀▀▀"),
    "7": ("▀▀█", "  █", "  ▀"),
    "8": ("█▀█", "█▀█", "▀▀▀"),
    "9": ("█▀█", "▀▀█", "▀▀▀"),
    "-": ("   ", "▀▀▀", "   "),
    ",": (" ", " ", "▜"),
    ".": (" ", " ", "▀"),
}

ROWS = 3


def large(figure: str) -> list[str]:
    """`figure`, made of digits, commas, points and dashes, as three rows of equal width."""
    drawn = [_DIGITS[character] for character in figure if character in _DIGITS]
    return [" ".join(glyph[row] for glyph in drawn) for row in range(ROWS)]
