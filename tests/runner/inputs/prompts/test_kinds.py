"""The kind of a prompt file is told by its name alone; a name that does not tell is refused with those that do."""

import pytest

from rankdeck.runner.inputs.prompts.kinds import NAME_ONE, Kind

LISTED = ".txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, or - for standard input"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("p.txt", (".txt", False)),
        ("some/p.b.JSONL", (".jsonl", False)),
        ("p.Txt.GZ", (".txt", True)),
        ("p.gz", ("", True)),
        ("p", ("", False)),
        ("-", ("", False)),
        (".txt", ("", False)),
    ],
)
def test_the_suffix_is_the_last_one_before_the_compressions_in_any_case(name: str, kind: tuple[str, bool]) -> None:
    assert tuple(Kind.of(name)) == kind


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_each_kind_is_known_and_all_but_parquet_may_be_compressed(suffix: str) -> None:
    assert Kind(suffix).known
    assert Kind(suffix, compressed=True).known == (suffix != ".parquet")
    for compressed in (True, False):
        assert Kind(suffix, compressed).has_columns == (suffix in (".csv", ".tsv", ".parquet"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("p", f"the name does not say what kind of file it is; give one of {LISTED}"),
        ("p.docx", f"unknown kind of file '.docx'; give one of {LISTED}"),
        ("p.docx.gz", f"unknown kind of file '.docx'; give one of {LISTED}"),
        ("p.gz", "the name does not say what the .gz holds; name it .jsonl.gz, .txt.gz or what it is"),
        ("p.parquet.gz", "a .parquet inside gzip cannot be read; gunzip it first"),
    ],
)
def test_a_name_that_does_not_tell_is_refused_with_what_would(name: str, said: str) -> None:
    assert not Kind.of(name).known
    assert Kind.of(name).why_unknown() == said


def test_without_a_name_all_kinds_are_named() -> None:
    assert NAME_ONE == "name a file of prompts: .txt, .jsonl, .ndjson, .json, .csv, .tsv or .parquet"
