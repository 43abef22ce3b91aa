"""Quantised models: what they need is named before anything slow, and what can run here does."""

import json

import pytest
import torch
import transformers
from typer.testing import CliRunner

from rankdeck.runner.engine import loading, weights
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.inputs import quantization
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.config import RunConfig, check
from rankdeck.tui.commands import cli
from tests.runner.engine.tiny import ByteTokenizer


def found(quantising: str, model_config: dict | None = None, **versions: str) -> list[str]:
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    problems = quantization.check(quantising, model_config or {}, lambda package: known.get(package.pip))
    return [str(problem) for problem in problems]


def test_a_package_that_is_missing_is_named_with_the_pip_line():
    assert found("bnb-4bit") == ["--quantization: bnb-4bit needs the package bitsandbytes: pip install bitsandbytes"]
    assert found("int8") == ["--quantization: int8 needs the package torchao: pip install torchao"]
    assert found("none") == []


def test_a_package_that_is_too_old_is_named_with_both_versions():
    (said,) = found("bnb-8bit", bitsandbytes="0.45.3.dev0")
    assert said == (
        "--quantization: bnb-8bit needs bitsandbytes 0.46.1 or later, here is 0.45.3.dev0: pip install -U bitsandbytes"
    )
    assert found("bnb-8bit", bitsandbytes="0.46.1") == []
    assert found("bnb-8bit", bitsandbytes="0.100") == []
    assert found("bnb-8bit", bitsandbytes="?") == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"quant_method": "gptq"},
            "gptq, which needs the packages gptqmodel and optimum: pip install gptqmodel optimum",
        ),
        ({"quant_method": "awq"}, "awq, which needs the package gptqmodel: pip install gptqmodel"),
        ({"load_in_4bit": True}, "bitsandbytes, which needs the package bitsandbytes: pip install bitsandbytes"),
        (
            {"quant_method": "compressed-tensors"},
            "needs the package compressed-tensors: pip install compressed-tensors",
        ),
        ({"quant_method": "spqr"}, "needs the package spqr_quant: pip install 'spqr_quant[gpu]'"),
    ],
)
def test_what_a_quantised_checkpoint_needs_is_read_from_its_config(values, said):
    for config in ({"quantization_config": values}, {"text_config": {"quantization_config": values}}):
        (problem,) = found("none", config)
        assert problem.startswith("--model: the model is quantised by ")
        assert problem.endswith(said)


NEEDED = {
    "aqlm": "package aqlm: pip install 'aqlm[gpu,cpu]'",
    "auto-round": "package auto-round: pip install auto-round",
    "awq": "package gptqmodel: pip install gptqmodel",
    "bitsandbytes": "package bitsandbytes: pip install bitsandbytes",
    "compressed-tensors": "package compressed-tensors: pip install compressed-tensors",
    "eetq": "package kernels: pip install kernels",
    "fbgemm_fp8": "package fbgemm-gpu: pip install fbgemm-gpu",
    "fp_quant": "package fp_quant: pip install fp_quant",
    "gptq": "packages gptqmodel and optimum: pip install gptqmodel optimum",
    "higgs": "packages flute-kernel and fast_hadamard_transform: pip install flute-kernel fast_hadamard_transform",
    "hqq": "package hqq: pip install hqq",
    "quanto": "package optimum-quanto: pip install optimum-quanto",
    "quark": "package amd-quark: pip install amd-quark",
    "sinq": "package sinq: pip install sinq",
    "spqr": "package spqr_quant: pip install 'spqr_quant[gpu]'",
    "torchao": "package torchao: pip install torchao",
    "vptq": "package vptq: pip install vptq",
}
LEAST = {"bitsandbytes": "0.46.1", "torchao": "0.15.0", "auto-round": "0.5.0", "hqq": "0.2.1"}


@pytest.mark.parametrize("method", sorted(quantization.OF_CHECKPOINTS))
def test_each_method_names_its_packages_and_the_oldest_that_will_do(method):
    config = {"quantization_config": {"quant_method": method}}
    assert found("none", config) == [f"--model: the model is quantised by {method}, which needs the {NEEDED[method]}"]
    packages = quantization.OF_CHECKPOINTS[method]

    def at(version):
        said = quantization.check("none", config, lambda package: version)
        return [str(problem) for problem in said]

    assert at("9999") == at("?") == []
    assert at("0.0.0") == [
        f"--model: the model is quantised by {method}, which needs {package.pip} {LEAST[package.pip]} or later, "
        f"here is 0.0.0: pip install -U {package.pip}"
        for package in packages
        if package.pip in LEAST
    ]
    for package in packages:
        assert quantization.check("none", config, lambda one, package=package: LEAST.get(package.pip, "0")) == []


def test_of_two_packages_only_the_missing_one_is_asked_for_and_both_faults_are_said():
    config = {"quantization_config": {"quant_method": "gptq"}}
    (said,) = found("none", config, optimum="1.0")
    assert said.endswith("needs the package optimum: pip install optimum".replace("optimum", "gptqmodel"))
    both = found("bnb-4bit", config, gptqmodel="1.0", optimum="1.0")
    assert both == ["--quantization: the model is quantised already, by gptq; leave it out"]
    assert len(found("bnb-4bit", config)) == 2


def test_the_outer_config_says_first_how_a_model_is_quantised():
    inner = {"text_config": {"quantization_config": {"quant_method": "inner"}}}
    assert quantization.quantised_by(inner) == "inner"
    assert quantization.quantised_by({**inner, "quantization_config": {"quant_method": "outer"}}) == "outer"
    assert quantization.quantised_by({**inner, "quantization_config": "none"}) == "inner"
    assert quantization.quantised_by({"quantization_config": {"load_in_8bit": True}}) == "bitsandbytes"
    assert quantization.quantised_by({"quantization_config": {"load_in_8bit": False}}) is None
    assert quantization.quantised_by({"quantization_config": {"quant_method": 5}}) == "5"
    assert quantization.quantised_by({"text_config": []}) is quantization.quantised_by({}) is None


def test_what_is_installed_is_looked_up_without_importing_it(monkeypatch):
    def installed(module, pip):
        return quantization.installed(quantization.Package(module, pip))

    assert installed("torch", "torch") == quantization.metadata.version("torch")
    assert installed("torch", "torch[opt]") == quantization.metadata.version("torch"), "extras are no part of its name"
    assert installed("json", "no-such-distribution") == "?"
    assert installed("no_such_module", "torch") is None
    assert installed("no_such_package.part", "torch") is None


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("0.46.1.dev0+cu128", (0, 46, 1)), ("1", (1,)), ("2.0rc1", (2, 0)), ("?", ()), ("", ()), ("v1.0", ())],
)
def test_versions_are_compared_by_their_leading_numbers(version, numbers):
    assert quantization.numbers(version) == numbers


def test_a_checkpoint_that_needs_nothing_or_what_nobody_knows_yet_is_left_to_transformers():
    assert found("none", {"quantization_config": {"quant_method": "fp8"}}) == []
    assert found("none", {"quantization_config": {"quant_method": "of tomorrow"}}) == []


def test_a_folder_without_a_config_that_can_be_read_is_left_to_others_to_refuse(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    for folder in (tmp_path, tmp_path / "nowhere", "~nobody-of-this-name/model", "org/name\0"):
        assert quantization.read_model_config(str(folder)) == {}


def test_a_quantised_checkpoint_is_not_quantised_again():
    config = {"quantization_config": {"quant_method": "hqq"}}
    (said,) = found("int8", config, hqq="1.0")
    assert said == "--quantization: the model is quantised already, by hqq; leave it out"


def test_every_way_to_quantise_has_its_package():
    literal = RunConfig.__annotations__["quantization"]
    assert {*quantization.ON_LOADING, "none"} == set(literal.__args__)


def test_an_attention_that_is_a_package_of_its_own_is_asked_for_only_where_it_is():
    def said(attention, *there):
        versions = dict.fromkeys(there, "1.0")
        return [
            str(problem) for problem in quantization.check_attention(attention, lambda one: versions.get(one.module))
        ]

    assert said("sdpa") == said("auto") == []
    assert said("flash_attention_2") == [
        "--attention: flash_attention_2 needs a package of its own: pip install flash-attn --no-build-isolation"
    ]
    assert said("flash_attention_2", "flash_attn") == said("flash_attention_3", "kernels") == []
    assert said("flash_attention_2", "kernels") == said("flash_attention_3", "flash_attn_interface") == []
    assert said("flash_attention_3", "flash_attn") == [
        "--attention: flash_attention_3 needs a package of its own: pip install kernels"
    ]
    on_cpu = check(RunConfig(prompts="p", device="cpu", attention="flash_attention_3"))
    assert [str(problem) for problem in on_cpu] == ["--attention: flash_attention_3 needs an NVIDIA GPU; use sdpa"]
    assert check(RunConfig(prompts="p", decoding="generate", engine="continuous"))[0].setting == "decoding"


def test_the_command_refuses_a_folder_whose_packages_are_missing(tmp_path, state_home, monkeypatch):
    monkeypatch.setattr(quantization, "installed", lambda package: None)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    (tmp_path / "p.txt").write_text("hello\n")
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "p.txt"), "--model", str(folder)])
    assert result.exit_code == 2
    assert "--model: the model is quantised by gptq, which needs the packages gptqmodel and optimum" in result.stderr
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "p.txt"), "--quantization", "int3"])
    assert "--quantization: must be one of none, bnb-8bit, bnb-4bit, int8, not 'int3'" in result.stderr
    assert not list(state_home.glob("**/run.json"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny model of random weights on disk; its tokenizer is one token per byte."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, pad_token_id=0, bos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: ByteTokenizer())
    return str(tmp_path / "tiny")


def load(folder: str, quantising: str):
    config = RunConfig(prompts="p", quantization=quantising, max_new_tokens=4, ignore_eos=True)
    loaded = loading.load(config, folder, torch.device("cpu"))
    return StaticEngine(loaded.model, loaded.tokenizer, config, loaded.device)


def test_a_model_that_is_not_quantised_says_its_dtype_alone(folder):
    engine = load(folder, "none")
    facts = engine.describe()
    assert facts["dtype"] == "float32"
    assert facts["parameter_bytes"] == 4 * facts["parameters"]


@pytest.mark.parametrize(("quantising", "package"), [("int8", "torchao"), ("bnb-8bit", "bitsandbytes"),
                                                     ("bnb-4bit", "bitsandbytes")])  # fmt: skip
def test_a_model_quantised_on_loading_answers_and_takes_less_memory(folder, quantising, package):
    pytest.importorskip(package)
    plain, engine = load(folder, "none").describe(), load(folder, quantising)
    facts = engine.describe()
    assert facts["dtype"] == f"float32 {quantising}"
    assert facts["parameters"] == plain["parameters"]
    assert facts["parameter_bytes"] < 0.7 * plain["parameter_bytes"]
    engine.warm_up()
    done = engine.generate([Prompt(index=0, id="0", text="ab"), Prompt(index=1, id="1", text="a longer one")])
    assert [record.output_tokens for record in done.records] == [4, 4]


def test_a_quantised_parameter_counts_what_is_stored():
    class Packed:
        def __tensor_flatten__(self):
            return ["values", "scale"], None

        values, scale = torch.zeros(10, dtype=torch.int8), torch.zeros(2)

    assert weights.stored_bytes(Packed()) == 10 + 8
    assert weights.stored_bytes(torch.zeros(10)) == 40
