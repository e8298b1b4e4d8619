"""What memory there still is: of the machine, of control groups of both versions, of a limit of the process."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hetsyn_plugins.core.memory import ADDRESSES, available, available_to_all, size_text

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads proc")


def tree(root: Path, **files: object) -> Path:
    """Files of a system: "a__b" is a/b."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


MEMINFO = {"proc__meminfo": "MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 8000 kB"}
V1 = {"proc__self__cgroup": "9:name=systemd:/\n4:cpu,memory:/jobs/one\n0::/"}
V2 = {"proc__self__cgroup": "0::/jobs/one"}
ONE = "sys__fs__cgroup__jobs__one__memory"
JOBS = "sys__fs__cgroup__jobs__memory"
OLD = "sys__fs__cgroup__memory__jobs__one__memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ADDRESSES),
        (MEMINFO, 8000 * 1024),
        ({**MEMINFO, **V2}, 8000 * 1024),
        ({**MEMINFO, **V2, f"{ONE}-max": 5000, f"{ONE}-current": 2000}, 3000),
        ({**MEMINFO, **V2, f"{ONE}-max": 5000, f"{ONE}-current": 2000, f"{ONE}-stat": "inactive_file 500"}, 3500),
        ({**MEMINFO, **V2, f"{ONE}-max": 5000, f"{ONE}-current": 2000, f"{ONE}-stat": "inactive_file"}, 3000),
        ({**MEMINFO, **V2, f"{ONE}-max": "max", f"{ONE}-current": 2000}, 8000 * 1024),
        ({**MEMINFO, **V2, f"{JOBS}-max": 4000, f"{JOBS}-current": 100, f"{ONE}-max": "max"}, 3900),
        ({**MEMINFO, **V2, f"{ONE}-max": 5000, f"{ONE}-current": 6000}, 0),
        ({**MEMINFO, **V1, f"{OLD}-limit_in_bytes": 700, f"{OLD}-usage_in_bytes": 100}, 600),
        ({**MEMINFO, **V1, f"{OLD}-limit_in_bytes": 1 << 63, f"{OLD}-usage_in_bytes": 100}, 8000 * 1024),
        ({**V2, "sys__fs__cgroup__memory-max": 900, "sys__fs__cgroup__memory-current": 100}, 800),
        ({"proc__meminfo": "MemAvailable: much"}, ADDRESSES),
    ],
)
def test_the_least_that_is_known_counts(files: dict[str, object], expected: int, tmp_path: Path) -> None:
    assert available_to_all(tree(tmp_path, **files)) == expected


@LINUX
def test_a_limit_of_the_process_counts_less_what_it_has() -> None:
    limit = 3 << 30
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
    code += "from hetsyn_plugins.core.memory import available; print(available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert limit - (1 << 30) < int(done.stdout) < limit
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "a test under a limit tells nothing"
    assert int(done.stdout) < available()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (23945281536, "22.3 GiB"), (3 << 49, "1.5 PiB"),
        (150 << 30, "150 GiB"), (1 << 80, "more than 1,048,576 EiB"), (10**300, "more than 1,048,576 EiB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_its_unit(size: int, text: str) -> None:
    assert size_text(size) == text
