"""Results as one document of plain data."""

from resnet_audit.report.compare import compare_all
from resnet_audit.report.many import Watch, audit_all, nobody
from resnet_audit.report.report import One, Outcome, Work, audit, empty, registered

__all__ = ["One", "Outcome", "Watch", "Work", "audit", "audit_all", "compare_all", "empty", "nobody", "registered"]
