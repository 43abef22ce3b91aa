"""Prompt files of other encodings than UTF-8, in other letters than Latin ones: what is said of them."""

import pytest

from tests.runner.inputs.freezing import complaint, frozen, texts

CHINESE = "一二三、你好、世界。\n请解释一下黑洞。\n"
JAPANESE = "東京の天気は。\n今日は何曜日ですか。\n"
RUSSIAN = "Сколько планет?\nПочему небо синее\n"  # noqa: RUF001
KOREAN = "안녕하세요 세계\n블랙홀이 뭐예요\n"
LETTERS = pytest.mark.parametrize("text", [CHINESE, JAPANESE, RUSSIAN, KOREAN, CHINESE * 400, RUSSIAN * 400])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@LETTERS
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
def test_utf16_without_a_mark_is_known_by_its_line_feeds(text: str, encoding: str) -> None:
    """In Russian every byte of it is UTF-8, too."""
    said = f"p.txt:1: the file is {encoding}, not UTF-8; convert it with `iconv -f {encoding} -t UTF-8`"
    assert complaint("p.txt", text.encode(encoding)) == said


@LETTERS
def test_utf8_in_any_letters_is_read(text: str) -> None:
    assert texts(frozen("p.txt", text)) == text.splitlines()


def test_zero_bytes_in_utf8_are_data() -> None:
    prompts = ["a\0b", "\0", "\0é\0", "ж\0"]
    assert texts(frozen("p.txt", "\n".join(prompts) + "\n")) == prompts


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"), (CHINESE, "gb18030"), (RUSSIAN, "cp1251"), (KOREAN, "cp949")],
)
def test_what_has_few_ascii_letters_is_not_called_latin(text: str, encoding: str) -> None:
    said = complaint("p.txt", text.encode(encoding)).splitlines()[0]
    assert said.startswith("p.txt:1: not UTF-8 (byte 0x")
    assert said.endswith(" of the file); save the file as UTF-8, or convert it with iconv from the encoding it is in")


def test_a_western_letter_here_and_there_is_called_latin() -> None:
    said = complaint("p.txt", "déjà vu\n".encode("cp1252"))
    assert "'é' in Latin-1); save the file as UTF-8, or convert it with `iconv -f WINDOWS-1252 -t UTF-8`" in said
