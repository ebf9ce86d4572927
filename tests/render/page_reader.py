"""A page read by the parser of the standard library: is it well formed, and what does it say."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    """One element with what is in it, in order."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str, class_: str | None = None) -> list[Element]:
        """Elements below of a tag, and of a class if one is given."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and (class_ is None or class_ in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(tag, class_)
        return found

    def every(self) -> list[Element]:
        """All elements below."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child, *child.every()]
        return found

    @property
    def text(self) -> str:
        """All text below."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def table(self) -> list[list[str]]:
        """The cells of a table, its header first."""
        return [[cell.text for cell in row.all("th") + row.all("td")] for row in self.all("tr")]


class Reader(HTMLParser):
    """Builds the tree and fails where a tag is not closed by its own."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.stack = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute of {tag} is there twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def read(page: str) -> Element:
    """The tree of a page. Fails where it is not well formed."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.stack == [reader.root], "something is not closed"
    return reader.root
