"""What can be true of the figures and texts in a message, whatever the message is about. Pure.

Knows bounds of numbers, texts and lists, and what the account of a batch cannot say. Does not know what the rank was
given: `runner.supervisor.talk.rank_talk` does.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from rankdeck.runner.protocol import BatchResult, OutputRecord

MOST = 2**53
"""No count, size or time of a run is larger; up to here a float holds every whole number."""

LONGEST_TEXT = 64 * 1024
MOST_ENTRIES = 4096
LONGEST_ERROR = 10_000
LONGEST_LOG = 200_000
LONGEST_DIGEST = 64

CLOCK_SLACK_SECONDS = 5.0
"""By so much a batch may have taken longer by its rank's clock than by the supervisor's, and a hundredth more."""

S = TypeVar("S", bound=msgspec.Struct)


class NonsenseError(Exception):
    """A peer said what cannot be true."""


def require(holds: bool, otherwise: str) -> None:
    """Raise NonsenseError, saying `otherwise`, unless `holds`."""
    if not holds:
        raise NonsenseError(otherwise)


def check_values(value: object, name: str, *, least: int = 0) -> None:
    """Require numbers from `least` on that are finite and not absurd, and texts and lists of bearable length."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        require(least <= value <= MOST, f"{name} is out of range")
    elif isinstance(value, str):
        require(len(value) <= LONGEST_TEXT, f"{name} is {len(value):,} characters long")
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            check_values(getattr(value, field), field, least=least)
    elif isinstance(value, dict):
        require(len(value) <= MOST_ENTRIES, f"{name} has {len(value):,} entries")
        for key, entry in value.items():
            check_values(key, name, least=least)
            check_values(entry, name, least=least)
    elif isinstance(value, list | tuple):
        for entry in value:
            check_values(entry, name, least=least)


def check_record(record: OutputRecord, new_tokens: int) -> None:
    """Require a record's figures to be those of an answer of at most `new_tokens` tokens, or of an error."""
    for name in ("index", "prompt_tokens", "output_tokens"):
        check_values(getattr(record, name), name)
    require(record.output_tokens <= new_tokens, f"an answer has {record.output_tokens:,} tokens of {new_tokens:,}")
    require((record.finish_reason == "error") == (record.error is not None), "a record has an error by half")


def check_result(result: BatchResult, *, rows: int, tokens: int, seconds: float, accounted: float = 0.0) -> float:
    """Require an account to be one of so many rows and output tokens at most, made in no more than `seconds`, of which
    earlier accounts took `accounted`. Returns the seconds that it took.
    """
    check_values(result, "result")
    require(result.rows <= rows, f"an account is of {result.rows:,} rows, and {rows:,} were in its hand")
    require(result.output_tokens <= tokens, f"an account has {result.output_tokens:,} tokens of {tokens:,}")
    require(result.shared_tokens <= result.prompt_tokens, "an account shares more tokens than its prompts have")
    real = result.prompt_tokens - result.shared_tokens + result.output_tokens
    require(real + (result.padded_slots or 0) <= result.slots, "an account has more tokens than slots")
    steps = result.step_seconds or ()
    require(len(steps) <= result.steps, "an account times more steps than it has")
    taken = max(result.seconds, result.prefill_seconds + result.decode_seconds, sum(steps))
    most = seconds * 1.01 + CLOCK_SLACK_SECONDS
    require(accounted + taken <= most, f"a batch took {accounted + taken:,.0f} s of {seconds:,.0f} s in hand")
    return taken


def check_shares(shares: Sequence[tuple[int, int]], prompts: int, *, all_ranks: bool) -> None:
    """Require shares, from first prompt to last (exclusive), to be of these prompts, and no prompt to be in two.

    With `all_ranks` they are all there are: no prompt may be in none.
    """
    end = 0
    for start, stop in sorted(share for share in shares if share[0] < share[1]):
        require(end <= start, "two ranks have the same prompts as their share")
        end = stop
    for start, stop in shares:
        require(0 <= start <= stop <= prompts, f"a share goes beyond the {prompts:,} prompts")
    whole = sum(stop - start for start, stop in shares)
    require(not all_ranks or whole == prompts, f"the shares leave out {prompts - whole:,} prompts")


def shortened(message: S, **longest: int) -> S:
    """The message with the named texts cut to so many characters."""
    changes = {
        name: f"{text[:most]} …"
        for name, most in longest.items()
        if isinstance(text := getattr(message, name), str) and len(text) > most
    }
    return msgspec.structs.replace(message, **changes) if changes else message
