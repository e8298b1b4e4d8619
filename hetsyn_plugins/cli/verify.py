"""`hetsyn verify`: the contract over backends of ours, of installed distributions, and of the user's own."""

from __future__ import annotations

import argparse
import functools
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsyn_plugins.cli.options import check_file_to_write, check_known

if TYPE_CHECKING:
    from hetsyn_plugins.conformance.loading import AnyBackend, Known
    from hetsyn_plugins.conformance.results import Result


def add_verify(commands: Any) -> None:
    """Add `verify`."""
    verify = commands.add_parser("verify", help="run every check of the contract over every backend, or over your own")
    verify.add_argument(
        "--backend", action="append", help="only this one, or package.module:attribute (may be repeated)"
    )
    verify.add_argument("--check", action="append", help="only this check (may be repeated)")
    verify.add_argument(
        "--require", action="append", default=[], metavar="NAME", help="fail where this backend or check is left out"
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    verify.add_argument("--junit", type=Path, metavar="FILE", help="the same in JUnit's XML")
    verify.add_argument(
        "--networks", metavar="N", help="in the place of the checks, N random small networks; FIRST:END: these of them"
    )
    verify.set_defaults(handler=run_verify, less="--check")


def run_verify(arguments: argparse.Namespace) -> int:
    """One line a backend and check with the distances measured, then who is absent and why; floats, then integers."""
    from hetsyn_plugins.conformance import checks, integers, loading, results

    start = time.perf_counter()
    check_file_to_write("--json", arguments.json)
    check_file_to_write("--junit", arguments.junit)
    check_known("--check", arguments.check, [*checks.CHECKS, *integers.CHECKS])
    seeds = checked_networks(arguments)
    named = arguments.backend is None or any(":" not in name for name in arguments.backend)
    known = loading.known() if named else loading.Known({}, {})  # which loads torch, and numba
    chosen: dict[str, AnyBackend] = dict(known.present)
    refused: dict[str, str] = {}
    if arguments.backend is not None:
        chosen, refused = picked(arguments.backend, known, arguments.require)
    if seeds is not None:
        return run_networks(seeds, chosen, start)
    found = []
    for result in results.run(list(chosen.values()), arguments.check):
        print(line_of(result), flush=True)
        found.append(result)
    required = {name: chosen[name].name if name in chosen else name for name in arguments.require}
    why = results.unmet(list(required.values()), found, known)
    unmet = {name: refused.get(name, why.get(called)) for name, called in required.items()}
    return concluded(arguments, found, known.absent, {n: reason for n, reason in unmet.items() if reason}, start)


def picked(names: Sequence[str], known: Known, required: Sequence[str]) -> tuple[dict[str, AnyBackend], dict[str, str]]:
    """The backends asked for, and why not those that are not to be had but are required."""
    from hetsyn_plugins.conformance import loading

    backends: dict[str, AnyBackend] = {}
    refused = {}
    for name in names:
        try:
            backends[name] = loading.load(name, "--backend", known)
        except ValueError as error:
            if name not in required:
                raise
            refused[name] = f"{error}"
    called = [backend.name for backend in backends.values()]
    for name in called:
        if called.count(name) > 1:
            raise ValueError(
                f"--backend: expected backends of different names, got {called.count(name)} called {name!r}"
            )
    return backends, refused


def concluded(
    arguments: argparse.Namespace, found: list[Result], absent: dict[str, str], unmet: dict[str, str], start: float
) -> int:
    """Write the files asked for, say who is absent, what is missing and how many passed; the exit status."""
    from hetsyn_plugins.conformance import reports, results
    from hetsyn_plugins.core import files

    if not found and not unmet:
        raise ValueError("--check: expected one that applies to the --backend, got none: floats and integers are apart")
    for name, reason in absent.items():
        print(f"{name:14} absent: {reason}")
    for name, reason in unmet.items():
        print(f"{name:14} {'required':18} {results.FAILED:8} {reason}")
    counts = {status: sum(result.status == status for result in found) for status in results.STATUSES}
    others = "".join(f", {counts[status]} {status}" for status in (results.LEFT_OUT, results.KNOWN) if counts[status])
    print(f"{counts[results.OK]} of {len(found)} passed{others} in {time.perf_counter() - start:.0f} s")
    for path, write in ((arguments.json, reports.as_json), (arguments.junit, reports.as_junit)):
        if path is not None:
            files.write_bytes(path, write(found, absent, unmet))
    return 1 if counts[results.FAILED] or unmet else 0


def checked_networks(arguments: argparse.Namespace) -> range | None:
    """The seeds of the networks that are asked for, N or FIRST:END; None where none are."""
    if arguments.networks is None:
        return None
    for option in ("check", "require", "json", "junit"):
        if getattr(arguments, option):
            raise ValueError(f"--networks: expected beside it --backend only, got --{option}")
    first, colon, end = arguments.networks.partition(":")
    try:
        seeds = range(int(first), int(end)) if colon else range(int(first))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0:
        raise ValueError(f"--networks: expected a number of them, or seeds as FIRST:END, got {arguments.networks!r}")
    return seeds


def run_networks(seeds: range, chosen: dict[str, AnyBackend], start: float) -> int:
    """What disagrees with the reference, and how to repeat it; then one line a backend, and the sum of them."""
    from hetsyn_plugins.conformance import networks
    from hetsyn_plugins.conformance.cases import Backend, Mismatch
    from hetsyn_plugins.conformance.comparison import Tally
    from hetsyn_plugins.conformance.failures import result_of

    backends = {name: backend for name, backend in chosen.items() if isinstance(backend, Backend)}
    if not backends:
        raise ValueError(f"--backend: expected with --networks one of floats, got {', '.join(chosen) or 'none'}")
    tallies, layers, wrong = {name: Tally() for name in backends}, 0, dict.fromkeys(backends, 0)
    for seed in seeds:
        network = networks.draw_network(seed)
        layers += len(network)
        for name, backend in backends.items():
            check = functools.partial(networks.compare_layers, layers=network, tally=tallies[name])
            came = result_of(check, "networks", backend)
            if isinstance(came, Mismatch):
                wrong[name] += 1
                print(f"{name:14} {came}\n{'':14} again: hetsyn verify --networks {seed}:{seed + 1} --backend {name}")
                print(textwrap.indent(str(came.failure), "    "), flush=True)
    for name, tally in tallies.items():
        print(f"{name:14} {wrong[name]} disagreements, {tally}")
    spikes, disagreements = sum(tally.spikes for tally in tallies.values()), sum(wrong.values())
    over = f"{len(backends)} backend{'s' * (len(backends) > 1)}"
    print(
        f"{len(seeds):,} networks (seeds {seeds[0]} to {seeds[-1]}), {layers:,} layers, {spikes:,} spikes compared over"
        f" {over}, {disagreements} disagreements in {time.perf_counter() - start:.0f} s"
    )
    return 1 if disagreements else 0


def line_of(result: Result) -> str:
    """What came of a check, and what its failure shows."""
    from hetsyn_plugins.conformance import results

    line = f"{result.backend:14} {result.check:18} {result.status:8} {result.says}"
    if result.failure is None or result.status != results.FAILED:
        return line
    return f"{line}\n{textwrap.indent(str(result.failure), '    ')}"
