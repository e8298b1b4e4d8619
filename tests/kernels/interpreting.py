"""Triton's interpreter, faster: for processes that run kernels in it (TRITON_INTERPRET=1).

It patches Triton's language when a program starts, and again for each function that the program calls, at every call:
a third of the time. What a function needs is patched once here.
"""

from __future__ import annotations

from typing import Any

from triton.runtime.interpreter import InterpretedFunction

_first_call = InterpretedFunction.__call__
_called: set[Any] = set()


def _call(self: Any, *arguments: Any, **named: Any) -> Any:
    if self.fn not in _called:
        _called.add(self.fn)
        return _first_call(self, *arguments, **named)
    function = self.rewrite() if hasattr(self, "rewrite") else self.fn  # Triton 3 rewrites it before
    return function(*arguments, **named)


InterpretedFunction.__call__ = _call
