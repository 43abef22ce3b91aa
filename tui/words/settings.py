"""Settings of the two knobs in words, and the best of several: for the tour and the table of settings. Pure."""

from rankdeck.tui.words.text import count, rate, some


def setting_words(active_ranks: int, batch_size: int) -> str:
    """`batch size 4 x 2 ranks`."""
    return f"batch size {count(batch_size)} x {some(active_ranks, 'rank')}"


def short_setting(active_ranks: int, batch_size: int) -> str:
    """`4 x 2`, batch size first, as in the table of settings."""
    return f"{count(batch_size)} x {active_ranks}"


def best_setting_words(active_ranks: int, batch_size: int, tokens_per_second: float, first: float | None) -> str:
    """`best: batch size 16 x 2 ranks, 214 tok/s, 2.1x the first setting`.

    `first` is the first setting's tokens/s; None if the best is the first, or there is nothing to compare it with.
    """
    said = f"best: {setting_words(active_ranks, batch_size)}, {rate(tokens_per_second)} tok/s"
    return f"{said}, {gain_words(tokens_per_second, first)} the first setting" if first else said


def gain_words(tokens_per_second: float, first: float) -> str:
    """`2.1x`."""
    return f"{tokens_per_second / first:.1f}x"
