"""Something that reading the input showed, before any rule looked at a service."""

from msgspec import Struct


class Remark(Struct, frozen=True):
    """One sentence for the rule `rule`, of one service or (empty) of the whole stack."""

    rule: str
    line: int
    sentence: str
    service: str = ""
    remedy: str = ""
    severe: bool = False
