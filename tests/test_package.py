"""The package as others get it: light to import, complete in its wheel, and nothing of ours at the top level."""

import configparser
import importlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import hetsyn_plugins

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"hetsyn_plugins": ROOT / "hetsyn_plugins", "hetsyn_plugins/adapters": ROOT / "adapters"}
ADAPTERS = sorted(file.stem for file in (ROOT / "adapters").glob("[!_]*.py"))


def test_import_loads_no_framework() -> None:
    heavy = {"torch", "snntorch", "norse", "lava", "numba", "h5py", "matplotlib", "sklearn"}
    code = f"import sys, hetsyn_plugins; print(*sorted({heavy} & set(sys.modules)))"
    package = Path(hetsyn_plugins.__file__).parent.parent
    loaded = subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("name", hetsyn_plugins.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(hetsyn_plugins, name) is not None


def test_public_list_is_sorted_out() -> None:
    names = hetsyn_plugins.__all__
    assert len(set(names)) == len(names) and "HetSynParams" in names
    assert set(names) <= set(dir(hetsyn_plugins))


# modules that stood directly in the package once -> where they are now
MOVED = {
    "backends": "conformance.backends",
    "checkpoint": "exchange.checkpoint",
    "clusters": "deployment.clusters",
    "finetune": "deployment.finetune",
    "initialisers": "core.initialisers",
    "loihi": "deployment.chip_file",
    "network": "core.network",
    "params": "core.params",
    "reference": "core.reference",
    "surrogate": "core.surrogate",
    "tasks": "experiments.tasks",
    "tasks.dms": "experiments.tasks.dms",
    "tasks.digits": "experiments.data.digits",
}
# of packages that were modules: what their users call
PUBLIC = {
    "conformance": ("Backend", "Case", "CHECKS", "Mismatch", "Outcome", "Tally", "draw", "expected", "verify"),
    "deployment": ("LayerReport", "Report", "decisions", "export"),
    "fixed_point": ("FixedParams", "FixedPointOverflow", "FixedRun", "FixedState", "quantise", "run", "rounding"),
    "ops": ("Choice", "choose_backend", "hetsyn_li", "hetsyn_lif", "hetsyn_lif_step"),
    "adapters.snntorch": ("HetSynLeaky", "RHetSynLeaky", "install", "reset", "uninstall"),
    "adapters.norse": ("HetSynLIF", "HetSynLIFCell", "HetSynLI", "HetSynLICell", "HetSynLIFParameters"),
    "adapters.lava_dl.slayer": ("Affine", "Dense", "Flatten", "Input", "Neuron", "Recurrent", "Synapse", "install"),
    "adapters.lava_dl.runtime": ("LavaError", "isolated", "run_file", "run_network", "running"),
    "cli": ("main",),
}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_that_moved_is_found_under_its_old_name(old: str, new: str) -> None:
    """By attribute and by import, and it is the very module: one class of a name, not two."""
    module = importlib.import_module(f"hetsyn_plugins.{new}")
    assert importlib.import_module(f"hetsyn_plugins.{old}") is module
    parent, _, name = old.rpartition(".")
    assert getattr(importlib.import_module(f"hetsyn_plugins.{parent}".rstrip(".")), name) is module
    assert module.__name__ == module.__spec__.name == f"hetsyn_plugins.{new}"


def test_data_that_stood_beside_the_tasks_are_found_there() -> None:
    """In a process of their own: once imported, a module is an attribute, which would hide that it is not found."""
    names = ["spoken_digits", "digits", "idx", "shd", "cochlea", "speakers"]
    code = f"""
import hetsyn_plugins.tasks as tasks
for name in {names}:
    assert name not in vars(tasks), f"{{name}} was imported before"
    exec(f"from hetsyn_plugins.tasks import {{name}}; print({{name}}.__name__.rpartition('.')[2])")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == names, done.stderr


def test_old_names_load_what_they_need_only() -> None:
    code = "import sys; from hetsyn_plugins.params import HetSynParams, HetSynState; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(("name", "names"), PUBLIC.items())
def test_public_names_of_a_module_are_there(name: str, names: tuple[str, ...]) -> None:
    if "slayer" in name:
        pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed (it ends at Python 3.10)")
    module = importlib.import_module(f"hetsyn_plugins.{name}")
    assert [missing for missing in names if not hasattr(module, missing)] == []


def test_the_extra_all_is_the_union_of_the_others() -> None:
    """It is spelt out in setup.cfg, for pip's sake; `dev` is for this repository."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: set(text.split("\n")) - {""} for name, text in setup["options.extras_require"].items()}
    union = set().union(*(needs for name, needs in extras.items() if name not in ("all", "dev", "docs")))
    assert extras["all"] == union and len(extras) > 5


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapter_is_a_module_of_the_package(adapter: str) -> None:
    module = importlib.import_module(f"hetsyn_plugins.adapters.{adapter}")
    assert module.__name__ == f"hetsyn_plugins.adapters.{adapter}" and module.__doc__
    assert f"adapters.{adapter}" not in sys.modules  # the same file twice would mean two classes of one name


def release_check() -> Any:
    """The tool, which has no suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader("release_check", str(ROOT / "tools" / "release_check"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout, from copies; on the way other builds must give the same bytes."""
    paths: tuple[Path, Path] = release_check().reproduced(ROOT, tmp_path_factory.mktemp("built"), date=1_700_000_000)
    return paths


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> zipfile.ZipFile:
    return zipfile.ZipFile(built[0])


def test_the_sdist_has_what_a_checkout_has(built: tuple[Path, Path]) -> None:
    """But for what is git's own, and for the numbers of the claims."""
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        dates = {entry.mtime for entry in archive.getmembers()}
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*") if path.is_file() and path.name[0] != "."}
    assert there <= names and {"tools/release_check", ".ci/run", "hetsyn_plugins/py.typed"} <= names
    assert dates == {1_700_000_000}


def test_builds_that_differ_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a.whl", tmp_path / "b" / "a.whl"
    second.parent.mkdir()
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    release_check().same("wheel", [first, second])
    second.write_bytes(b"another")
    with pytest.raises(SystemExit, match="wheel: expected the same bytes from every build, got 2 different ones"):
        release_check().same("wheel", [first, second])


USER = """
from __future__ import annotations

import torch

import hetsyn_plugins
from hetsyn_plugins import HetSynParams, NormalTau, conformance, deployment, fixed_point, ops
from hetsyn_plugins.adapters.norse import HetSynLI, HetSynLIF, HetSynLIFParameters
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky


def build(n: int) -> torch.nn.Module:
    hidden = HetSynLeaky(784, n, alpha=NormalTau(20e-3, 5e-3, dt=1e-3), init_hidden=True)
    return torch.nn.Sequential(hidden, RHetSynLeaky(n, n), HetSynLeaky(n, 10, spiking=False, init_hidden=True))


def params_of(layer: HetSynLeaky | HetSynLIF | HetSynLI) -> HetSynParams:
    return layer.to_params()


hetsyn_plugins.clamp_(build(20))
names: tuple[str, ...] = hetsyn_plugins.register()
layer = HetSynLIF(3, 4, HetSynLIFParameters(tau_syn_inv=50.0), record_states=True, batch_first=True)
out, state = layer(torch.rand(2, 5, 3))
options: dict[str, float] = {"threshold": 1.0}
spikes, v, _ = hetsyn_plugins.hetsyn_lif(
    torch.rand(5, 2, 3), torch.ones(4, 3), torch.full((4, 3), 0.5), reset_decay=torch.tensor(0.5)
)
reveal_type(v)
reveal_type(params_of(layer).decay)
reveal_type(hetsyn_plugins.choose_backend(v, v).backend)
HetSynLIF(3, 4, record_state=True)
"""


def test_a_strict_user_project_is_typed(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Against what the wheel ships; the last line has a misspelt argument, which has to be seen, alone."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    wheel.extractall(tmp_path / "site")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = done.stdout.splitlines()
    shown = [line.split('"')[1].rpartition(".")[2] for line in said if "Revealed type" in line]
    errors = [line for line in said if ": error: " in line]
    assert shown == ["Tensor", "Any", "str"], said
    assert len(errors) == 1 and 'Unexpected keyword argument "record_state"' in errors[0], said


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Packages are listed by hand in setup.cfg: one forgotten there is missing here, and `find:` would add others."""
    modules = {
        f"{name}/{file.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for pattern in ("*.py", "py.typed", "report.html", "report.css")
        for file in folder.rglob(pattern)
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "hetsyn_plugins/py.typed" in modules and shipped == modules


def test_wheel_has_the_version_and_the_licence(wheel: zipfile.ZipFile) -> None:
    """The version stands once, in hetsyn_plugins/_version.py; setup.cfg reads it from there."""
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert Parser().parsestr(wheel.read(metadata).decode())["Version"] == hetsyn_plugins.__version__
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "hetsyn = hetsyn_plugins.cli:main" in wheel.read(entry_points).decode()


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {hetsyn_plugins.__version__}\n" in (ROOT / "CITATION.cff").read_text()
