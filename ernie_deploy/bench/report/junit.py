"""The report as JUnit XML, so that a CI shows each cell as a test case."""

import re
from xml.etree import ElementTree as ET

from ernie_deploy.bench.report.view import FailedAttempt, Row, View
from ernie_deploy.bench.report.wording import counted, number

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def junit(view: View) -> str:
    """A suite of cells: invalid and failed are failures, suspect and interrupted are skipped."""
    suite = ET.Element("testsuite", name="ernie-deploy bench")
    for row in view.rows:
        suite.append(_case(row, [t for t in view.troubles if t.row == row.name and not t.superseded]))
    for odd in view.across:
        name = _clean(f"{odd.cell} {odd.check.id}")
        case = ET.SubElement(suite, "testcase", classname="across cells", name=name)
        ET.SubElement(case, "skipped", message=_clean(odd.check.text))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("*/failure"))))
    suite.set("skipped", str(len(suite.findall("*/skipped"))))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(row: Row, troubles: list[FailedAttempt]) -> ET.Element:
    duration = row.figure("duration_s")
    seconds = number(duration.median, 3).replace(",", "") if duration else "0"
    case = ET.Element("testcase", classname=_clean(row.load), name=_clean(row.name), time=seconds)
    broken = [t for t in troubles if t.status in ("invalid", "failed")]
    if broken:
        message = f"{counted(len(broken), 'repeat')} {broken[0].status}"
        ET.SubElement(case, "failure", message=message).text = _clean("\n".join(_told(t) for t in broken))
    elif troubles:
        message = _clean("; ".join(_told(t) for t in troubles))
        ET.SubElement(case, "skipped", message=message)
    return case


def _told(trouble: FailedAttempt) -> str:
    reasons = [f"{check.id} ({check.level}): {check.text}" for check in trouble.checks] or list(
        trouble.reasons
    )
    return f"{trouble.cell} {trouble.status}: {'; '.join(reasons)}"


def _clean(text: str) -> str:
    """`text` with a mark for each character that XML cannot hold."""
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
