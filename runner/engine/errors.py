"""What an error means for a rank: too little memory, a GPU that this process has lost, or only a failed batch.

Knows the wordings of torch, CUDA and its libraries, Triton and the operating system, and looks through errors that wrap
others. Knows no torch: an error is judged by its types' names and its text.
"""

from collections.abc import Iterator

OUT_OF_MEMORY = (
    "out of memory",  # torch on any device, "CUDA error: ...", "CUDA driver error: ...", "Triton Error [CUDA]: ..."
    "out_of_memory",  # CUDA_ERROR_OUT_OF_MEMORY
    "cudaerrormemoryallocation",
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSPARSE, cuSOLVER
    "cufft_alloc_failed",
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "cublas_status_not_initialized when calling `cublascreate",  # its handle did not fit; it says nothing more
    "cudnn_status_not_initialized",
    "nvml_success == r internal assert failed",  # torch could not ask how much is free, as it reported that it ran out
    "can't allocate memory",  # DefaultCPUAllocator
    "cannot allocate memory",  # the operating system
    "not enough memory",
    "std::bad_alloc",
)
"""Parts of texts, in lower case, that mean too little memory. A kernel that wants more shared memory than the GPU has
("out of resource: shared memory") is not among them: fewer rows would not help."""

CONTEXT_LOST = (
    "illegal memory access",
    "an illegal instruction",
    "device-side assert",
    "misaligned address",
    "invalid address space",
    "invalid program counter",
    "hardware stack error",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "gpu is lost",
    "context is destroyed",
    "handles_.at(i) internal assert failed",  # torch's expandable segments after a mapping that failed half-way
)
"""Parts of texts, in lower case, after which nothing that this process does on the GPU succeeds any more (CUDA Runtime
API, cudaError: "the process must be terminated and relaunched"). Who passes them on makes no difference: torch, the
driver, Triton or cuDNN. After any other text the device itself is asked (`runner.engine.memory`)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device (the host, for a CPU rank) ran out of memory."""
    return any(
        isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError" or _says(one, OUT_OF_MEMORY)
        for one in chain(error)
    )


def is_context_lost(error: BaseException) -> bool:
    """Whether the text alone says that this process can no longer use its GPU."""
    return any(_says(one, CONTEXT_LOST) for one in chain(error))


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of `error` and of those that it wraps: their frames hold the tensors of a batch."""
    for one in chain(error):
        one.__traceback__ = None


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, the errors that it groups, and those in its `__cause__` and `__context__` chains."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        others = [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
        waiting += [other for other in others if other is not None]


def in_one_line(error: BaseException) -> str:
    """Type and first line: torch adds advice for debugging, and native stack traces."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _says(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in signs)
