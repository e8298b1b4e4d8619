"""The list of commands, in groups with an example each: what `hetsyn` alone and `hetsyn --help` show."""

from __future__ import annotations

GROUPS = {
    "First minutes": {
        "doctor": ("what is installed, which kernels run, what is missing", "hetsyn doctor"),
        "demo": ("digits from snnTorch to Norse to a chip's integers", "hetsyn demo --out hetsyn_demo"),
    },
    "Train": {
        "train": ("on a task of the paper, or on your own data", "hetsyn train dms --preset paper --out runs/dms"),
        "evaluate": ("trained networks, maybe under other settings", "hetsyn evaluate runs/dms --device cuda"),
        "analyse": ("time constants, and what the long ones do", "hetsyn analyse runs/dms"),
        "prune": ("the strongest synapses kept, and judged", "hetsyn prune runs/dms --density 0.1"),
        "claim": ("the paper's number beside ours", "hetsyn claim dms --short"),
        "data": ("public data sets, got when asked for", "hetsyn data get mnist"),
        "report": ("runs and claims on one HTML page", "hetsyn report runs/dms -o report.html"),
    },
    "Carry over": {
        "convert": ("a file to another kind of file", "hetsyn convert net.safetensors net.nir"),
        "card": ("a model card of a checkpoint", "hetsyn card net.safetensors -o README.md"),
        "nir": ("what a reader of NIR cannot hold", "hetsyn nir check net.nir --for norse"),
    },
    "To a chip": {
        "export": ("to integers, in a chip's file", "hetsyn export net.safetensors --clusters 8 -o net.net"),
        "simulate": ("such a file in integers, and in Lava", "hetsyn simulate net.net --data digits --lava"),
    },
    "Trust": {
        "verify": ("every check of the contract over every backend", "hetsyn verify --backend cpu"),
        "bench": ("time and memory beside others", "hetsyn bench --runs 9"),
    },
}


def listed(usage: str, description: str) -> str:
    """The whole text; usage and description come first."""
    lines = [usage, description]
    for title, commands in GROUPS.items():
        lines.append(f"\n{title}")
        for name, (what, example) in commands.items():
            lines.append(f"  {name:9} {what}\n{'':11} $ {example}")
    lines.append("\n`hetsyn COMMAND --help` lists a command's options; `hetsyn --version` the version.\n")
    return "\n".join(lines)
