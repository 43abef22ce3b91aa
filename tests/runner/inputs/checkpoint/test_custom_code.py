"""A model that brings Python of its own runs it only where the user says so, and is told what that means."""

from typing import Any

from rankdeck.runner.inputs.checkpoint import custom_code
from rankdeck.runner.inputs.checkpoint.transformers_names import Names, installed_names

NAMES = installed_names()
CODE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}


def needed(kind: str, code: dict[str, Any]) -> list[str]:
    return custom_code.needed_code({"model_type": kind, "auto_map": code}, NAMES)


def test_a_type_that_transformers_knows_needs_no_code_of_the_models() -> None:
    assert needed("llama", CODE) == needed("phi3", CODE) == []
    assert needed("unheard_of", CODE) == list(CODE.values())
    assert needed("clip", CODE) == ["modeling_x.XForCausalLM"], "a type without a causal language model"
    assert needed("unheard_of", {}) == []
    assert custom_code.needed_code({"model_type": "x", "auto_map": ["no map"]}, NAMES) == []


def test_a_tokenizer_of_its_own_needs_the_code_only_where_transformers_has_none() -> None:
    def of(kind: str, **settings: Any) -> list[str]:
        return custom_code.needed_tokenizer_code(settings, {"model_type": kind}, NAMES)

    pair = ["tokenization_x.XTokenizer", None]
    assert of("unheard_of", auto_map={"AutoTokenizer": pair}, tokenizer_class="XTokenizer") == pair[:1]
    assert of("unheard_of", auto_map=pair) == pair[:1], "as it was written before"
    assert of("unheard_of", auto_map={"AutoTokenizer": pair}, tokenizer_class="PreTrainedTokenizerFast") == []
    assert of("unheard_of", auto_map={"AutoTokenizer": pair}, tokenizer_class="GPT2TokenizerFast") == []
    assert "aria_text" not in NAMES.tokenizers
    assert of("aria_text", auto_map={"AutoTokenizer": pair}, tokenizer_class="XTokenizer") == pair[:1]
    for known in ("gpt2", "internlm3"):  # in the table of tokenizers; among those whose class is passed over
        assert of(known, auto_map={"AutoTokenizer": pair}, tokenizer_class="XTokenizer") == []
    assert of("unheard_of", tokenizer_class="XTokenizer") == []


def test_the_words_name_the_files_what_they_may_do_and_the_flag() -> None:
    said = custom_code.why_not_run(["org/other--modeling_y.Y", "modeling_x.X", "modeling_x.Z"], "x", NAMES)
    assert said == (
        f"custom code: transformers {NAMES.version} has no code for model type 'x', so the model brings "
        "its own Python (modeling_x.py and modeling_y.py of org/other on the hub); it would run on this machine with "
        "all your permissions. Read it; if you trust it, add --trust-remote-code"
    )


def test_where_the_tables_of_transformers_cannot_be_read_no_code_is_asked_for() -> None:
    nothing = Names("?", {}, {}, {}, {}, {}, {}, {})
    config = {"model_type": "unheard_of", "auto_map": CODE}
    assert custom_code.needed_code(config, nothing) == []
    assert custom_code.needed_tokenizer_code({"auto_map": ["t.X", "t.XFast"]}, config, nothing) == []
    assert custom_code.needed_tokenizer_code({"auto_map": ["t.X", "t.XFast"]}, config, NAMES) == ["t.X", "t.XFast"]


def test_only_what_names_a_class_counts() -> None:
    assert custom_code.auto_map({"auto_map": {"AutoConfig": "a.B", "AutoModel": None}}) == {"AutoConfig": "a.B"}
    assert custom_code.auto_map({"auto_map": None}) == custom_code.auto_map({}) == {}
    for pair in ("t.X", {"AutoTokenizer": "t.X"}, {"AutoProcessor": ["t.X"]}):
        assert custom_code.needed_tokenizer_code({"auto_map": pair}, {"model_type": "unheard_of"}, NAMES) == []


def test_code_without_a_causal_model_lists_what_there_is() -> None:
    assert custom_code.why_no_head({"B": "b.B", "AutoModel": "a.A"}) == (
        "not a causal language model: its own Python has AutoModel, B but no AutoModelForCausalLM"
    )


def test_the_file_of_a_class_is_its_module_and_in_another_repository_that_is_said() -> None:
    assert custom_code.file_of("modeling_x.XForCausalLM") == "modeling_x.py"
    assert custom_code.file_of("org/name--modeling_x.X") == "modeling_x.py of org/name on the hub"
