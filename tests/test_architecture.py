"""The design, checked on the source: who imports whom, who prints, who unpickles, and how long anything is."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import resnet_audit

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(resnet_audit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ROWS = (
    {"errors", "settings", "garbage", "results"},
    {"checkpoint"},
    {"linear"},
    {"graph"},
    {"measure"},
    {"theory", "explain"},
    {"report", "check", "render"},
    {"api", "configured", "examples", "flags", "options", "sources"},
    {"answer"},
    {"judging"},
    {"cli"},
    {"__main__"},
)
"""From the ground up. A package imports only from the rows below its own; the surface `__init__` may import all."""

SURFACE = "__init__"
NEVER = {
    "errors": {"torch"},
    "settings": {"torch"},
    "results": {"torch"},
    "checkpoint": {"rich", "typer"},
    "linear": {"resnet_audit.checkpoint", "rich", "typer"},
    "graph": {"rich", "typer"},
    "measure": {"rich", "typer"},
    "theory": {"resnet_audit.checkpoint", "rich", "typer", "pathlib", "os", "io"},
    "explain": {"torch", "rich", "typer"},
    "report": {"torch", "rich", "typer"},
    "check": {"torch", "rich", "typer"},
    "render": {"torch", "typer"},
}
"""What a package must not import at all, not even for its types."""

ARCHITECTURE_NAMES = re.compile(
    r"\b(layer|stage|block|conv|bn|norm|fc)s?\\?[\d]|\blayers?\\\.|downsample|shortcut\\?\.|identity_conv|"
    r"res-?net\\?-?\d|pre-?act|bottleneck|num_batches_tracked",
    re.IGNORECASE,
)
MARK = re.compile(
    r"#\s*(noqa\b:?|type:\s*ignore)(?P<codes>\s*\[[^]]*\]|\s*[A-Z]+[0-9]+(?:\s*,\s*[A-Z]+[0-9]+)*)?(?P<rest>.*)"
)
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def name_of(file: Path) -> str:
    """`theory/bound.py` as a reader writes it."""
    return file.relative_to(PACKAGE).as_posix()


def part_of(file: Path) -> str:
    """The package of the first level, or the module, that a file is or belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(file: Path) -> str:
    """The import name of a file."""
    parts = [*file.relative_to(PACKAGE.parent).parts[:-1], *([] if file.stem == "__init__" else [file.stem])]
    return ".".join(parts)


@cache
def tree_of(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def docstrings(tree: ast.AST) -> set[int]:
    """The identities of all nodes that are docstrings, those behind an assignment included."""
    found = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                found.add(id(statement.value))
    return found


def texts(file: Path) -> Iterator[ast.Constant]:
    """Every string in the code of a file, parts of f-strings included, docstrings not."""
    tree = tree_of(file)
    skip = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, at any depth, for types or by a string such as `resnet_audit.x:f`."""
    package = dotted(file) if file.stem == "__init__" else dotted(file).rpartition(".")[0]
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." * bool(node.module) if node.level else ""
            origin = base + (node.module or "")
            yield from (f"{origin}.{alias.name}" for alias in node.names)
    for text in texts(file):
        if re.fullmatch(r"resnet_audit(\.\w+)+(:\w+)?", text.value):
            yield text.value.partition(":")[0]


def ours(file: Path) -> set[str]:
    """The parts of the package that a file imports from, its own left out."""
    names = {name for name in imports(file) if name.split(".")[0] == "resnet_audit"}
    return {name.split(".")[1] if "." in name else SURFACE for name in names} - {part_of(file)}


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with what is called, as dotted text; `?` stands for an expression."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call):
            yield dotted_text(node.func), node


def dotted_text(node: ast.AST) -> str:
    """`torch.load` for the expression that says so."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted_text(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def row(part: str) -> int:
    """How high in the table a part stands."""
    found = [index for index, parts in enumerate(ROWS) if part in parts]
    assert len(found) == 1, f"{part} has no row of its own in the table: give it one"
    return found[0]


# imports ----------------------------------------------------------------------------------------------------


def test_the_walk_finds_imports_of_every_form() -> None:
    assert {"checkpoint", "graph", "theory"} & ours(PACKAGE / "report" / "registry.py") == {"theory"}
    assert "graph" in ours(PACKAGE / "report" / "report.py")
    assert "resnet_audit.render.words" in set(imports(PACKAGE / "render" / "tables.py"))
    assert "resnet_audit.render.words" in set(imports(PACKAGE / "render" / "analyses" / "bound.py"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_only_from_rows_below_its_own(file) -> None:
    if part_of(file) == SURFACE:
        return
    assert [part for part in sorted(ours(file)) if part == SURFACE or row(part) >= row(part_of(file))] == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_nothing_that_its_package_must_not_know(file) -> None:
    banned = NEVER.get(part_of(file), set())
    found = {name for name in imports(file) for bad in banned if name == bad or name.startswith(f"{bad}.")}
    assert found == set()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_what_a_file_imports_of_ours_is_there(file) -> None:
    modules = {dotted(other) for other in FILES}
    for name in imports(file):
        if name.startswith("resnet_audit."):
            owner = name.rpartition(".")[0]
            assert name in modules or owner in modules, name


def test_the_ground_imports_nothing_of_ours() -> None:
    for file in FILES:
        if part_of(file) in {"errors", "settings", "garbage", "results"}:
            assert ours(file) == set(), name_of(file)


def test_an_analysis_imports_no_other_analysis() -> None:
    theory = [file for file in FILES if part_of(file) == "theory"]
    analyses = {file for file in theory if any(_defines(file, "analyse"))}
    assert {file.stem for file in analyses} >= {"bound", "spectrum", "gradient", "ensemble"}
    for file in theory:
        others = {dotted(other) for other in analyses - {file}}
        used = {name for name in imports(file) for other in others if name == other or name.startswith(f"{other}.")}
        assert used == set(), name_of(file)


def _defines(file: Path, function: str) -> Iterator[bool]:
    return (True for node in tree_of(file).body if isinstance(node, ast.FunctionDef) and node.name == function)


def test_reading_and_rendering_a_document_and_parsing_a_command_line_import_no_torch() -> None:
    parts = {"errors", "settings", "garbage", "results", "explain", "report", "check", "render", "options", "cli"}
    modules = sorted({dotted(file) for file in FILES if part_of(file) in parts} | {"resnet_audit.checkpoint.expand"})
    lines = [f"import {module}" for module in modules]
    code = "\n".join(["import sys", *lines, "print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


# printing and unpickling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_command_line_prints(file) -> None:
    if part_of(file) in {"answer", "cli"}:
        return
    printing = re.compile(
        r"print|pprint|(typer|click|rich)\..*echo|.*\bsecho|rich\.print|traceback\.print_\w+|warnings\.warn"
    )
    names = {name for name, _ in calls(file) if printing.fullmatch(name)}
    names |= {name for name, _ in calls(file) if name.endswith(".print") and part_of(file) != "render"}
    streams = {
        dotted_text(node)
        for node in ast.walk(tree_of(file))
        if dotted_text(node) in {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"}
    }
    assert names | streams == set()


def test_no_file_unpickles() -> None:
    assert [name_of(file) for file in FILES for name, _ in calls(file) if name == "torch.load"] == []
    hidden = {"torch.load", "torch.serialization.load"}
    assert [name_of(file) for file in FILES for name in imports(file) if name in hidden] == []


PROGRAMS = {
    "checkpoint/programs.py": {"torch.jit.load", "torch.export.load"},
    "graph/from_export.py": {"torch.export.export"},
}
"""The only file that opens a program, and the one that follows a module the user consented to run."""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_in_a_file_can_run_or_unpickle(file) -> None:
    wrong = {"eval", "exec", "compile", "__import__", "input", "breakpoint", "os.system", "os.popen"}
    unpickling = re.compile(
        r"(pickle|_pickle|cPickle)\.(load|loads|Unpickler)|.*\bUnpickler|torch\.(jit|export|hub|package)\.\w+"
    )
    found = {name for name, _ in calls(file) if name in wrong or unpickling.fullmatch(name)}
    bases = {
        dotted_text(base) for node in ast.walk(tree_of(file)) if isinstance(node, ast.ClassDef) for base in node.bases
    }
    found |= {base for base in bases if base.endswith("Unpickler")}
    banned = ("dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "subprocess", "code", "imp")
    found |= {name for name in imports(file) if name.split(".")[0] in banned}
    found |= {name for name in imports(file) if re.fullmatch(r"_?pickle\.(load|loads|Unpickler|_\w+)", name)}
    found |= {name for name in imports(file) if re.fullmatch(r"torch\.(jit|export|hub|package)\.[a-z]\w+", name)}
    assert found <= PROGRAMS.get(name_of(file), set())


def test_numpy_is_never_allowed_to_unpickle() -> None:
    for file in FILES:
        for name, call in calls(file):
            if name in {"np.load", "numpy.load"}:
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                allow = given.get("allow_pickle")
                assert isinstance(allow, ast.Constant), name_of(file)
                assert allow.value is False, name_of(file)


def knows_names(file: Path) -> bool:
    """Whether the file may hold what looks like architecture names: families, their patterns, names of ATen."""
    return re.match(r"graph/(families|patterns|aten)", name_of(file)) is not None


@pytest.mark.parametrize("file", [file for file in FILES if not knows_names(file)], ids=name_of)
def test_only_families_and_patterns_know_architecture_names(file) -> None:
    if name_of(file) == "checkpoint/checkpoint.py":
        return  # its table of buffers, which count as no parameters
    assert [text.value for text in texts(file) if ARCHITECTURE_NAMES.search(text.value)] == []


def test_the_file_that_knows_architecture_names_has_some() -> None:
    assert [text.value for text in texts(PACKAGE / "graph" / "families.py") if ARCHITECTURE_NAMES.search(text.value)]


# form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_and_no_function_is_too_long(file) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    if name_of(file) == "options.py":
        long.pop("common", None)  # one declaration a flag, and no logic
    assert long == {}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_everything_public_says_what_it_is(file) -> None:
    tree = tree_of(file)
    assert ast.get_docstring(tree) or not tree.body
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes, and the public methods of public classes; no functions inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("file", [file for file in FILES if any(_defines(file, "analyse"))], ids=name_of)
def test_a_theory_opens_with_its_source_formula_symbols_and_status(file) -> None:
    text = ast.get_docstring(tree_of(file)) or ""
    words = [line.split()[0] for line in text.splitlines() if line[:1].isupper()]
    assert [word for word in ("Source", "Formula", "Symbols", "Reads", "Status") if word not in words] == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_ignore_has_codes_and_a_reason(file) -> None:
    source = file.read_text(encoding="utf-8")
    reasons: set[int] = set()  # lines whose comment gives the line below its reason too
    bare = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, found = token.start[0], MARK.search(token.string)
        words = re.findall(r"\w+", found["rest"] if found else token.string)
        if len(words) >= 2 or line - 1 in reasons:
            reasons.add(line)
        if found and not (found["codes"] and line in reasons):
            bare.append(f"{line}: {token.string}")
    assert bare == []
