"""To a chip: clusters of decays, integers, fine-tuning, the chip file, its costs, and the report of an export."""

from hetsyn_plugins.deployment.export import REPORT_SAMPLES, Source, decisions, export
from hetsyn_plugins.deployment.report import DECAY_RANGE, LayerReport, Report

__all__ = ["DECAY_RANGE", "REPORT_SAMPLES", "LayerReport", "Report", "Source", "decisions", "export"]
