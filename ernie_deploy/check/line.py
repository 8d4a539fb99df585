"""Line numbers that know their file: a stack is merged from several, and each finding names the one it stands in."""

from typing import Self


class Line(int):
    """A line number of `file`; adding lines keeps the file."""

    file: str

    def __new__(cls, number: int, file: str) -> Self:
        """The line `number`, counted from 1, of `file`."""
        line = super().__new__(cls, number)
        line.file = file
        return line

    def __add__(self, lines: int) -> "Line":
        return Line(int(self) + lines, self.file)


def file_of(line: int, default: str) -> str:
    """The file that a line knows; `default` for a plain number."""
    return line.file if isinstance(line, Line) else default
