"""What every number of a document means, as texts: one TOML file for each analysis, one table for each metric."""

from .find import Found, find
from .texts import Chapter, Explanation, chapters

__all__ = ["Chapter", "Explanation", "Found", "chapters", "find"]
