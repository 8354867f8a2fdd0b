"""Comments that silence a finding: `# bnlint: ignore[BN105, bias-before-norm] reason`, never all of them at once.

A comment counts on the line that builds a layer, on the line that calls it, and on a `class` line for all of the class;
`# bnlint: file-ignore[...]` counts for its file. A comment alone on its line speaks of the next line of code.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from bnlint.job import TargetReport
from bnlint.registry import codes_by_name, what_became
from bnlint.rule import ENGINE_CODES, Finding, Location, Place, Rule, Severity, engine_finding

_COMMENT = re.compile(r"#\s*bnlint:\s*(?P<word>[\w-]*)(?:\[(?P<codes>[^\]]*)\])?(?P<rest>.*)")
_WORDS = ("ignore", "file-ignore")
_ALWAYS = {code for code, row in ENGINE_CODES.items() if row.severity is Severity.ERROR}
Rules = Mapping[str, type[Rule]]


@dataclass(eq=False)
class Comment:
    """One comment with the codes it names, the lines it speaks of and the codes that it did silence."""

    at: Location
    codes: tuple[str, ...]
    reason: str
    lines: range | None  # None: the whole file
    used: set[str] = field(default_factory=set)

    def covers(self, code: str, places: Iterable[Location | None]) -> bool:
        """Whether it speaks of this code at one of these places: on the first or the last line of it."""
        return code in self.codes and any(
            place and place.file == self.at.file and (self.lines is None or _touches(self.lines, place))
            for place in places
        )

    @property
    def words(self) -> str:
        """What a silenced finding says of it."""
        return f"{self.at.file}:{self.at.line}" + (f": {self.reason}" if self.reason else "")


def suppress(rows: Sequence[TargetReport], rules: Rules, ran: Mapping[str, set[str]], *, whole: bool) -> None:
    """Marks the findings that comments silence, and adds BN907 and BN908 for comments that do nothing.

    `ran` holds the codes of the rules that ran, by target. Only when `whole`, when everything that is configured was
    checked, is it known that a comment silences nothing.
    """
    files = {name: _File(name, rules) for name in sorted({name for row in rows for name in _names(row)})}
    comments = [comment for file in files.values() for comment in file.comments]
    for row in rows:
        row.findings = [_silenced(finding, comments) for finding in row.findings]
    for name, file in files.items():
        users = [row for row in rows if name in _names(row)]
        users[0].findings += [replace(f, target=users[0].target) for f in file.problems]
        if whole:
            for comment in file.comments:
                judges = [row for row in users if file.judged(comment, row.classes.get(name, ()))]
                for code in comment.codes:
                    if judges and code not in comment.used and all(code in ran[row.target] for row in judges):
                        judges[0].findings.append(replace(_unused(comment, code, rules), target=judges[0].target))


def _silenced(finding: Finding, comments: Iterable[Comment]) -> Finding:
    found = [c for c in comments if c.covers(finding.code, (finding.location, finding.call))]
    for comment in found:
        comment.used.add(finding.code)
    return replace(finding, suppressed=finding.suppressed or found[0].words) if found else finding


def _unused(comment: Comment, code: str, rules: Rules) -> Finding:
    name = rules[code].name if code in rules else ENGINE_CODES[code].name
    message = f"nothing is found here that `{code}` ({name}) would have to be ignored for"
    return engine_finding("BN907", message, help="remove it from the comment", place=Place("", comment.at))


def _names(row: TargetReport) -> set[str]:
    """The files that the comments of a target may stand in."""
    places = [place for f in row.findings for place in (f.location, f.call) if place]
    return {*row.classes, *(place.file for place in places)}


def _touches(lines: range, place: Location) -> bool:
    return place.line in lines or (place.end_line is not None and place.end_line in lines)


class _File:
    """The comments of one file, and what is wrong with some."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name, self._rules = name, rules
        self.comments: list[Comment] = []
        self.problems: list[Finding] = []
        self.text = _read(name)
        if "bnlint:" in self.text:
            for token in _tokens(self.text):
                for match in _COMMENT.finditer(token.string):
                    self._take(token, match)

    def judged(self, comment: Comment, classes: Sequence[int]) -> bool:
        """Whether the model that is built of the classes on these lines says that a comment is not needed.

        A comment is judged together with the class or function around it, one for the file by all of its classes.
        """
        rows = [row for row in self._tree.body if comment.lines is None or _has(row, comment.at.line)]
        if comment.lines is None:
            rows = [row for row in rows if isinstance(row, ast.ClassDef)]
        return bool(rows) and all(any(_has(row, line) for line in classes) for row in rows)

    def _take(self, token: tokenize.TokenInfo, match: re.Match[str]) -> None:
        line, column = token.start[0], token.start[1] + match.start() + 1
        at = Location(self.name, line, column, line, token.start[1] + len(token.string.rstrip()) + 1)
        word, text = match["word"], match["codes"]
        if word not in _WORDS or text is None or not text.strip():
            near = word if word in _WORDS else ""
            message = f"`{token.string[match.start() : match.start() + 40].strip()}` names no rule to ignore"
            help = f"write `# bnlint: {near or 'ignore'}[CODE] reason`, with the code or the name of each rule"
            self.problems.append(engine_finding("BN908", message, help=help, place=Place("", at)))
            return
        codes = tuple(filter(None, (self._code(part.strip(), at) for part in text.split(","))))
        reason = re.split(r"\s#", match["rest"])[0].strip()
        self.comments.append(Comment(at, codes, reason, None if word == "file-ignore" else self._lines(token)))

    def _code(self, text: str, at: Location) -> str | None:
        names = codes_by_name(self._rules)
        code = text.upper() if text.upper() in names.values() else names.get(text.lower())
        if code in _ALWAYS:
            message = f"`{code}` says that a check did not happen, and cannot be ignored"
        elif code is None:
            message = f"there is no rule `{text}`{what_became(text, [*names.values(), *names])}"
        else:
            return code
        self.problems.append(engine_finding("BN908", message, place=Place("", at)))
        return None

    def _lines(self, token: tokenize.TokenInfo) -> range:
        """The lines a comment speaks of: its own or, when it is alone there, the next of code; of a class all."""
        line, rows = token.start[0], self.text.split("\n")
        if not token.line[: token.start[1]].strip():
            rest = range(line, len(rows))
            line = next((n + 1 for n in rest if rows[n].strip() and not rows[n].lstrip().startswith("#")), line)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ClassDef) and node.lineno <= line < max(node.body[0].lineno, node.lineno + 1):
                return range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return range(line, line + 1)

    @cached_property
    def _tree(self) -> ast.Module:
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError, RecursionError):
            return ast.Module([], [])


def _has(node: ast.stmt, line: int) -> bool:
    first = min([node.lineno, *(row.lineno for row in getattr(node, "decorator_list", ()))])
    return bool(first <= line <= (node.end_lineno or node.lineno))


def _read(name: str) -> str:
    try:
        with tokenize.open(Path(name)) as file:
            return file.read()
    except (OSError, SyntaxError, ValueError):
        return ""


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token
    except (tokenize.TokenError, SyntaxError):
        return
