"""To a chip: clusters of decays, integers, fine-tuning, the chip file, its costs, and the report of an export."""

from hetsyn_plugins.deployment.export import LayerReport, Report, decisions, export

__all__ = ["LayerReport", "Report", "decisions", "export"]
