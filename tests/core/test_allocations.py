"""Allocations that fail for real, under a limit of the process, and what is said of them; other errors pass."""

import subprocess
import sys

import pytest

from hetsyn_plugins.core.allocations import OutOfMemory, asked_for, told

LIMITED = """
import resource, numpy, torch
from hetsyn_plugins.core.allocations import told
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
with told("training step", lambda: "less of x needs less"):
    {}
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits hold on Linux")
@pytest.mark.parametrize(
    ("allocation", "asked"),
    [
        ("numpy.ones(1 << 30)", "8.00 GiB more memory"),
        ("torch.zeros(1 << 31)", "8.0 GiB more memory"),
        ("bytearray(8 << 30)", "more memory"),
    ],
)
def test_a_failed_allocation_says_how_much_and_for_what(allocation: str, asked: str) -> None:
    words = [sys.executable, "-c", LIMITED.format(allocation)]
    last = subprocess.run(words, capture_output=True, text=True).stderr.splitlines()[-1]
    expected = f"training step: expected {asked}, got none; less of x needs less"
    assert last == f"hetsyn_plugins.core.allocations.OutOfMemory: {expected}"


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "2.50 GiB more memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
                      "which 1.19 GiB is free. Process 7 has 77.92 GiB memory in use. Of the allocated memory "
                      "76.50 GiB is allocated by PyTorch, and 12.00 MiB is reserved by PyTorch but unallocated."),
         "20.00 GiB more memory on GPU 0, of whose 79.11 GiB 1.19 GiB is free and 76.50 GiB is this process's"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "more memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "more memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "more memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("you tried to allocate 4000000000 bytes. Error code 12"), "3.7 GiB more memory"),
        (RuntimeError("Caught _ArrayMemoryError in DataLoader worker process 0.\nUnable to allocate 961. MiB for"),
         "961 MiB more memory"),
        (MemoryError("std::bad_alloc"), "more memory"),
        (RuntimeError("can't start new thread"), "more memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "more memory"),
        (OSError(12, "Cannot allocate memory"), "more memory"),
        (OSError(28, "No space left on device"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)  # fmt: skip
def test_errors_of_memory_are_told_from_others(error: Exception, asked: str | None) -> None:
    assert asked_for(error) == asked
    if asked is None:
        with pytest.raises(type(error)) as raised, told("a", str):
            raise error
        assert raised.value is error


def test_the_innermost_says_it() -> None:
    with pytest.raises(OutOfMemory, match=r"^validation: expected more memory, got none; b$"):
        with told("all", lambda: "a"), told("validation", lambda: "b"):
            raise MemoryError
