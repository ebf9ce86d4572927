"""The page in a real browser, where there is one: no scrolling sideways, sorting, a quiet console, a whole print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from render_documents import checked
from render_factory import document, hostile
from test_render_comparison import series
from test_render_html import SCRIPTS

from resnet_audit.render.html import to_html

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser here: none of {', '.join(NAMES)} is in PATH")

FRAME = """<!DOCTYPE html><iframe id="page" src="page.html" style="width:%dpx;height:900px;border:0"></iframe>
<pre id="out"></pre><script>
addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument;
  const told = (() => { %s })();
  document.getElementById("out").textContent = JSON.stringify(told);
});
</script>"""

LONG = "model.language_model.layers.31.self_attention.rotary.query_key_value_projection.base_layer.lora_default"


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [BROWSER, *common, profile, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def asked(folder: Path, shown: Any, width: int, script: str) -> Any:
    """What a few lines say of the page in a window of this width; the page's own policy is left in force."""
    (folder / "page.html").write_text(to_html(shown), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % (width, script), encoding="utf-8")
    # Without this a page from a file may not look into another.
    done = chromium(folder, "--disable-web-security", "--dump-dom", f"file://{folder / 'frame.html'}")
    assert not re.search(r"CONSOLE|Refused|Content Security Policy", done.stderr), done.stderr[-2000:]
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None
    return json.loads(unescape(found[1]))


SIZES = """
  const view = page.documentElement;
  const outside = [...page.querySelectorAll("body *")].filter(
    (e) => e.getBoundingClientRect().right > view.clientWidth + 1 && !e.closest(".scroll") && !e.closest("svg"));
  const letters = [...page.querySelectorAll("svg.chart text.t")].slice(0, 40);
  return { page: view.scrollWidth, window: view.clientWidth, outside: outside.map((e) => e.outerHTML.slice(0, 90)),
           letters: letters.map((e) => e.getBoundingClientRect().height) };
"""


@pytest.mark.parametrize("width", [360, 390, 800, 1280])
@pytest.mark.parametrize("name", ["report", "long names", "compare", "check"])
def test_no_page_scrolls_sideways_and_letters_can_be_read(name, width, tmp_path) -> None:
    shown = {"report": document(), "long names": hostile(LONG), "compare": series(), "check": checked()}[name]
    told = asked(tmp_path, shown, width, SIZES)
    assert told["window"] == width
    assert told["outside"] == []
    assert told["page"] <= told["window"]
    assert all(height >= 9 for height in told["letters"])


CLICKS = """
  const table = [...page.querySelectorAll("table")].find((one) => one.tHead.textContent.includes(HEADER));
  const headers = [...table.tHead.rows[0].cells];
  const at = headers.findIndex((one) => one.textContent.trim() === HEADER);
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
  const states = [[headers[at].getAttribute("aria-sort"), column()]];
  for (let click = 0; click < 3; click++) {
    headers[at].querySelector("button").click();
    states.push([headers[at].getAttribute("aria-sort"), column()]);
  }
  return states;
"""


def value(cell: str) -> float:
    """A cell as a number; what is none stands behind all."""
    text = cell.replace(",", "")
    found = re.match(r"10\^(.*)|\[?(-?[\d.]+(?:e[-+]\d+)?)", text)
    return float(found[1] or found[2]) if found else float("nan")


@pytest.mark.parametrize(
    ("command", "header"),
    [("spectrum", "sigma min"), ("gradient", "within"), ("bound", "b operator"), ("scaling", "weights")],
)
def test_a_click_sorts_by_number_up_then_down_then_as_it_was(command, header, tmp_path) -> None:
    states = asked(tmp_path, document(command), 800, f"const HEADER = {json.dumps(header)}; {CLICKS}")
    orders = [order for order, _ in states]
    assert orders == [None, "ascending", "descending", None]
    before, up, down, after = ([value(cell) for cell in cells] for _, cells in states)
    known = sorted(number for number in before if number == number)  # noqa: PLR0124 - not a number
    assert len(known) > 3
    assert [number for number in up if number == number] == known  # noqa: PLR0124 - as above
    assert [number for number in down if number == number] == known[::-1]  # noqa: PLR0124 - as above
    assert all(number == number for number in up[: len(known)])  # noqa: PLR0124 - as above
    assert str(before) == str(after)


def test_powers_of_ten_and_names_sort_by_what_they_mean(tmp_path) -> None:
    states = asked(tmp_path, series(), 800, f"const HEADER = 'complexity'; {CLICKS}")
    assert [value(cell) for cell in states[1][1]] == sorted(value(cell) for cell in states[0][1])
    states = asked(tmp_path, series(), 800, f"const HEADER = 'checkpoint'; {CLICKS}")
    assert states[2][1] == [f"epoch{e:02}" for e in (16, 8, 4, 2, 1, 0)]


def test_the_console_is_quiet_and_no_hostile_name_runs(tmp_path) -> None:
    for name in SCRIPTS:
        told = asked(tmp_path, hostile(name), 800, "return [page.scripts.length, page.images.length, page.title];")
        assert told == [1, 0, "Audit of residual networks"], name


def test_without_its_script_the_page_has_no_buttons_and_all_rows(tmp_path) -> None:
    text = re.sub(r"<script>.*</script>", "", to_html(document()), flags=re.DOTALL)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    done = chromium(tmp_path, "--dump-dom", f"file://{tmp_path / 'page.html'}")
    assert "<button" not in done.stdout
    assert done.stdout.count("<tr>") == text.count("<tr>")


def test_it_prints_on_paper(tmp_path) -> None:
    (tmp_path / "page.html").write_text(to_html(document()), encoding="utf-8")
    target = tmp_path / "page.pdf"
    chromium(tmp_path, f"--print-to-pdf={target}", "--no-pdf-header-footer", f"file://{tmp_path / 'page.html'}")
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 4


def test_dark_and_light_differ_and_both_can_be_read(tmp_path) -> None:
    script = """
      const view = page.defaultView;
      const seen = (e) => view.getComputedStyle(e);
      const bar = page.querySelector("rect.bar1");
      return [seen(page.body).backgroundColor, seen(page.body).color, seen(bar).fill];
    """
    light = asked(tmp_path, document("bound"), 800, script)
    text = to_html(document("bound")).replace("prefers-color-scheme: dark", "min-width: 1px")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    dark = [found[1] for found in re.finditer(r"--(?:page|ink|one): (#\w+);", style[1])]
    assert contrast(light[0], light[1]) > 7
    assert contrast(light[0], light[2]) > 3
    page, ink, one = dark[3:6]
    assert contrast(rgb(page), rgb(ink)) > 7
    assert contrast(rgb(page), rgb(one)) > 3


def rgb(text: str) -> str:
    digits = text.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    return f"rgb({int(digits[:2], 16)}, {int(digits[2:4], 16)}, {int(digits[4:], 16)})"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours by the rule of WCAG 2."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    low, high = sorted((light(one), light(other)))
    return high / low
