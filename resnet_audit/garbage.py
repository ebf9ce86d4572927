"""Let the garbage collector pass over what libraries build when they are imported: it is used to the end.

It goes through the million objects of torch again and again while they are made, and once more when the process ends:
0.8 of the 1.9 s of `import torch` alone (measured), and it finds nothing.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def importing_torch() -> Iterator[None]:
    """Nothing is collected inside, and nothing ever of what is there at the end; only if torch has yet to come."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
