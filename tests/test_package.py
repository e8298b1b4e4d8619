"""The package as others get it: light to import, complete in its wheel, and nothing of ours at the top level."""

import configparser
import importlib
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

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


@pytest.mark.parametrize("name", ["digits", "idx", "shd", "spoken_digits", "cochlea", "speakers", "dms"])
def test_data_that_stood_beside_the_tasks_are_found_there(name: str) -> None:
    """In a process of its own: once imported, a module is an attribute, which would hide that it is not found."""
    code = f"from hetsyn_plugins.tasks import {name}; print({name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith(f".{name}"), done.stderr


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built from a copy: setuptools leaves build/ behind, and would reuse what is in it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    kept_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=kept_out, dirs_exist_ok=True)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip_wheel, "--wheel-dir", target, source], check=True)
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


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
