"""The package as others get it: light to import, complete in its wheel, and nothing of ours at the top level."""

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
    """The version stands once, in hetsyn_plugins/__init__.py; setup.cfg reads it from there."""
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert Parser().parsestr(wheel.read(metadata).decode())["Version"] == hetsyn_plugins.__version__
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "hetsyn = hetsyn_plugins.cli:main" in wheel.read(entry_points).decode()
