"""Lists of numbers on the command line: `1,2,4` and `1-8`."""

MOST = 4096


def number_list(text: str, option: str) -> list[int]:
    """The numbers that `text` names, ascending, each once.

    Raises:
        ValueError: it names none; said for people, with the option.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.strip().isdecimal()):
            raise ValueError(f"{option}: must be numbers as in 1,2,4 or 1-8, not {text!r}")
        low, high = int(first), int(last) if dash else int(first)
        if low < 1 or high < low or high - low > MOST:
            raise ValueError(f"{option}: must be numbers from 1 up, as in 1,2,4 or 1-8, not {text!r}")
        found.update(range(low, high + 1))
    return sorted(found)
