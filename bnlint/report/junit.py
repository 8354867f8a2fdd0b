"""JUnit's XML: a test suite for each target, a test case for each finding."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from bnlint.job import Report, TargetReport
from bnlint.report.place import fails, findings, path_in, sentence
from bnlint.report.text import Look, clean
from bnlint.rule import ENGINE_CODES, Finding, Severity


def render(report: Report, look: Look | None = None) -> str:
    """The document. What did not happen is an error, what was found a failure, and a remark a case that passes."""
    root = Element("testsuites", name="bnlint")
    suites = [_suite(target) for target in report.targets]
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=False).decode()  # for any console's encoding
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'


def _suite(target: TargetReport) -> Element:
    rows = findings(Report([target]))
    broken = [row for row in rows if _is_broken(row)]
    failed = [row for row in rows if fails(row) and row not in broken]
    suite = Element("testsuite", name=clean(target.target), tests=str(max(len(rows), 1)))
    suite.set("failures", str(len(failed)))
    suite.set("errors", str(len(broken)))
    suite.set("time", f"{sum(target.seconds.values()):.3f}")
    for row in rows:
        _case(suite, row)
    if not rows:
        SubElement(suite, "testcase", name="no findings", classname=clean(target.target), time="0")
    return suite


def _case(suite: Element, finding: Finding) -> None:
    at = finding.location
    where = f"{clean(path_in(at.file))}:{at.line}" if at else clean(finding.target)
    owner = clean(finding.target + (f":{finding.module_path}" if finding.module_path else ""))
    case = SubElement(suite, "testcase", name=f"{finding.code} {finding.name} {where}", classname=owner, time="0")
    text = "\n".join([f"{where}: {sentence(finding)}", *(f"help: {clean(finding.help)}" for _ in [0] if finding.help)])
    if fails(finding):
        kind = "error" if _is_broken(finding) else "failure"
        child = SubElement(case, kind, message=sentence(finding), type=finding.severity.value)
    else:
        child = SubElement(case, "system-out")
    child.text = text


def _is_broken(finding: Finding) -> bool:
    return finding.code in ENGINE_CODES and finding.severity is Severity.ERROR
