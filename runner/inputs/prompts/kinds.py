"""The kinds of prompt files, by their names. Pure: opens nothing."""

from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
WITH_COLUMNS = (".csv", ".tsv", ".parquet")
WITHOUT_IDS = (".txt", *WITH_COLUMNS)
COMPRESSION = ".gz"
COMPRESSIBLE = tuple(suffix for suffix in SUFFIXES if suffix != ".parquet")  # that is compressed inside
NAMES = (*SUFFIXES, *(suffix + COMPRESSION for suffix in COMPRESSIBLE))
"""What the names of prompt files end with, in lower case."""

NAME_ONE = f"name a file of prompts: {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


class Kind(NamedTuple):
    """What a name says: the suffix, in lower case, before .gz, and whether .gz follows it."""

    suffix: str
    compressed: bool = False

    @classmethod
    def of(cls, source: str) -> "Kind":
        """The kind of the file `source`; standard input (`-`) has none."""
        path = Path(source)
        if path.suffix.lower() != COMPRESSION:
            return cls(path.suffix.lower())
        return cls(path.with_suffix("").suffix.lower(), compressed=True)

    @property
    def known(self) -> bool:
        return self.suffix in (COMPRESSIBLE if self.compressed else SUFFIXES)

    @property
    def has_columns(self) -> bool:
        return self.suffix in WITH_COLUMNS

    def why_unknown(self) -> str:
        """What to say of a file whose kind is not known."""
        if self.compressed and self.suffix in SUFFIXES:
            return f"a {self.suffix} inside gzip cannot be read; gunzip it first"
        if self.compressed and not self.suffix:
            return "the name does not say what the .gz holds; name it .jsonl.gz, .txt.gz or what it is"
        listed = ", ".join(SUFFIXES)
        said = (
            f"unknown kind of file {self.suffix!r}" if self.suffix else "the name does not say what kind of file it is"
        )
        return f"{said}; give one of {listed}, or - for standard input"
