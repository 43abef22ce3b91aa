"""The small language that filters lists: words, `name:value`, `#17`, and `-` to exclude.

    lighthouse "nine ships" rank:1 tokens:>40 -finish:stop

All terms must hold. Words match anywhere in the subject's text, ignoring case; a phrase in quotes is one word. The
names are given by the caller, as a Language. Pure.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

Subject = TypeVar("Subject")
Test = Callable[[Subject], bool]
Read = Callable[[str], Test[Subject]]
"""Makes a test of the value after a name.

Raises:
    ValueError: there is no such value; the text says why.
"""


class QueryError(ValueError):
    """A query that cannot be understood: the text says which term, why, and what to write instead.

    `rest` is the query without the wrong terms, so that the others still apply while the user is typing.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.rest: Query[Any] = Query()


@dataclass(frozen=True)
class Query(Generic[Subject]):
    """A query, parsed. Two with the same text are equal."""

    text: str = ""
    tests: tuple[Test[Subject], ...] = field(default=(), compare=False)
    words: tuple[tuple[str, bool], ...] = field(default=(), compare=False)
    """Words in lower case, each with True if the subject must contain it, False if it must not."""
    text_of: Callable[[Subject], str] = field(default=lambda _: "", compare=False)
    finds: re.Pattern[str] | None = field(default=None, compare=False)
    """What to mark in a text, if anything."""

    def __bool__(self) -> bool:
        return bool(self.text)

    def matches(self, subject: Subject) -> bool:
        """Whether all terms hold; texts are searched last, as that takes longest."""
        for test in self.tests:
            if not test(subject):
                return False
        if not self.words:
            return True
        text = self.text_of(subject).lower()
        return all((word in text) is wanted for word, wanted in self.words)


@dataclass(frozen=True)
class Name(Generic[Subject]):
    """A name of the language: how its values are read, an example, and whether its matches are marked in texts."""

    read: Read[Subject]
    example: str
    marks: bool = False


@dataclass(frozen=True)
class Language(Generic[Subject]):
    """What a query for one kind of subject can use: the text that words match in, and the names."""

    text_of: Callable[[Subject], str]
    names: Mapping[str, Name[Subject]]
    number_sign: str | None = None
    """The name that `#17` is short for, if any."""

    def parse(self, text: str) -> Query[Subject]:
        """Parse `text`; an empty query matches everything.

        Raises:
            QueryError: a term cannot be understood.
        """
        terms = _Terms[Subject]([], [], [], [])
        wrong: QueryError | None = None
        for term in _TERM.finditer(text):
            try:
                self._read(term, terms)
            except QueryError as error:
                wrong = wrong or error
        found = "|".join(map(re.escape, sorted(terms.found, key=len, reverse=True)))
        query = Query(
            " ".join(terms.texts),
            tuple(terms.tests),
            tuple(terms.words),
            self.text_of,
            re.compile(found, re.IGNORECASE) if found else None,
        )
        if wrong is not None:
            wrong.rest = query
            raise wrong
        return query

    def _read(self, term: re.Match[str], into: "_Terms[Subject]") -> None:
        wanted, name, value = not term["minus"], term["name"], term["quoted"] or term["plain"] or ""
        if term["number"] is not None:
            name, value = self.number_sign, term["number"] if self.number_sign else f"#{term['number']}"
        if name is not None:
            known = self._name(name, term[0])
            test = _test(known, value, term[0])
            into.tests.append(test if wanted else _but_not(test))
            if wanted and known.marks:
                into.found.append(value)
        elif value:
            into.words.append((value.lower(), wanted))
            if wanted:
                into.found.append(value)
        elif term["minus"]:
            raise QueryError("- leaves out what follows it, as in -word")
        else:
            return
        into.texts.append(term[0])

    def _name(self, name: str, term: str) -> Name[Subject]:
        try:
            return self.names[name.lower()]
        except KeyError:
            known = ", ".join(self.names)
            raise QueryError(f'{name}: is none of {known}; as text, write "{term.lstrip("-")}"') from None


class _Terms(NamedTuple, Generic[Subject]):
    """What has been parsed of a query so far."""

    texts: list[str]
    tests: list[Test[Subject]]
    words: list[tuple[str, bool]]
    found: list[str]


def _test(name: Name[Subject], value: str, term: str) -> Test[Subject]:
    if not value:
        raise QueryError(f"{term} needs a value; write {name.example}")
    try:
        return name.read(value)
    except ValueError as error:
        raise QueryError(f"{term}: {error}; write {name.example}") from None


def _but_not(test: Test[Subject]) -> Test[Subject]:
    return lambda subject: not test(subject)


_TERM = re.compile(
    r"""(?P<minus>-?)
    (?: \#(?P<number>\S*)
      | (?:(?P<name>[A-Za-z_]+):)? (?: "(?P<quoted>[^"]*)(?:"|$) | (?P<plain>[^\s"]\S*) )?
    )""",
    re.VERBOSE,
)
"""A term; a quote still open, as while it is being typed, goes on to the end."""


# --- kinds of values ------------------------------------------------------------------------------

_MOST = float("inf")
_NUMBERS = re.compile(r"(?P<sign>>=|<=|>|<|=)?(?P<low>\d{1,18})(?:(?:-|\.\.)(?P<high>\d{1,18}))?")


def numbers(number_of: Callable[[Subject], int | None]) -> Read[Subject]:
    """`7`, `>40`, `<=9`, `10-20`, or several with commas, of which one must hold."""

    def read(value: str) -> Test[Subject]:
        spans = [_span(part) for part in value.rstrip(",").split(",")]

        def test(subject: Subject) -> bool:
            number = number_of(subject)
            return number is not None and any(low <= number <= high for low, high in spans)

        return test

    return read


def _span(text: str) -> tuple[float, float]:
    found = _NUMBERS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text or 'nothing'} is no number")
    low = int(found["low"])
    if found["high"] is not None:
        if found["sign"]:
            raise ValueError(f"{text} is a range and has a sign too")
        return low, int(found["high"])
    spans = {">": (low + 1, _MOST), ">=": (low, _MOST), "<": (-_MOST, low - 1), "<=": (-_MOST, low)}
    return spans.get(found["sign"] or "", (low, low))


def choice(choice_of: Callable[[Subject], str], choices: Sequence[str]) -> Read[Subject]:
    """One of a few words, or several separated by bars or commas; the first letters of a word are enough."""

    def read(value: str) -> Test[Subject]:
        wanted: set[str] = set()
        for part in re.split(r"[|,]", value.lower().rstrip("|,")):
            meant = [name for name in choices if part and name.startswith(part)]
            if not meant:
                raise ValueError(f"{part or 'nothing'} is none of {', '.join(choices)}")
            wanted.update(meant)
        return lambda subject: choice_of(subject) in wanted

    return read


def exactly(text_of: Callable[[Subject], str]) -> Read[Subject]:
    """The exact text, ignoring case."""

    def read(value: str) -> Test[Subject]:
        wanted = value.lower()
        return lambda subject: text_of(subject).lower() == wanted

    return read


def contains(text_of: Callable[[Subject], str]) -> Read[Subject]:
    """Part of a text, ignoring case."""

    def read(value: str) -> Test[Subject]:
        wanted = value.lower()
        return lambda subject: wanted in text_of(subject).lower()

    return read
