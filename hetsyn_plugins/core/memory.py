"""Memory: what a process has and can still have, and how sizes are said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ADDRESSES = 1 << 47  # bytes that a process can address at all
LARGE = 1 << 28  # bytes from which on somebody asks whether they are there
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
ROOT = Path("/")


def available(root: Path = ROOT) -> int:
    """Bytes that this process can still have: of what there is for all, what its own limit (`ulimit -v`) leaves it."""
    return max(0, min([available_to_all(root), *_of_process(root)]))


def available_to_all(root: Path = ROOT) -> int:
    """Bytes that this process and those it starts can still have together: what the machine and control groups leave.

    What does not say (another system than Linux, a container without its files) does not count. `root` has proc, sys.
    """
    return max(0, min([ADDRESSES, *_of_machine(root), *_of_groups(root)]))


def check_fits(expected: str, size: int) -> None:
    """Raise ValueError where so many bytes are more than there is memory; `expected` is "name: expected X, got Y"."""
    if size > LARGE and size > (free := available()):
        raise ValueError(f"{expected}, which needs {size_text(size)} ({size} bytes) where there are {size_text(free)}")


def of_process(field: str, root: Path = ROOT) -> int | None:
    """Bytes of this process, by Linux's names: VmRSS resident, VmHWM the most of it, VmSize; None on other systems."""
    return next(_numbers(root / "proc/self/status", f"{field}:", 1024), None)


def size_text(size: int) -> str:
    """Bytes for a reader: 23945281536 is 22.3 GiB."""
    unit = min(max(size.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    if size >= 1 << 80:
        return f"more than {1 << 20:,} EiB"
    number = size / (1 << 10 * unit)
    return f"{number:.0f} {UNITS[unit]}" if unit == 0 or number >= 100 else f"{number:.1f} {UNITS[unit]}"


def _of_machine(root: Path) -> Iterator[int]:
    yield from _numbers(root / "proc/meminfo", "MemAvailable:", 1024)


def _of_process(root: Path) -> Iterator[int]:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], of_process("VmSize", root)
    if limit != resource.RLIM_INFINITY and used is not None:
        yield limit - used


def _of_groups(root: Path) -> Iterator[int]:
    """What the control groups that this process is in leave, of either version; pages of files can be given up."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            top, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents[: len(group.relative_to(top).parts)]):  # a limit holds for all below it
            limit, used = (_text(folder / name).strip() for name in files)
            if limit.isdecimal() and used.isdecimal():
                given_up = sum(_numbers(folder / "memory.stat", "inactive_file", 1))
                yield int(limit) - int(used) + given_up


def _numbers(path: Path, label: str, unit: int) -> Iterator[int]:
    """The number behind a label at the start of a line, if there is one."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == label and words[1].isdecimal():
            yield int(words[1]) * unit


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
