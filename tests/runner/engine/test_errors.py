"""Errors by their wording: which mean too little memory, which a GPU that is lost, and what is freed after one."""

import gc
import weakref

import pytest
import torch

from rankdeck.runner.engine import errors

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":830'),
    RuntimeError("cudaErrorMemoryAllocation: out of memory"),
    RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("unable to mmap 4096 bytes from file </model.safetensors>: Cannot allocate memory (12)"),
    OSError(12, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]

NOT_OUT_OF_MEMORY = [
    ValueError("other"),
    # Triton's OutOfResources: a kernel that this GPU cannot run, however few rows there are.
    RuntimeError("out of resource: shared memory, Required: 264192, Hardware limit: 232448. Reducing block sizes"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx(handle)`"),
    KeyError("memory"),
]

CONTEXT_LOST = [
    "CUDA error: an illegal memory access was encountered",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "CUDA driver error: an illegal instruction was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: misaligned address",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "Unable to determine the device handle for GPU0: GPU is lost. Reboot the system to recover this GPU",
    '!handles_.at(i) INTERNAL ASSERT FAILED at "c10/cuda/CUDACachingAllocator.cpp":487',
]

ASK_THE_DEVICE = [
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA driver error: invalid argument",
    "CUDA error: invalid configuration argument",
    "CUDA error: unknown error",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "Triton Error [CUDA]: device kernel image is invalid",
    "shape '[2, 3]' is invalid for input of size 5",
]


def texts(found: list[BaseException]) -> list[str]:
    return [f"{type(error).__name__} {error}"[:60] for error in found]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=texts(OUT_OF_MEMORY))
def test_too_little_memory_is_known_in_every_wording(error):
    assert errors.is_out_of_memory(error)


@pytest.mark.parametrize("error", NOT_OUT_OF_MEMORY, ids=texts(NOT_OUT_OF_MEMORY))
def test_what_only_sounds_like_it_is_not_too_little_memory(error):
    assert not errors.is_out_of_memory(error)


@pytest.mark.parametrize("text", CONTEXT_LOST)
def test_a_destroyed_context_is_known_by_its_text_whoever_passes_it_on(text):
    assert errors.is_context_lost(RuntimeError(text))
    assert not errors.is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("text", ASK_THE_DEVICE)
def test_other_texts_do_not_say_whether_the_context_is_lost(text):
    assert not errors.is_context_lost(RuntimeError(text))


def wrapped(inner: Exception, outer: Exception, *, named: bool) -> Exception:
    try:
        try:
            raise inner
        except Exception:
            if named:
                raise outer from inner
            raise outer  # noqa: B904  (what is meant here)
    except Exception as error:
        return error


@pytest.mark.parametrize("named", [True, False], ids=["as its cause", "while it was handled"])
def test_an_error_wrapped_in_another_counts(named):
    memory = wrapped(RuntimeError("CUDA driver error: out of memory"), ValueError("step failed"), named=named)
    lost = wrapped(RuntimeError("CUDA error: misaligned address"), ValueError("step failed"), named=named)
    assert errors.is_out_of_memory(memory)
    assert errors.is_context_lost(lost)
    assert errors.is_out_of_memory(ExceptionGroup("two failed", [ValueError("other"), memory]))


def test_errors_that_wrap_each_other_in_a_circle_are_walked_once():
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert list(errors.chain(one)) == [one, other]


class Batch:
    """Stands for a tensor: takes weak references."""


def run_out(batch: Batch) -> None:
    raise RuntimeError("CUDA out of memory", bool(batch))


def fail(batch: Batch, *, named: bool) -> None:
    try:
        run_out(batch)
    except RuntimeError as inner:
        if named:
            raise ValueError("step failed") from inner
        raise ValueError("step failed")  # noqa: B904


@pytest.mark.parametrize("named", [True, False], ids=["as its cause", "while it was handled"])
def test_what_the_frames_of_an_error_and_of_those_it_wraps_hold_is_freed(named):
    batch = Batch()
    alive = weakref.ref(batch)
    try:
        fail(batch, named=named)
    except ValueError as error:
        kept = error
    del batch
    assert alive() is not None, "frames hold it"
    kept.__traceback__ = None
    gc.collect()
    assert alive() is not None, "frames of the inner error do, too"
    errors.forget_frames(kept)
    gc.collect()
    assert alive() is None


def test_an_error_in_one_line_leaves_out_torchs_advice():
    long = RuntimeError("CUDA error: misaligned address\nCUDA kernel errors might be asynchronously reported\n")
    assert errors.in_one_line(long) == "RuntimeError: CUDA error: misaligned address"
    assert errors.in_one_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("sign", errors.OUT_OF_MEMORY)
def test_each_sign_of_too_little_memory_is_one_by_itself_in_any_case(sign):
    assert errors.is_out_of_memory(RuntimeError(f"before {sign.upper()} after"))
    assert not errors.is_context_lost(RuntimeError(sign))


def test_an_error_of_torchs_type_for_it_needs_no_words():
    assert errors.is_out_of_memory(torch.OutOfMemoryError("?"))
    assert errors.is_out_of_memory(RuntimeError("cudaErrorMemoryAllocation"))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: operation not supported on global/shared address space\nCUDA error: invalid address space",
        "CUDA error: invalid program counter",
        "CUDA error: hardware stack error",
        "CUDA error: uncorrectable NVLink error detected during the execution",
        "CUDA driver error: context is destroyed",
    ],
)
def test_other_texts_after_which_a_context_is_destroyed(text):
    assert errors.is_context_lost(RuntimeError(text))
    assert not errors.is_out_of_memory(RuntimeError(text))


def test_all_that_an_error_wraps_is_walked_its_cause_first_and_then_what_it_groups():
    inner, cause, context = ValueError("inner"), ValueError("cause"), ValueError("context")
    group = ExceptionGroup("group", [inner])
    group.__cause__, group.__context__ = cause, context
    assert {str(one) for one in errors.chain(group)} == {"group (1 sub-exception)", "inner", "cause", "context"}
    assert next(errors.chain(group)) is group
    try:
        raise inner
    except ValueError:
        errors.forget_frames(group)
    assert inner.__traceback__ is None


def test_empty_lines_before_the_first_words_of_an_error_are_left_out():
    assert errors.in_one_line(ValueError("\n  two words \nmore")) == "ValueError: two words "
    assert errors.in_one_line(ValueError(" \n ")) == "ValueError"
