"""Everything that can stop an audit.

    AuditError                     the audit could not be done: one line, exit 2
    |-- UsageError                 the command line asks for something impossible
    |-- UnreadableCheckpoint       the file cannot be used: what it is, why, what to do
    `-- Unavailable                this analysis has no answer for this checkpoint
        |-- NothingToAnalyse       no weight layer at all
        |-- NoBlocks               the analysis is about residual blocks and there are none
        |-- NotRunnable            the graph is incomplete, so nothing can be propagated through it
        |-- NotCalibrated          the batch normalisation holds no statistics yet, so nothing measured means anything
        |-- NoRule                 a theory has no rule for an operation
        `-- NonFinite              NaN or infinite weights: the number is undefined, reported as null

`Unavailable.code` is the note code that a report gives in place of the analysis.
"""

from __future__ import annotations


class AuditError(Exception):
    """The audit could not be done. Its text is one line that ends with what to do."""


class UsageError(AuditError):
    """The command line, or a setting, asks for something impossible."""


class UnreadableCheckpoint(AuditError):
    """A file that cannot be used. Printed as `PATH: what it is; why it cannot be used; what to do`."""

    def __init__(self, path: str, what: str, why: str, todo: str) -> None:
        super().__init__(f"{path}: {what}; {why}; {todo}")
        self.path = path
        self.what = what
        self.why = why
        self.todo = todo


class Unavailable(AuditError):
    """One analysis has no answer for this checkpoint; the others may have."""

    code = "unavailable"


class NothingToAnalyse(Unavailable):
    """The checkpoint holds no convolution and no linear layer."""

    code = "nothing_to_analyse"


class NoBlocks(Unavailable):
    """The analysis is about residual blocks and the graph has none."""

    code = "no_blocks"


class NotRunnable(Unavailable):
    """The graph lacks something that a forward pass needs; the text says what."""

    code = "not_runnable"


class NotCalibrated(Unavailable):
    """Every batch normalisation holds the 0 and 1 that it was made with: the network is not the one in training."""

    code = "not_calibrated"


class NoRule(Unavailable):
    """A theory has no rule for an operation of the graph."""

    code = "no_rule"

    def __init__(self, op: object, quantity: str) -> None:
        super().__init__(f"no rule gives {quantity} of {type(op).__name__}; the columns that need none are still given")


class NonFinite(Unavailable):
    """NaN or infinity in the weights leaves a number undefined. It is reported as null, and only `check` judges."""

    code = "nonfinite"
