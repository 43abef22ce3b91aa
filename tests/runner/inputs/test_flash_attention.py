"""Which flash attention a GPU can have with the packages that are here, and what is missing where it has none."""

import pytest
from transformers import modeling_flash_attention_utils

from rankdeck.runner.inputs.flash_attention import CURE, KERNELS, FlashFound, choices, missing, source

WITH_KERNELS = FlashFound(kernels="0.18.2", kernels_wanted=">=0.18.2,<0.19", kernels_fit=True)
AMPERE, ADA, HOPPER, BLACKWELL = (8, 0), (8, 9), (9, 0), (12, 0)
BOTH = ("flash_attention_3", "flash_attention_2")


@pytest.mark.parametrize(
    ("found", "capability", "names"),
    [
        (WITH_KERNELS, (7, 5), ()),
        (WITH_KERNELS, AMPERE, ("flash_attention_2",)),
        (WITH_KERNELS, ADA, ("flash_attention_2",)),
        (WITH_KERNELS, HOPPER, BOTH),
        (WITH_KERNELS, BLACKWELL, ("flash_attention_2",)),
        (FlashFound(flash_attn="2.8.3"), HOPPER, ("flash_attention_2",)),
        (FlashFound(flash_attn_3="3.0"), HOPPER, ("flash_attention_3",)),
        (FlashFound(flash_attn_3="3.0"), BLACKWELL, ()),
        (FlashFound(flash_attn="2.8.3", flash_attn_3="3.0"), HOPPER, BOTH),
        (FlashFound(), HOPPER, ()),
    ],
)
def test_version_3_is_for_hopper_and_version_2_for_every_gpu_from_ampere_on(found, capability, names):
    assert choices(found, capability) == names


def test_a_kernels_that_transformers_does_not_take_brings_none():
    other = FlashFound(kernels="0.17.2", kernels_wanted=">=0.18.2,<0.19")
    assert choices(other, HOPPER) == ()
    assert missing(other) == (
        "kernels 0.17.2 is installed, and this transformers takes >=0.18.2,<0.19",
        "pip install 'kernels>=0.18.2,<0.19'",
    )


def test_offline_only_a_kernel_that_is_in_the_cache_is_asked_for():
    def offline(*cached: str) -> FlashFound:
        return FlashFound(kernels="0.18.2", kernels_fit=True, offline=True, cached=cached)

    assert choices(offline(), HOPPER) == ()
    assert choices(offline("flash_attention_2"), HOPPER) == ("flash_attention_2",)
    assert choices(offline(*BOTH), HOPPER) == BOTH
    what, cure = missing(offline())
    assert what == "its kernel is not in the hub's cache, and HF_HUB_OFFLINE is set"
    assert cure.startswith("unset HF_HUB_OFFLINE")


def test_where_nothing_is_installed_the_cure_is_the_extra():
    assert missing(FlashFound()) == ("flash-attn and kernels are not installed", CURE)


def test_where_it_comes_from_is_said_in_words():
    assert source(FlashFound(flash_attn="2.8.3"), "flash_attention_2") == "flash_attention_2 by flash-attn 2.8.3"
    assert source(FlashFound(flash_attn_3="3.0"), "flash_attention_3") == "flash_attention_3 by flash-attn-3 3.0"
    kernel = "flash_attention_2 by kernels 0.18.2, its kernel is "
    assert source(WITH_KERNELS, "flash_attention_2") == f"{kernel}fetched from the hub when it is first wanted"
    cached = FlashFound(kernels="0.18.2", kernels_fit=True, cached=("flash_attention_2",))
    assert source(cached, "flash_attention_2") == f"{kernel}in the hub's cache"


def test_the_kernels_are_those_that_this_transformers_fetches():
    fetched = modeling_flash_attention_utils.FLASH_ATTN_KERNEL_FALLBACK
    assert {name: fetched[name] for name in KERNELS} == KERNELS
