"""What several theories share: inputs, one recorded pass, Lipschitz constants, path norms."""

from resnet_audit.measure.subject import Subject

__all__ = ["Subject"]
