"""Results as one document of plain data."""

from resnet_audit.report.compare import compare_all
from resnet_audit.report.report import Outcome, audit, empty

__all__ = ["Outcome", "audit", "compare_all", "empty"]
