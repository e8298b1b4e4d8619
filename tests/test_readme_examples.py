"""The code blocks of README and docs and the examples run as they stand, and what the pages name is there."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snntorch")
pytest.importorskip("norse")

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """README, DELAYS, tutorials/norse."""
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


def fenced(page: Path, kind: str) -> list[str]:
    """The blocks of a page in one language."""
    blocks: list[str] = re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), flags=re.S | re.M)
    return blocks


def scripts_of(page: Path) -> dict[str, str]:
    """What runs of a page: each block by itself; in the folders of docs/ a page is one script, from top to bottom."""
    blocks, name = fenced(page, "python"), name_of(page)
    if "/" in name:
        return {name: "\n".join(blocks)} if blocks else {}
    return {f"{name}-{index}": block for index, block in enumerate(blocks)}


BLOCKS = {
    name: code
    for page in PAGES
    if page.stem != "CONFORMANCE"  # its blocks are files that belong together: tests/conformance/test_page.py
    for name, code in scripts_of(page).items()
}
SHOWING = [page for page in PAGES if "/" in name_of(page) and name_of(page) in BLOCKS and fenced(page, "text")]
PREPARE = f"import hetsyn_plugins; hetsyn_plugins.__path__.append({str(ROOT)!r})\n"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IMPORTED = ("own_backend", "two_processes")  # by the command, by the processes that they start
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPTIONAL = ("lava", "lightning")  # Lava ends at Python 3.10
ROOMS = (
    "core fixed_point kernels ops exchange deployment adapters conformance testing experiments benchmark cli".split()
)


@functools.cache
def run(code: str, folder: Path = ROOT) -> str:
    command = [sys.executable, "-W", "ignore", "-c", PREPARE + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What came of every block of a page."""
    return run_together(BLOCKS, tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def ran_examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What came of every example that other processes need not import."""
    texts = {example.stem: example.read_text() for example in EXAMPLES if example.stem not in IMPORTED}
    return run_together(texts, tmp_path_factory.mktemp("examples"))


def run_together(scripts: dict[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """What came of every script, run in one process that imports torch and the frameworks once."""
    files = {name: folder / f"{name.replace('/', '-')}.py" for name, code in scripts.items() if can_run(code)}
    for name, file in files.items():
        file.write_text(scripts[name])
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "support" / "run_scripts.py"), ROOT, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    came = {name: file.with_suffix(".json") for name, file in files.items()}
    lost = {"printed": "", "failed": f"no result, exit status {done.returncode}: {done.stderr}"}
    return {name: json.loads(file.read_text()) if file.exists() else lost for name, file in came.items()}


def can_run(code: str) -> bool:
    return all(f"import {name}" not in code or importlib.util.find_spec(name) is not None for name in OPTIONAL)


def test_a_script_that_fails_is_told_and_those_after_it_run(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('so far')\nraise SystemExit(0)")
    (tmp_path / "b.py").write_text("from pathlib import Path\nprint(Path.cwd().name, 'raise' in globals())")
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_scripts.py"), ROOT, tmp_path]
    subprocess.run(command, check=True, timeout=60)
    failed, ran = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert failed["printed"] == "so far\n" and "SystemExit" in failed["failed"]
    assert ran == {"printed": "b False\n", "failed": ""}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_runs(name: str, ran: dict[str, dict[str, str]]) -> None:
    if not can_run(BLOCKS[name]):
        pytest.skip("Lava ends at Python 3.10")
    assert not ran[name]["failed"], f"{name}: {ran[name]['failed']}"


def without_numbers(text: str) -> list[str]:
    """Lines whose numbers are one and the same, and whose columns are one blank apart."""
    return [re.sub(r"\s+", " ", re.sub(r"-?(\d+(\.\d+)?(e-?\d+)?|\binf\b)", "#", line)) for line in text.splitlines()]


@pytest.mark.parametrize("page", SHOWING, ids=name_of)
def test_what_a_page_shows_as_printed_is_printed(page: Path, ran: dict[str, dict[str, str]]) -> None:
    if not can_run(BLOCKS[name_of(page)]):
        pytest.skip("Lava ends at Python 3.10")
    printed = without_numbers(ran[name_of(page)]["printed"])
    shown = [line for block in fenced(page, "text") for line in without_numbers(block)]
    assert [line for line in shown if line not in printed] == []


def test_readme_has_a_block_for_each_framework_and_the_derivation_one() -> None:
    assert len([name for name in BLOCKS if name.startswith("README")]) >= 4 and "DERIVATION-0" in BLOCKS


def test_every_training_loop_clamps_after_the_step() -> None:
    loops = [block for block in BLOCKS.values() if "optimiser.step()" in block]
    assert len(loops) >= 3 and all("clamp_(" in block.split("optimiser.step()")[1] for block in loops)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def is_there(name: str) -> bool:
    """Is there a file or folder of this name, or in the module that a dotted name begins with, what its rest says?

    Nothing is imported: pages speak of modules whose framework may be absent.
    """
    if "/" in name:
        return any((folder / name).exists() for folder in (ROOT, ROOT / "hetsyn_plugins"))
    parts = name.split(".")
    path = ROOT if parts[0] == "adapters" else ROOT / "hetsyn_plugins"
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    file = path / f"{parts.pop(0)}.py" if parts and (path / f"{parts[0]}.py").is_file() else path / "__init__.py"
    inside: list[ast.stmt] = ast.parse(file.read_text()).body
    for part in parts:
        definitions = [statement for statement in inside if part in names_of(statement)]
        if not definitions:
            return False
        inside = getattr(definitions[0], "body", [])
    return True


def names_of(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module or class gives to something."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in statement.names}
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def named(page: Path) -> list[str]:
    """The files, folders and dotted names of the package that a page quotes."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    quoted = re.findall(r"`([\w./]+)`", text)
    files = [name for name in quoted if name.endswith((".py", "/")) and "/" in name]
    dotted = [name for name in quoted if "/" not in name and name.split(".")[0] in ROOMS and not name.endswith(".py")]
    return files + dotted + [name for line in text.splitlines() for name in drawn(line)]


def drawn(line: str) -> list[str]:
    """What a line of an indented drawing names: a file and, up to the next gap, definitions in it."""
    drawing = re.match(r"    +([\w/]+/\w+)\.py +([\w., ]+?)(  |$)", line)
    if not drawing:
        return []
    file, names, _ = drawing.groups()
    return [f"{file}.py", *(f"{file.replace('/', '.')}.{name}" for name in names.split(", "))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_is_there(page: Path) -> None:
    missing = sorted(name for name in set(named(page)) if not is_there(name))
    assert not missing, f"{page.name} speaks of {', '.join(missing)}: moved or renamed?"


@pytest.mark.parametrize(
    "name, there",
    [
        ("core/reference.py", True),
        ("core.reference.run", True),
        ("ops.trainable.TrainableFields.clamp_", True),
        ("fixed_point.run", True),
        ("kernels/quantum.py", False),
        ("core.reference.walk", False),
        ("ops.trainable.TrainableFields.unclamp_", False),
        ("core.quantum", False),
    ],
)
def test_a_name_is_told_from_a_name_of_nothing(name: str, there: bool) -> None:
    assert is_there(name) is there


def test_names_in_drawings_are_read() -> None:
    line = "      ops/lif.py       run_sequence, Sequence     one node"
    assert drawn(line) == ["ops/lif.py", "ops.lif.run_sequence", "ops.lif.Sequence"]


def run_example(example: Path) -> str:
    """As a file that can be imported, and not in the checkout: what it starts finds what is installed."""
    return run(f"import runpy; runpy.run_path({str(example)!r}, run_name='__main__')", example.parent)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, ran_examples: dict[str, dict[str, str]]) -> None:
    if not can_run(example.read_text()):
        pytest.skip("lightning is not installed")
    if example.stem in IMPORTED:
        assert run_example(example).strip()
        return
    came = ran_examples[example.stem]
    assert came["printed"].strip() and not came["failed"], came["failed"]


def test_the_page_of_examples_lists_all_of_them_and_all_notebooks() -> None:
    text = (ROOT / "docs" / "tutorials" / "examples.md").read_text()
    assert sorted(re.findall(r"^\| `(examples/\w+\.py)` \| \w", text, flags=re.M)) == names(EXAMPLES)
    assert sorted(re.findall(r"^\* .*\]\(\.\./\.\./(.*\.ipynb)\): \w", text, flags=re.M)) == names(NOTEBOOKS)


def names(files: list[Path]) -> list[str]:
    return [file.relative_to(ROOT).as_posix() for file in files]


def test_same_neuron_finds_no_differing_spike(ran_examples: dict[str, dict[str, str]]) -> None:
    lines = [line for line in ran_examples["same_neuron"]["printed"].splitlines() if "differ" in line]
    assert len(lines) >= 8 and all(" 0 spikes differ" in line for line in lines)


def test_the_mistake_in_a_backend_of_ones_own_is_caught_by_what_hits_the_threshold() -> None:
    said = run_example(ROOT / "examples" / "own_backend.py")
    assert said.count("check_case(backend, case)") == 2
    lines = [line for line in said.splitlines() if line.startswith(("mine", "mistaken"))]
    passed = [line for line in lines if line.startswith("mine") and " passed: " in line]
    assert len(lines) == 18 and len(passed) == 8 and "has no case: 32 left out: no gradients" in lines[8]
    caught = [line.split()[1] for line in lines if " CAUGHT: " in line and "spikes differ" in line]
    assert caught == ["hand-table", "threshold"]
