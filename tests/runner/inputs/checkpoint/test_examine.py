"""Everything that is wrong with a model's folder is said at once; what works is let through."""

import json
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner.inputs.checkpoint import examine as module
from rankdeck.runner.inputs.checkpoint.examine import Findings, examine
from tests import checkpoints
from tests.checkpoints import POINTER

CODE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.whole(tmp_path / "model")


def problem(folder: Path, **settings: Any) -> str:
    (said,) = examine(folder, **settings).problems
    return said


def test_a_whole_model_has_nothing_wrong_with_it(folder: Path) -> None:
    assert examine(folder) == Findings()


def test_a_model_that_transformers_saved_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    import tokenizers
    import transformers

    config = transformers.GPT2Config(vocab_size=8, n_embd=4, n_layer=2, n_head=2, eos_token_id=7, bos_token_id=7)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path, max_shard_size=1000)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(checkpoints.VOCABULARY, unk_token="a"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="h")
    made.chat_template = "{{ messages }}"
    made.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert examine(tmp_path, chat=True) == Findings()


def test_independent_faults_are_said_together(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").write_text("{")
    said = examine(folder).problems
    assert len(said) == 3
    assert [part in whole for part, whole in zip(("safetensors", "tokenizer", "generation_config"), said, strict=True)]
    assert said[0].startswith(f"{folder / 'model.safetensors'} ")
    assert said[1].startswith(f"{folder} has no tokenizer")
    assert said[2].startswith(f"{folder / 'generation_config.json'}:1:2 is not valid JSON")


def test_of_another_kind_of_model_nothing_else_is_said(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])
    (folder / "model.safetensors").unlink()
    assert problem(folder).startswith(f"{folder}: not a causal language model: T5ForConditionalGeneration is an enc")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_git_lfs_pointer_is_told_and_nothing_that_follows_from_it(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    assert problem(folder) == f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull` in {folder}"


def test_all_pointers_are_named_together_shards_and_indices_too(folder: Path) -> None:
    first, second = checkpoints.sharded(folder)
    for path in (first, second, folder / "tokenizer.json"):
        path.write_bytes(POINTER)
    assert problem(folder).startswith(f"{first.name}, {second.name}, tokenizer.json are Git LFS pointers")
    (folder / "model.safetensors.index.json").write_bytes(POINTER)
    assert problem(folder).startswith("model.safetensors.index.json, tokenizer.json are Git LFS pointers")


@pytest.mark.parametrize("content", ["[]", "{", "", '{"architectures": []}'])
def test_a_config_that_says_nothing_is_told(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in problem(folder)


def test_a_sentence_model_is_told_by_its_modules(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer"}]))
    assert "LlamaForCausalLM is a sentence-transformers model" in problem(folder)


# --- code of its own ----------------------------------------------------------------------------


def test_code_of_its_own_is_refused_until_it_is_trusted_and_then_left_to_judge_the_weights(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type="unheard_of", architectures=["XModel"], auto_map=CODE)
    said = problem(folder)
    assert said.startswith(f"{folder}: custom code: transformers ")
    assert "(configuration_x.py and modeling_x.py); it would run on this machine with all your permissions" in said
    assert said.endswith("--trust-remote-code")
    assert "names configuration_x.py, modeling_x.py, which is not there" in problem(folder, trust_remote_code=True)
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).touch()
    checkpoints.safetensors(folder / "model.safetensors", {"anything": [2]})
    assert examine(folder, trust_remote_code=True) == Findings()


def test_code_that_is_in_another_repository_is_not_missed_in_the_folder(folder: Path) -> None:
    there = {name: f"org/other--{place}" for name, place in CODE.items()}
    checkpoints.change(folder / "config.json", model_type="unheard_of", auto_map=there)
    assert examine(folder, trust_remote_code=True) == Findings()
    there["AutoConfig"] = CODE["AutoConfig"]
    checkpoints.change(folder / "config.json", auto_map=there)
    assert "names configuration_x.py, which is not there" in problem(folder, trust_remote_code=True)


def test_code_that_transformers_has_itself_needs_no_trust(folder: Path) -> None:
    checkpoints.change(folder / "config.json", auto_map=CODE)
    assert examine(folder) == Findings()


def test_weights_are_judged_unless_code_that_is_trusted_loads_them(folder: Path) -> None:
    checkpoints.change(folder / "config.json", auto_map=CODE)
    checkpoints.safetensors(folder / "model.safetensors", {"score.weight": [2]})
    assert "the weights have no lm_head" in problem(folder)
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).touch()
    assert examine(folder, trust_remote_code=True) == Findings()
    checkpoints.change(folder / "config.json", auto_map={"AutoConfig": CODE["AutoConfig"]})
    assert "the weights have no lm_head" in problem(folder, trust_remote_code=True), "it brings no model"


def test_a_tokenizer_that_is_trusted_may_bring_its_own_chat_template(folder: Path) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": {"AutoTokenizer": ["t.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "no chat template" in problem(folder, chat=True)
    assert examine(folder, chat=True, trust_remote_code=True) == Findings()


def test_code_without_a_causal_model_is_refused_whoever_trusts_it(folder: Path) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
    checkpoints.change(folder / "config.json", model_type="unheard_of", auto_map=code)
    for trusted in (False, True):
        said = problem(folder, trust_remote_code=trusted)
        assert "its own Python has AutoConfig, AutoModel but no AutoModelForCausalLM" in said


def test_a_tokenizer_with_code_of_its_own_is_refused_until_it_is_trusted(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type="aria_text", architectures=["AriaTextForCausalLM"])
    settings = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").unlink()
    said = problem(folder)
    assert said.startswith(f"{folder}: its tokenizer is custom code")
    assert "(tokenization_x.py)" in said
    assert examine(folder, trust_remote_code=True) == Findings()


# --- adapters, chat, tokens ---------------------------------------------------------------------


def test_an_adapter_beside_the_weights_is_not_left_out_in_silence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert examine(folder) == Findings(), "without the adapter's weights there is none"
    (folder / "adapter_model.safetensors").touch()
    monkeypatch.setattr(module, "installed", lambda package: None)
    assert "there is an adapter (adapter_config.json) beside the weights, which would be left out" in problem(folder)
    monkeypatch.setattr(module, "installed", lambda package: "0.17")
    assert examine(folder) == Findings(), "transformers adds it"
    (folder / "model.safetensors").unlink()
    assert "is an adapter (PEFT) of a model that it does not name" in problem(folder)


def test_a_chat_template_is_asked_for_only_where_it_is_used(folder: Path) -> None:
    assert examine(folder, chat=False) == Findings()
    assert problem(folder, chat=True).startswith(f"{folder}: the model has no chat template")


def test_tokens_beyond_the_embedding_are_noted_and_forced_ones_refused(folder: Path) -> None:
    checkpoints.tokenizer(folder, checkpoints.VOCABULARY, {"<pad>": 8})
    checkpoints.change(folder / "generation_config.json", eos_token_id=[7, 8])
    notes = examine(folder).notes
    assert "('<pad>')" in notes[0]
    said = "eos_token_id 8 is beyond the model's tokens, 0 to 7: no answer ends with it"
    assert notes[1] == f"{folder / 'generation_config.json'}: {said}"
    checkpoints.change(folder / "generation_config.json", eos_token_id=7, forced_eos_token_id=8)
    said = "forced_eos_token_id 8 is beyond the model's tokens, 0 to 7; correct or remove it"
    assert problem(folder) == f"{folder / 'generation_config.json'}: {said}"
    checkpoints.change(folder / "config.json", forced_bos_token_id=9)
    assert len(examine(folder).problems) == 2


def test_the_generation_config_goes_before_the_config(folder: Path) -> None:
    checkpoints.change(folder / "config.json", eos_token_id=99)
    assert examine(folder).notes == ()
    (folder / "generation_config.json").unlink()
    assert f"{folder / 'config.json'}: eos_token_id 99" in examine(folder).notes[0]


def test_the_vocabulary_of_a_model_with_parts_is_that_of_its_text() -> None:
    assert module.vocabulary_of({"vocab_size": 5, "text_config": {"vocab_size": 7}}) == 7
    assert module.vocabulary_of({"vocab_size": 5, "text_config": {}}) == 5
    for nothing in ("5", True, 0, -1, None, 5.0):
        assert module.vocabulary_of({"vocab_size": nothing}) is None
        assert module.vocabulary_of({"vocab_size": 5, "text_config": {"vocab_size": nothing}}) == 5
    assert module.vocabulary_of({"vocab_size": 5, "text_config": "none"}) == 5
    assert module.vocabulary_of({}) is None


def test_weights_that_are_still_to_come_are_not_missed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert examine(folder, weights_may_come=True) == Findings()
    assert "has no weights" in problem(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert "is not a safetensors file" in problem(folder, weights_may_come=True)


@pytest.mark.parametrize(
    ("file", "setting", "value", "said"),
    [
        ("generation_config.json", "eos_token_id", "2", "eos_token_id must be a whole number, not '2'"),
        ("generation_config.json", "eos_token_id", [1, "2"], "must be a whole number, not [1, '2']"),
        ("generation_config.json", "repetition_penalty", "1.1", "repetition_penalty must be a number, not '1.1'"),
        ("config.json", "hidden_size", "32", "hidden_size must be a whole number, not '32'"),
        ("config.json", "pad_token_id", True, "pad_token_id must be a whole number, not True"),
        (
            "config.json",
            "dtype",
            "float99",
            "dtype must be one that torch has, such as float32 or bfloat16, not 'float99'",
        ),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_its_file(folder: Path, file, setting, value, said) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, setting: value}))
    assert any(line.startswith(f"{path}: ") and said in line for line in examine(folder).problems)


def test_values_of_the_right_kind_are_let_through(folder: Path) -> None:
    good = {"eos_token_id": [1, 2], "pad_token_id": None, "temperature": 1, "top_p": 0.9, "dtype": "torch.bfloat16"}
    path = folder / "generation_config.json"
    path.write_text(json.dumps(good))
    assert not [line for line in examine(folder).problems if "must be" in line]


def test_of_a_folder_that_is_no_model_only_that_is_said(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    assert problem(folder).startswith(f"{folder} has no config.json")


def test_a_broken_tokenizer_is_told_by_its_file_and_place_once(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert problem(folder).startswith(f"{folder / 'tokenizer.json'}:1:2 is not valid JSON")
    checkpoints.whole(folder)
    (folder / "tokenizer_config.json").write_text("{")
    assert problem(folder).startswith(f"{folder / 'tokenizer_config.json'}:1:2 is not valid JSON")


def test_a_sentence_model_needs_the_modules_of_sentence_transformers(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    assert examine(folder) == Findings()
    (folder / "modules.json").unlink()
    (folder / "modules.json").symlink_to("nowhere")
    assert examine(folder) == Findings()


def test_every_token_that_is_forced_and_the_end_are_looked_at_where_they_are_said(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"forced_bos_token_id": [3, 8], "eos_token_id": None}))
    checkpoints.change(folder / "config.json", forced_eos_token_id=9, eos_token_id=99)
    assert examine(folder).problems == (
        f"{path}: forced_bos_token_id 8 is beyond the model's tokens, 0 to 7; correct or remove it",
        f"{folder / 'config.json'}: forced_eos_token_id 9 is beyond the model's tokens, 0 to 7; correct or remove it",
    )
    assert examine(folder).notes == (), "what the generation config takes out is out"


def test_weights_are_awaited_only_where_some_of_them_are_not_there(folder: Path) -> None:
    first, second = checkpoints.sharded(folder)
    second.unlink()
    assert examine(folder, weights_may_come=True) == Findings()
    assert "is not there" in problem(folder)
    first.write_bytes(b"cut")
    assert examine(folder, weights_may_come=True) == Findings(), "they are fetched once more"
    second.write_bytes(b"cut")
    assert len(examine(folder, weights_may_come=True).problems) == 2
