"""Draw the picture of the README: what `ensemble` prints for the last epoch of the sample series.

`python docs/picture.py` writes docs/ensemble.svg; with `--check` it fails where that is not what the command prints.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from resnet_audit.render import render
from resnet_audit.report import audit
from resnet_audit.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MODEL = "sample_checkpoints/digits_resnet/epoch24.pt"
DATA = "sample_checkpoints/digits.npz"
PICTURE = ROOT / "docs" / "ensemble.svg"
WIDTH = 78


def draw() -> str:
    """The SVG's text. Fonts are the reader's own: nothing is loaded from elsewhere."""
    settings = Settings(data=str(ROOT / DATA), threads=1)
    document = audit([str(ROOT / MODEL)], "ensemble", ["ensemble"], settings).document
    document["checkpoints"][0]["path"] = Path(MODEL).name
    console = Console(record=True, width=WIDTH, height=25, file=io.StringIO(), force_terminal=True, highlight=False)
    render(document, console)
    svg = console.export_svg(title=f"resnet-audit ensemble {Path(MODEL).name} --data digits.npz", unique_id="picture")
    without_fonts = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", without_fonts, flags=re.MULTILINE)


def same(one: str, other: str) -> bool:
    """Whether two drawings agree but for residuals, which are rounding and differ between processors."""
    return re.sub(r"\d\.\de-\d\d", "", one) == re.sub(r"\d\.\de-\d\d", "", other)


def main() -> None:
    """Write the picture, or with --check compare it."""
    if sys.argv[1:] != ["--check"]:
        PICTURE.write_text(draw(), encoding="utf-8")
    elif not same(PICTURE.read_text(encoding="utf-8"), draw()):
        sys.exit(f"{PICTURE.name} is not what the command prints; python docs/picture.py draws it anew")


if __name__ == "__main__":
    main()
