"""What a user names by import path, "package.module:name": a task, a network's builder, a claim.

The module is importable if it is installed or lies in the current folder. Importing it runs its code: a configuration
that names one is to be trusted like a program.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from typing import Any

from hetsyn_plugins.core.file_format import shown

PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
FORM = "package.module:Name"


def is_path(text: str) -> bool:
    """Has it the form of an import path?"""
    return PATH.fullmatch(text) is not None


def imported(argument: str, path: str) -> Any:
    """What is under an import path; `argument` is what messages call it.

    Raises ValueError for a text of another form, or a module without such a name; ImportError where the module is not
    found, or cannot be imported.
    """
    if not is_path(path):
        raise ValueError(f"{argument}: expected {FORM}, got {shown(repr(path))}")
    module, _, name = path.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # and stays: what is pickled to other processes is imported there by its name
    try:
        return pkgutil.resolve_name(path)
    except AttributeError as error:
        raise ValueError(f"{argument}: expected {name} in the module {module}, got none: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{argument}: expected to import {module}, got: {error}") from error
        what = f"a module {module} that is installed or lies in {here}"
        raise ImportError(f"{argument}: expected {what}, got none: {error}") from error
    except Exception as error:  # whatever a user's module raises
        raise ImportError(f"{argument}: expected to import {module}, got {type(error).__name__}: {error}") from error
