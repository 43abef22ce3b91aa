"""A table gives the prompts of one column, whole, or is refused with the line and what to do."""

import csv

import pyarrow
import pyarrow.parquet as parquet
import pytest

from rankdeck.runner.inputs.prompts import tables
from tests.runner.inputs.freezing import complaint, freeze_here, frozen, texts


def test_a_row_with_more_fields_than_the_header_is_refused_and_not_cut() -> None:
    content = "id,prompt\n1,fine\n2,Hello, world\n3,\n4,one,two,three\n"
    assert complaint("p.csv", content, column="prompt").splitlines() == [
        'p.csv:3: the row has 3 fields, and the header has 2; quote a field with a comma in it: "…"',
        "p.csv:4: empty prompt",
        'p.csv:5: the row has 4 fields, and the header has 2; quote a field with a comma in it: "…"',
    ]


def test_a_comma_at_the_end_of_a_row_may_be_the_prompts_own() -> None:
    assert "p.csv:2: the row has 3 fields" in complaint("p.csv", "id,prompt\n1,Hello,\n", column="prompt")


@pytest.mark.parametrize("column", ["id", "prompt"])
def test_a_row_with_fewer_fields_is_refused_whichever_column_is_wanted(column: str) -> None:
    said = complaint("p.csv", "id,prompt,note\n1,a,\n2\n", column=column)
    assert said == "p.csv:3: the row has 1 field, and the header has 3; add the missing ones"


@pytest.mark.parametrize(("header", "column"), [("prompt,prompt", "prompt"), ("id,prompt,id", "prompt")])
def test_columns_of_one_name_are_refused_by_name(header: str, column: str) -> None:
    fields = header.count(",") + 1
    said = complaint("p.csv", f"{header}\n{','.join('abc'[:fields])}\n", column=column)
    name = header.split(",")[0]
    assert said == f"p.csv: more than one column is called '{name}'; rename all but one"


def test_columns_without_a_name_as_spreadsheets_write_them_are_no_harm() -> None:
    assert texts(frozen("p.csv", ",prompt,,\n1,a,,\n", column="prompt")) == ["a"]
    assert "called ''" in complaint("p.csv", ",\na,b\n", column="")


def test_parquet_columns_of_one_name_are_refused_too() -> None:
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, "p.parquet")
    assert "more than one column is called 'text'" in complaint("p.parquet", column="text")


def test_a_header_without_the_column_lists_what_there_is_with_the_spaces_that_one_overlooks() -> None:
    assert "the columns are: id, ' prompt'" in complaint("p.csv", "id, prompt\n1,a\n", column="prompt")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("id;prompt\n1;a\n", "if `;` separates the fields, put the line `sep=;` above it"),
        ("id\tprompt\n1\ta\n", "if tabs separate its fields, name the file .tsv"),
        ("id|prompt\n1|a\n", "if `|` separates the fields, put the line `sep=|` above it"),
    ],
)
def test_another_separator_is_recognised_in_a_header_of_one_column(content: str, hint: str) -> None:
    for column, said in (("prompt", "there is no column 'prompt'"), (None, "say with --column which column holds")):
        found = complaint("p.csv", content, column=column)
        assert said in found
        assert found.endswith(f"; {hint}")


@pytest.mark.parametrize(
    ("separator", "hint"),
    [
        (",", "if `,` separates the fields, name the file .csv"),
        (";", "if `;` separates the fields, name the file .csv and put the line `sep=;` above it"),
    ],
)
def test_a_table_of_tabs_that_holds_another_separator_is_told_what_helps(separator: str, hint: str) -> None:
    content = f"id{separator}prompt\n1{separator}a\n"
    assert complaint("p.tsv", content, column="prompt").endswith(f"; {hint}")
    above = "" if separator == "," else f"sep={separator}\n"
    assert texts(frozen("p.csv", above + content, column="prompt")) == ["a"], "what it says, helps"


def test_a_header_of_several_columns_or_without_a_separator_gives_no_hint() -> None:
    for header in ("a;b,c", "ab"):
        assert complaint("p.csv", f"{header}\n1,2\n", column="x").endswith(
            f"the columns are: {', '.join(header.split(','))}"
        )


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n'])
def test_a_first_line_may_name_the_separator_as_excel_writes_it(first: str) -> None:
    content = first + "id;prompt\n1;Hello, world\n2;a;b\n3;c\n"
    assert "p.csv:4: the row has 3 fields, and the header has 2; quote a field with a semicolon" in complaint(
        "p.csv", content, column="prompt"
    )
    assert texts(frozen("p.csv", content.replace("2;a;b\n", ""), column="prompt")) == ["Hello, world", "c"]


def test_tabs_separate_the_fields_of_tsv() -> None:
    content = 'id\tprompt\n1\tHello, world\n2\t"two\nlines"\n'
    assert texts(frozen("p.TSV", content, column="prompt")) == ["Hello, world", "two\nlines"]
    assert "quote a field with a tab in it" in complaint("q.tsv", content + "3\ta\tb\n", column="prompt")


def test_rows_that_quotes_without_a_meaning_run_together_are_remarked_upon() -> None:
    dump = 'id\tprompt\n1\t"I am here, he said.\n2\tAnd you are not."\n'
    said = (
        "p.tsv:2: lines 2 to 3 were read as one row, because a quoted field spans them; if the quotes are "
        "part of the text, save the file as JSON Lines"
    )
    assert freeze_here("p.tsv", dump, column="prompt").remarks == [said]
    assert texts(frozen("p.tsv", dump, column="prompt")) == ["I am here, he said.\n2\tAnd you are not."]
    twice = dump + "".join(dump.splitlines(keepends=True)[1:])
    assert freeze_here("p.tsv", twice, column="prompt").remarks == [f"{said}; 1 more like it"]
    several = 'id\tprompt\n1\t"of two\nlines"\n2\t"with a\ttab"\n'
    assert freeze_here("p.tsv", several, column="prompt").remarks == []
    letter = 'id,prompt\n1,"Dear Ada,\n\tI am here"\n'
    assert freeze_here("p.csv", letter, column="prompt").remarks == []


def test_tsv_asks_for_its_column() -> None:
    assert "say with --column" in complaint("p.tsv", "id\tprompt\n1\ta\n")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_mark_and_windows_line_endings_are_no_part_of_a_table(mark: str, ending: str) -> None:
    content = mark + ending.join(["prompt,id", "a,1", "b,2", ""])
    assert texts(frozen("p.csv", content, column="prompt")) == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('1,a\n2,"never closed\n3,b\n4,c\n', 3),
        ('1,a\n"closed\nhere","and open\n5,b\n', 4),
        ('1,"he said ""no"" twice\n2,b\n', 2),
    ],
    ids=["in_its_row", "in_a_row_of_several_lines", "with_quotes_inside"],
)
def test_an_unclosed_quote_is_named_by_the_line_where_it_opens(rows: str, line: int) -> None:
    assert (
        complaint("p.csv", "id,prompt\n" + rows, column="prompt")
        == f"p.csv:{line}: broken CSV: a quoted field is never closed"
    )


def test_an_unclosed_quote_in_a_long_file_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 100)
    content = 'id,prompt\n1,a\n2,"open\n' + "3,b\n" * 50
    assert complaint("p.csv", content, column="prompt") == (
        "p.csv:3: broken CSV: a field is longer than 100 characters; is its quote never closed?"
    )


def test_text_after_a_closing_quote_is_said_with_what_to_do_and_the_next_rows_are_checked_too() -> None:
    content = 'id,prompt\n1,"Hello" he said\n2,fine\n3\n'
    assert complaint("p.csv", content, column="prompt").splitlines() == [
        'p.csv:2: broken CSV: text after the closing quote of a field; write a quote inside a field twice: ""',
        "p.csv:4: the row has 1 field, and the header has 2; add the missing ones",
    ]


def test_a_line_of_another_encoding_does_not_upset_the_quotes_around_it() -> None:
    content = b'id,prompt\n1,"two\ncaf\xe9"\n2,fine\n3,"three\nlines\nhere"\n'
    assert [line.split(":")[1] for line in complaint("p.csv", content, column="prompt").splitlines()] == ["3"]


def test_blank_lines_are_no_rows_even_of_spaces_but_a_quoted_blank_is_an_empty_prompt() -> None:
    assert texts(frozen("p.csv", "\nid,prompt\n1,a\n   \n2,b\n \t\n", column="prompt")) == ["a", "b"]
    assert texts(frozen("q.csv", "prompt\na\n  \n", column="prompt")) == ["a"]


def test_a_quoted_blank_in_a_table_of_one_column_is_an_empty_prompt() -> None:
    assert complaint("p.csv", 'prompt\na\n" "\n', column="prompt") == "p.csv:3: empty prompt"


def test_a_zero_byte_within_a_field_is_data() -> None:
    assert texts(frozen("p.csv", b"id,prompt\n1,a\0b and more\n", column="prompt")) == ["a\0b and more"]


def test_names_of_columns_cannot_reach_the_terminal_as_they_are() -> None:
    said = complaint("p.csv", "\x1b[2J,prompt\n1,a\n", column="none")
    assert "\x1b" not in said
    assert "\\u001b[2J" in said


def test_a_table_without_rows_has_no_prompt_in_it() -> None:
    for content in ("id,prompt\n", "id,prompt", "\n", "sep=;\n", "sep=;\nid;prompt\n"):
        assert complaint("p.csv", content, column="prompt") == "p.csv: there is no prompt in it"


def test_a_separator_is_named_only_by_the_first_line_and_only_where_commas_would_separate() -> None:
    assert texts(frozen("p.csv", "prompt\nsep=;\n", column="prompt")) == ["sep=;"]
    assert "there is no column 'prompt'; the columns are: sep=;" in complaint(
        "p.tsv", "sep=;\nprompt\n", column="prompt"
    )
    assert texts(frozen("p.csv", "sep=\t\nid\tprompt\n1\ta\n", column="prompt")) == ["a"]
    assert texts(frozen("p.csv", "sep=;;\na\n", column="sep=;;")) == ["a"]


@pytest.mark.parametrize(
    ("separator", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar"), ("^", "'^'")]
)
def test_the_separator_that_stands_in_a_field_is_named(separator: str, name: str) -> None:
    row = separator.join
    content = "\n".join([f"sep={separator}", row(["id", "prompt"]), row(["1", "a", "b"]), row(["1", "a"])])
    assert complaint("p.csv", content, column="prompt") == (
        f'p.csv:3: the row has 3 fields, and the header has 2; quote a field with a {name} in it: "…"'
    )


def test_every_column_that_stands_twice_is_named_and_a_blank_one_only_if_it_is_asked_for() -> None:
    assert complaint("p.csv", "a,b,a,b,c, , \n1,2,3,4,5,6,7\n", column="c") == (
        "p.csv: more than one column is called 'a', 'b'; rename all but one"
    )
    assert "called ' '" in complaint("p.csv", " ,a, \n1,2,3\n", column=" ")


def test_a_field_longer_than_the_usual_limit_is_read_and_the_limit_is_put_back() -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert texts(frozen("p.csv", f"prompt\n{long}\n", column="prompt")) == [long]
    assert csv.field_size_limit() == before
    complaint("p.csv", "prompt\n", column="none")
    assert csv.field_size_limit() == before, "after an error, too"


def test_a_carriage_return_within_a_field_needs_quotes() -> None:
    assert complaint("p.csv", "id,prompt\n1,a\rb\n", column="prompt") == (
        "p.csv:2: broken CSV: a carriage return (CR) inside a field; quote the field"
    )
    assert texts(frozen("p.csv", 'id,prompt\n1,"a\rb"\n', column="prompt")) == ["a\rb"]


def test_rows_of_parquet_are_counted_through_all_that_is_read_at_once() -> None:
    values = ["fine"] * 1024 + ["fine", None, ""]
    parquet.write_table(pyarrow.table({"text": values, "n": list(range(len(values)))}), "p.parquet")
    assert complaint("p.parquet", column="text").splitlines() == [
        "p.parquet: row 1026: null, not a string",
        "p.parquet: row 1027: empty prompt",
    ]
    assert complaint("p.parquet", column="n").startswith("p.parquet: row 1: a number, not a string\n")
    assert (
        complaint("p.parquet")
        == "p.parquet: say with --column which column holds the prompts; the columns are: text, n"
    )


def test_ids_are_the_indices_of_what_has_no_ids_of_its_own() -> None:
    for name, content in (("p.csv", "id,prompt\n7,a\n8,b\n"), ("p.txt", "a\nb\n")):
        column = "prompt" if name == "p.csv" else None
        assert [prompt.id for prompt in frozen(name, content, column=column)] == ["0", "1"]


def test_a_column_is_for_tables_alone() -> None:
    for name in ("p.jsonl", "p.json", "-"):
        said = complaint(name, None if name == "-" else '["a"]', column="x", stdin=b'["a"]' if name == "-" else None)
        shown = "standard input" if name == "-" else name
        assert said.startswith(f"{shown}: --column x is for .csv, .tsv and .parquet; leave it out")


def test_rows_of_nothing_but_separators_are_blank_as_spreadsheets_leave_them() -> None:
    assert texts(frozen("p.csv", "n,q\n1,one\n,\n2,two\n, \n,\n", column="q")) == ["one", "two"]
    assert texts(frozen("p.tsv", "n\tq\n1\tone\n\t\n", column="q")) == ["one"]
    assert complaint("p.csv", "n,q\n1,one\n2,\n", column="q") == "p.csv:3: empty prompt"
    assert complaint("p.csv", 'q\none\n""\n', column="q") == "p.csv:3: empty prompt"
    assert complaint("p.csv", "n,q\n1,one\n,,\n", column="q").startswith("p.csv:3: the row has 3 fields")
