"""Lists of numbers given as options: `1,2,4` and `1-8`."""

from runner.protocol.config import MAX_BATCH_SIZE
from tui.words.sweep import read_numbers


def number_list(text: str, option: str) -> list[int]:
    """The numbers that `text` names, ascending, each once.

    Raises:
        ValueError: it names none; said for people, with the option.
    """
    try:
        return read_numbers(text, most=MAX_BATCH_SIZE)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
