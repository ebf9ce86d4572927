"""The training set that a bound speaks of: what was measured on data, and what is assumed.

Source     theory note `bound`, 2.5.
Formula    ||X||_F = x_rms sqrt(N d),   d = C H W
Reads      --data with as many rows as --n-train says is the training set itself, and nothing about it is assumed. With
           fewer it is a sample of it. --x-rms is believed, whatever the data say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.results import Note

if TYPE_CHECKING:
    from resnet_audit.measure import Subject
    from resnet_audit.measure.training_data import TrainingData

ASSUMED_LARGEST = 2.5
"""Largest norm of an input over its root mean square, where no data tell (theory note `bound`, 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """count: N, None if unknown; dimension: d; x_rms: root mean square of an entry; epsilon: of the covering number.

    data: what was measured, None without --data.
    """

    count: int | None
    dimension: int
    x_rms: float
    epsilon: float | None
    data: TrainingData | None

    @property
    def log_bias_unit(self) -> float:
        """ln(sqrt(N) / ||X||_F): the size, relative to the data, of a number that is 1 in every example."""
        return -math.log(self.x_rms) - 0.5 * math.log(self.dimension)

    @property
    def largest_norm(self) -> float:
        """The largest l2 norm of one input: measured, else 2.5 x_rms sqrt(d)."""
        if self.data is not None:
            return self.data.largest_norm
        return ASSUMED_LARGEST * self.x_rms * math.sqrt(self.dimension)


def training_set(subject: Subject) -> TrainingSet:
    """The training set that the settings and the data of a subject describe. Raises as `Subject.training_data`."""
    settings, data = subject.settings, subject.training_data
    count = settings.n_train
    measured = 1.0 if data is None else data.x_rms
    return TrainingSet(
        count=count,
        dimension=math.prod(subject.graph.input_size),
        x_rms=measured if settings.x_rms is None else settings.x_rms,
        epsilon=settings.epsilon if settings.epsilon is not None or count is None else math.sqrt(count),
        data=data,
    )


def notes_on(found: TrainingSet, *, x_rms_given: bool) -> list[Note]:
    """What a reader must know about where N and the norms come from."""
    if found.count is None:
        message = "what needs the number of training examples is null: give --n-train"
        if found.data is not None:
            message += f", which is {found.data.count} if --data holds them all"
        return [Note(code="needs_n_train", message=message)]
    notes = []
    if found.data is not None and found.data.count != found.count:
        message = (
            f"--data holds {found.data.count} of the {found.count} training examples: its norms, error and margins are "
            f"those of a sample"
        )
        notes.append(Note(code="sample_of_training_set", message=message))
    if found.data is not None and x_rms_given:
        message = f"--x-rms {found.x_rms:g} is used; the data have {found.data.x_rms:g}"
        notes.append(Note(code="x_rms_given", message=message))
    if found.data is None:
        message = (
            f"parameter_count_bound takes no input to be longer than {ASSUMED_LARGEST} x_rms sqrt(d) = "
            f"{found.largest_norm:.4g}, which is assumed: --data measures it"
        )
        notes.append(Note(code="assumed_largest_norm", message=message))
    return notes
