"""The TOML file of a run's settings: what its values mean, whatever the working directory."""

from pathlib import Path

import pytest

from rankdeck.tui.commands.common import Settings


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("-", "-"),
        ("p.txt", "{folder}/p.txt"),
        ("sub/p.txt", "{folder}/sub/p.txt"),
        ("/far/p.txt", "/far/p.txt"),
        ("~/p.txt", "{home}/p.txt"),
        ("sub/", "{folder}/sub/"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("name", ["prompts", "output"])
def test_files_that_a_settings_file_names_are_beside_it_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, written: str, meant: str
) -> None:
    home, folder = tmp_path / "home", tmp_path / "settings"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (folder / "run.toml").write_text(f'{name} = "{written}"\n')
    assert Settings({}, folder / "run.toml").values[name] == meant.format(folder=folder, home=home)


def test_a_file_that_is_named_from_here_has_its_prompts_beside_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.toml").write_text('prompts = "p.txt"\n')
    monkeypatch.chdir(tmp_path)
    assert Settings({}, Path("sub/run.toml")).values["prompts"] == str(tmp_path / "sub" / "p.txt")
    assert Settings({"prompts": "q.txt"}, Path("sub/run.toml")).values["prompts"] == "q.txt", "that is from here"
