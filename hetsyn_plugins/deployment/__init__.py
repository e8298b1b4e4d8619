"""To a chip: clusters of decays, integers, fine-tuning, the chip file, its costs, and the report of an export."""

from hetsyn_plugins.deployment.export import decisions, export
from hetsyn_plugins.deployment.report import LayerReport, Report

__all__ = ["LayerReport", "Report", "decisions", "export"]
