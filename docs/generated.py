"""A MkDocs hook: what the reference pages show is read from the code, so that it is typed once.

A line ``{{ commands }}`` of a page becomes the Markdown that the function ``commands`` returns;
``PARTS`` names them all. ``on_config`` also lets the navigation name pages by a pattern
(``trials/*.md``). The functions need the package, not MkDocs; ``tests/docs`` calls them, too.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
import typing
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import normnet
from normnet import errors

DOCS = Path(__file__).parent
SOURCE = Path(normnet.__file__).parent
SHIPPED = ("paper", "default", "lesions")  # settings, in the order of the table's columns
ERROR_ID = re.compile(r"NN-[A-Z]+-\d{3}")


# --- command line ---


def commands() -> str:
    """Every command with its arguments and options, from the signatures that typer reads."""
    from normnet.cli.main import app, options

    texts = ["## normnet { #normnet }", _line(app.info.help), _parameters(options)]
    for command in app.registered_commands:
        words = ["normnet", str(command.name)]
        for parameter in parameters_of(command.callback):
            if parameter.required or not parameter.is_option:
                word = parameter.name.upper() + ("..." if parameter.many else "")
                word = f"{parameter.opts[0]} {word}" if parameter.is_option else word
                words.append(word if parameter.required else f"[{word}]")
        texts += [
            f"## normnet {command.name} {{ #{command.name} }}",
            f"```text\n{' '.join(words)} [OPTIONS]\n```",
            _escape(inspect.getdoc(command.callback) or ""),
            _parameters(command.callback),
        ]
    return "\n\n".join(texts)


@dataclass
class Parameter:
    """An argument or an option of a command."""

    name: str
    opts: list[str]  # empty: an argument
    value: str
    default: Any
    required: bool
    many: bool
    help: str

    @property
    def is_option(self) -> bool:
        """Whether it is given by its name."""
        return bool(self.opts)


def parameters_of(function: Any) -> list[Parameter]:
    """What a command takes, from the annotations of its function."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if typing.get_origin(hints[name]) is not typing.Annotated:
            continue  # the context
        kind, info = typing.get_args(hints[name])
        required = parameter.default is inspect.Parameter.empty
        is_option = type(info).__name__ == "OptionInfo"
        opts = [text for text in (info.default, *(info.param_decls or ())) if _is_opt(text)]
        opts = (opts or [f"--{name.replace('_', '-')}"]) if is_option else []
        many = "list[" in str(kind)
        default = None if required else parameter.default
        found.append(
            Parameter(
                opts[0].lstrip("-").replace("-", "_") if opts else name,
                opts,
                _value_of(kind, info, many),
                default,
                required,
                many,
                info.help or "",
            )
        )
    return found


def _is_opt(text: Any) -> bool:
    """Typer keeps the first name of an annotated option where a default would stand."""
    return isinstance(text, str) and text.startswith("-")


def _parameters(function: Any) -> str:
    rows = ["| argument or option | value | default | meaning |", "|---|---|---|---|"]
    for parameter in parameters_of(function):
        name = ", ".join(parameter.opts) or parameter.name.upper()
        shown = parameter.default is not None and parameter.default is not False
        default = "required" if parameter.required else f"`{parameter.default}`" if shown else ""
        rows.append(f"| `{name}` | {parameter.value} | {default} | {_line(parameter.help)} |")
    return "\n".join(rows)


def _value_of(kind: Any, info: Any, many: bool) -> str:
    inner = next(a for a in (typing.get_args(kind) or (kind,)) if a is not type(None))
    n = len(typing.get_args(inner)) if typing.get_origin(inner) is tuple else 1
    inner = typing.get_args(inner)[0] if typing.get_args(inner) else inner
    if inner is bool:
        return ""
    if issubclass(inner, Enum):
        return " or ".join(f"`{choice.value}`" for choice in inner)
    name = {Path: "path", str: "text", int: "whole number", float: "number"}[inner]
    low = f" ≥ {info.min:g}" if info.min is not None else ""
    return (f"{n} × " if n > 1 else "") + name + low + (", repeatable" if many else "")


# --- settings ---


def settings() -> str:
    """Every section and key, its value in each shipped file, and its comments in the sources."""
    from normnet.config import Config, load_config

    shipped = {name: load_config(name) for name in SHIPPED}
    comments = [
        comments_of_toml((SOURCE / "configs" / f"{name}.toml").read_text(encoding="utf-8"))
        for name in SHIPPED
    ]
    texts = []
    for section, info in Config.model_fields.items():
        kind: Any = info.annotation
        texts += [f"## [{section}] {{ #{section} }}", _line(inspect.getdoc(kind))]
        in_class = comments_of_class(kind)
        rows = [f"| key | type | {' | '.join(SHIPPED)} | meaning |", "|---" * 6 + "|"]
        for key, about in kind.model_fields.items():
            values = [_toml(getattr(getattr(shipped[name], section), key)) for name in SHIPPED]
            said = [about.description or "", in_class.get(key, "")]
            said += [found.get(f"{section}.{key}", "") for found in comments]
            meaning = " ".join(_sentence(part) for part in dict.fromkeys(said) if part)
            name = _type_name(about.annotation, about.metadata)
            rows.append(
                f"| `{key}` {{ #{section}.{key} }} | {name} | "
                f"{' | '.join(values)} | {_cell(meaning)} |"
            )
        texts.append("\n".join(rows).replace("` { #", "`{ #"))
    return "\n\n".join(texts)


def comments_of_toml(text: str) -> dict[str, str]:
    """``section.key`` to the comment above a key and the one behind its value."""
    found: dict[str, str] = {}
    section, above = "", []
    for line in text.splitlines():
        if head := re.match(r"\[([\w.-]+)\]", line):
            section, above = head[1], []
        elif line.startswith("#"):
            above.append(line.lstrip("# ").rstrip())
        elif key := re.match(r"([\w-]+)\s*=\s*(.*)", line):
            # outside of quotation marks, as in: name = "a # b"  # a comment
            behind = re.match(r"""(?:[^#"']|"[^"]*"|'[^']*')*#\s*(.*)""", key[2])
            parts = [" ".join(above), behind[1] if behind else ""]
            found[f"{section}.{key[1]}"] = "; ".join(part for part in parts if part)
            above = []
        elif not line.strip():
            above = []
    return {name: comment for name, comment in found.items() if comment}


def comments_of_class(kind: type) -> dict[str, str]:
    """Field to the comment above it and the one behind it in the source of a class."""
    lines = inspect.getsource(kind).splitlines()
    found: dict[str, str] = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        parts = []
        first = node.lineno - 2
        while first >= 0 and lines[first].lstrip().startswith("#"):
            parts.insert(0, lines[first].lstrip("# ").rstrip())
            first -= 1
        above = " ".join(parts)
        behind = [
            line.split("  # ", 1)[1].strip()
            for line in lines[node.lineno - 1 : node.end_lineno]
            if "  # " in line
        ]
        found[node.target.id] = "; ".join(part for part in (above, *behind) if part)
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _toml(value: Any) -> str:
    if value is None:
        return "*none*"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{part:g}' for part in value)}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


def _type_name(kind: Any, metadata: typing.Sequence[Any] = ()) -> str:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return " or ".join(f'`"{a}"`' if isinstance(a, str) else f"`{a}`" for a in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0], [*metadata, *arguments[1:]])
    if origin in (typing.Union, types.UnionType):
        names = [_type_name(a) for a in arguments if a is not type(None)]
        return " or ".join(names) + (", optional" if type(None) in arguments else "")
    if origin is tuple:
        first = _type_name(arguments[0])
        return f"list: {first}" if arguments[-1] is Ellipsis else f"{len(arguments)} × {first}"
    names = {float: "number", int: "whole number", bool: "true or false", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind))) + _range_of(metadata)


def _range_of(metadata: typing.Sequence[Any]) -> str:
    """The range that the annotations of a number give it: " 0 to 1"."""
    flat = [part for one in metadata for part in getattr(one, "metadata", [one])]
    limits = {
        name: getattr(part, name)
        for part in flat
        for name in ("ge", "gt", "le")
        if hasattr(part, name)
    }
    if "le" not in limits:
        return ""
    low = f"{limits['ge']:.10g} to" if "ge" in limits else f"above {limits['gt']:.10g}, up to"
    return f" {low} {limits['le']:.10g}"


# --- errors ---

# The middle of an id: what kind of thing went wrong, and the usual cause.
FAMILIES = {
    "CLI": ("Command line", "A command, an argument or an option does not exist or does not fit."),
    "CFG": ("Settings and devices", "A TOML file, a key, a value or `--device` is wrong."),
    "FILE": (
        "Files",
        "A file is missing, empty, damaged or of an unknown format; often a download or a copy "
        "that stopped half-way.",
    ),
    "GEO": (
        "Geometry",
        "Slices or axes do not form one regular volume, or a mask does not lie on the grid of "
        "its scan. The usual causes are slices lost in an export and masks made on a resampled "
        "copy.",
    ),
    "VAL": (
        "Values",
        "The voxels are not a chest CT in HU, or no lung is in it. The usual causes are pictures "
        "in 0 to 255, an inverted scale, another modality or another part of the body.",
    ),
    "EXT": (
        "Other programs",
        "nnU-Net or lungmask is not installed or failed, or its model does not find lungs.",
    ),
    "MOD": ("Models", "A model folder is incomplete, altered, or of another kind."),
    "OUT": ("Output", "A result cannot be written, or it would overwrite an input or other work."),
    "APP": (
        "Local app",
        "`normnet serve` cannot start, a request is not allowed or asks for what is not there, or "
        "an upload is too large.",
    ),
    "NET": (
        "DICOMweb and remote storage",
        "A server cannot be reached, does not let normnet in, has no such study, or refuses "
        "objects; a storage such as `s3://` cannot be read or written.",
    ),
    "RES": (
        "Resources",
        "The scan, a folder or a stream is larger than the limits, or the memory does not "
        "suffice. The limits guard against damaged headers.",
    ),
    "TRN": (
        "Training",
        "The CTs or the slabs that training needs are not there or were prepared otherwise, or the "
        "training itself failed.",
    ),
    "SYN": ("Synthetic lesions", "No lesion can be put into this CT."),
    "CMP": (
        "Comparison of two scans",
        "A result to compare is missing, incomplete, or of an older version.",
    ),
    "RPT": (
        "Reports",
        "The CT of a result is not where it was, or no browser is installed that prints.",
    ),
    "EVA": ("Evaluation", "Results and reference masks cannot be paired."),
    "DAT": (
        "Data sets and lists of cases",
        "A copy of a data set is incomplete or not laid out as known, or a CSV list is wrong. "
        "`normnet datasets check` finds most of these.",
    ),
    "EXP": ("Reproduction", "An experiment, a row or a scale is unknown, or its data are missing."),
    "BAS": (
        "Other methods",
        "A method that the paper compares with is unknown, cannot be trained so, or its file is "
        "another one.",
    ),
    "BUG": ("Errors of normnet itself", "Nothing that you did; please report it."),
}
UNKNOWN = "…"  # what is only known when the error happens


@dataclass
class ErrorEntry:
    """One id: all that the raise sites say of it."""

    found_of: dict[str, list[str]] = field(default_factory=dict)  # remedy to what was found
    kinds: set[str] = field(default_factory=set)

    def add(self, found: list[str], todo: list[str]) -> None:
        """Note a raise site; where both depend on the case, each remedy has its own finding."""
        paired = len(found) == len(todo)
        for n, remedy in enumerate(todo):
            known = self.found_of.setdefault(remedy, [])
            known += [text for text in (found[n : n + 1] if paired else found) if text not in known]


@cache
def error_ids() -> set[str]:
    """Every id that is written in the package's sources."""
    texts = (path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    return {code for text in texts for code in ERROR_ID.findall(text)}


def error_table() -> str:
    """Every id with what was found, what to do and the exit code, in a table per family."""
    entries = collect_errors()
    texts = []
    for family, (title, cause) in FAMILIES.items():
        rows = ["| id | what was found | what to do | exit code |", "|---|---|---|---|"]
        for code in sorted(entries):
            if code.split("-")[1] == family:
                rows += _error_rows(code, entries[code])
        texts += [f"## {title} {{ #{family} }}", cause, "\n".join(rows)]
    return "\n\n".join(texts)


def _error_rows(code: str, entry: ErrorEntry) -> list[str]:
    """One row per remedy; the id and the exit code stand in the first."""
    exits = {_exit_code(kind) for kind in entry.kinds} - {None}
    name = f'<span id="{code}"></span>`{code}`'
    exit_text = ", ".join(sorted(map(str, exits)))
    rows = []
    for todo, found in entry.found_of.items():
        rows.append(f"| {name} | {'<br>'.join(map(_cell, found))} | {_cell(todo)} | {exit_text} |")
        name = exit_text = ""
    return rows


def exit_codes() -> str:
    """The exit codes, from the classes of errors."""
    rows = ["| exit code | kind | meaning |", "|---|---|---|", "| 0 | | Everything went well. |"]
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.NormNetError) and kind is not errors.NormNetError:
            rows.append(f"| {kind.exit_code} | `{kind.__name__}` | {_line(inspect.getdoc(kind))} |")
    rows[3:] = sorted(rows[3:])  # by the code
    rows += [
        "| 9 | | A part of a batch failed; the other results are there. |",
        f"| {errors.NormNetError.exit_code} | `NormNetError` | An error of normnet itself. |",
        "| 130, 143 | | Stopped by Ctrl-C or by SIGTERM; the same command goes on. |",
    ]
    return "\n".join(rows)


@cache
def collect_errors() -> dict[str, ErrorEntry]:
    """All calls that have an error id as an argument: ``Kind(id, found, where, todo)``."""
    entries: dict[str, ErrorEntry] = defaultdict(ErrorEntry)
    for path in sorted(SOURCE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        for call, function in _calls(tree):
            codes, rest = _codes_and_rest(call, function, tree)
            if not codes:
                continue
            kind = call.func.id if isinstance(call.func, ast.Name) else ""
            if _exit_code(kind) is None:  # a function of the module that makes the error
                kind = _raised_by(kind, tree)
            for code in codes:
                entries[code].kinds.add(kind)
                said = [_texts(node, function, tree) for node in (*rest[:1], *rest[2:3])]
                entries[code].add(said[0] if said else [], said[1] if len(said) > 1 else [])
        for code, todo in re.findall(r'"(NN-[A-Z]+-\d{3}): [^";]+; ([^"]+)"', source):
            entries[code].kinds.add("ConfigError")  # a usage error, put into words in the CLI
            entries[code].add([UNKNOWN], [todo])
    for code in error_ids():
        entry = entries[code]
        if len(entry.found_of) > 1 and entry.found_of.get(UNKNOWN) == [UNKNOWN]:
            del entry.found_of[UNKNOWN]  # handed on by a function; its callers say more
    return dict(entries)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST | None]]:
    """Every call with the innermost function around it."""

    def walk(node: ast.AST, function: ast.AST | None) -> Iterator[tuple[ast.Call, ast.AST | None]]:
        inside = node if isinstance(node, ast.FunctionDef) else function
        if isinstance(node, ast.Call):
            yield node, inside
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(tree, None)


def _codes_and_rest(
    call: ast.Call, function: ast.AST | None, tree: ast.Module
) -> tuple[list[str], list[ast.expr]]:
    for n, argument in enumerate(call.args):
        codes = [text for text in _texts(argument, function, tree) if ERROR_ID.fullmatch(text)]
        if codes:
            return codes, call.args[n + 1 :]
    return [], []


def _texts(node: ast.AST, function: ast.AST | None, tree: ast.Module, depth: int = 0) -> list[str]:
    """What an expression can say; parts known only at run time as ``UNKNOWN``."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(_part(value) for value in node.values)]
    if isinstance(node, ast.IfExp):
        return [t for side in (node.body, node.orelse) for t in _texts(side, function, tree, depth)]
    if isinstance(node, ast.Name) and depth < 3:
        for scope in (function, tree):
            values = _assignments(scope).get(node.id)
            if values:
                return [t for value in values for t in _texts(value, function, tree, depth + 1)]
    return [UNKNOWN]


@cache
def _assignments(scope: ast.AST | None) -> dict[str, list[ast.expr]]:
    """What each name of a function, or of a module outside of its functions, is set to."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    if scope is None:
        return found
    for node in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id].append(node.value)
    return found


def _part(node: ast.AST) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else UNKNOWN


def _raised_by(name: str, tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for inner in ast.walk(node):
                kind = getattr(getattr(inner, "func", None), "id", "")
                if _exit_code(kind) is not None:
                    return kind
    return ""


def _exit_code(kind: str) -> int | None:
    found = getattr(errors, kind, None) if kind else None
    return getattr(found, "exit_code", None)


# --- Python and numbers of the method ---


def public_names() -> str:
    """An entry of mkdocstrings for every public name."""
    homes = normnet._HOMES
    order = [name for name in normnet.__all__ if name in homes]
    calls = [name for name in order if name[0].islower()]
    texts = []
    for name in (*calls, *(name for name in order if name not in calls)):
        texts.append(f"::: normnet.{homes[name]}.{name}\n    options:\n      heading_level: 2")
    return "\n\n".join(texts)


def result_keys() -> str:
    """The keys of ``result.json``, from the docstring of the module that describes them."""
    for path in sorted((SOURCE / "results").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found = re.findall(r"^    (\w+) {2,}(.+(?:\n {12,}.+)*)", text, re.MULTILINE)
        if found:
            rows = [f"| `{key}` | {_line(meaning)} |" for key, meaning in found]
            return "\n".join(["| key | what it holds |", "|---|---|", *rows])
    raise LookupError("no module of normnet.results lists the keys of result.json")


# --- inputs ---


@cache
def accepted_inputs() -> str:
    """Every kind of input of the tests' table with what happens to it, found by trying it."""
    sys.path.insert(0, str(DOCS.parent))  # the tests lie beside the documentation
    try:
        from tests.robustness.table import GROUPS, ROWS
    finally:
        sys.path.pop(0)
    texts = []
    for group, title in GROUPS.items():
        lines = ["| input | what happens | id, exit code | what to do |", "|---|---|---|---|"]
        lines += [_input_row(row) for row in ROWS if row.group == group]
        texts += [f"## {title} {{ #{group} }}", "\n".join(lines)]
    return "\n\n".join(texts)


def _input_row(row: Any) -> str:
    found, name, todo = "Accepted.", "0", ""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that write bad files
        try:
            result = row.run(row.make(Path(folder)))
            said = [text.partition(": ")[2] for text in getattr(result, "warnings", ())]
            found = f"Accepted, with a warning: {'; '.join(said)}." if said else found
        except errors.NormNetError as error:
            found = _sentence(error.found).replace(folder, "")
            name = f"[`{error.code}`](errors.md#{error.code}), {error.exit_code}"
            todo = _sentence(error.todo)
    found = re.sub(r"\b\d+(?:\.\d+){5,}", UNKNOWN, found)  # UIDs are made anew each time
    return f"| {_line(row.kind)} | {_line(found)} | {name} | {_line(todo)} |"


# --- the hook ---

PARTS = {
    "commands": commands,
    "settings": settings,
    "error_table": error_table,
    "exit_codes": exit_codes,
    "public_names": public_names,
    "result_keys": result_keys,
    "accepted_inputs": accepted_inputs,
}


def fill(markdown: str) -> str:
    """A page with the generated parts in place of their names."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda m: PARTS[m[1]](), markdown, flags=re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs: before a page becomes HTML."""
    return fill(markdown)


def on_config(config: Any) -> Any:
    """MkDocs: patterns in the navigation become the pages that match, newest name first."""
    config["nav"] = _expand(config["nav"])
    return config


def _expand(entries: list[Any]) -> list[Any]:
    expanded: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and "*" in entry:
            found = sorted(DOCS.glob(entry), reverse=True)
            expanded += [path.relative_to(DOCS).as_posix() for path in found]
        elif isinstance(entry, dict):
            expanded.append({k: _expand(v) if isinstance(v, list) else v for k, v in entry.items()})
        else:
            expanded.append(entry)
    return expanded


def _line(text: str | None) -> str:
    return _cell(" ".join((text or "").split()))


def _cell(text: str) -> str:
    return _escape(text).replace("|", "\\|")


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, but for words between backticks."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        part if n % 2 else escape(part, quote=False).replace("*", "\\*").replace("_", "\\_")
        for n, part in enumerate(parts)
    )


if __name__ == "__main__":
    for name in PARTS:
        print(PARTS[name]())
