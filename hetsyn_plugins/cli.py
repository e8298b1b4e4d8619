"""The command `hetsyn`: demo, verify and bench."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hetsyn_plugins


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit status: 0 all held, 1 a promise was broken, 2 the request was wrong."""
    parser = argparse.ArgumentParser(prog="hetsyn", description=hetsyn_plugins.__doc__)
    parser.add_argument("--version", action="version", version=f"hetsyn_plugins {hetsyn_plugins.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="train on real digits in snnTorch, carry the network to Norse, compare")
    demo.add_argument("--out", type=Path, default=Path("hetsyn_demo"), help="folder for pictures and checkpoint")
    demo.add_argument("--epochs", type=int, default=50)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--samples", type=int, help="train on so many digits only (then no accuracy is promised)")

    verify = commands.add_parser("verify", help="run every check of the contract over every backend")
    verify.add_argument("--backend", action="append", help="only this backend (may be repeated)")
    verify.add_argument("--check", action="append", help="only this check (may be repeated)")

    bench = commands.add_parser("bench", help="time and memory of a training step against plain autograd and others")
    bench.add_argument("--shape", action="append", help="only this shape of the table (may be repeated)")
    bench.add_argument("--runs", type=int, default=9)
    bench.add_argument("--out", type=Path, default=Path("hetsyn_bench"), help="folder for the CSV and the picture")
    bench.add_argument("--no-memory", action="store_true", help="times only")
    bench.add_argument("--no-scaling", action="store_true", help="the table only")

    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "demo":
            from hetsyn_plugins.demo import main as run_demo

            if arguments.epochs < 1:
                raise ValueError(f"--epochs: expected at least 1, got {arguments.epochs}")
            return run_demo(arguments.out, arguments.epochs, arguments.seed, arguments.samples)
        if arguments.command == "bench":
            return run_bench(arguments)
        return run_verify(arguments.backend, arguments.check)
    except (ValueError, ImportError, OSError) as error:
        print(f"hetsyn {arguments.command}: {error}", file=sys.stderr)
        return 2


def run_verify(only_backends: list[str] | None, only_checks: list[str] | None) -> int:
    """One line a backend and check with the distances found, then who is absent and why."""
    from hetsyn_plugins import backends, conformance

    start = time.time()
    found, absent = backends.available()
    _known("--backend", only_backends, [b.name for b in found])
    _known("--check", only_checks, list(conformance.CHECKS))
    found = [b for b in found if only_backends is None or b.name in only_backends]
    failures = lines = 0
    for backend, check, result in conformance.verify(found, only_checks):
        failed = isinstance(result, conformance.Mismatch)
        failures, lines = failures + failed, lines + 1
        print(f"{backend:14} {check:18} {'FAILED' if failed else 'ok':7} {result}", flush=True)
    for name, reason in absent.items():
        print(f"{name:14} absent: {reason}")
    print(f"{lines - failures} of {lines} passed in {time.time() - start:.0f} s")
    return 1 if failures else 0


def run_bench(arguments: argparse.Namespace) -> int:
    """Check the request, then measure."""
    from hetsyn_plugins import bench

    _known("--shape", arguments.shape, list(bench.SHAPES))
    if arguments.runs < 1:
        raise ValueError(f"--runs: expected at least 1, got {arguments.runs}")
    names = [name for name in bench.SHAPES if arguments.shape is None or name in arguments.shape]
    return bench.main(names, arguments.runs, arguments.out, not arguments.no_memory, not arguments.no_scaling)


def _known(option: str, wanted: list[str] | None, known: list[str]) -> None:
    for name in wanted or []:
        if name not in known:
            raise ValueError(f"{option}: expected one of {', '.join(known)}, got {name!r}")


if __name__ == "__main__":
    sys.exit(main())
