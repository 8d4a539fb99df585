"""Reads sizes as Docker writes them, such as `16g`."""

import re

UNITS = "kmgt"


def size_parts(text: str) -> tuple[str, str] | None:
    """The number of a size and the small letter of its unit, empty for bytes; None where the text is no size."""
    # Compiled when it is asked for: rendering a compose file asks for none.
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    return (match[1], match[2]) if match else None


def size_bytes(text: str) -> int | None:
    """The bytes of a size, its units powers of 1024; None where the text is no size."""
    if not (parts := size_parts(text)):
        return None
    number, unit = parts
    return int(float(number) * 1024 ** (UNITS.index(unit) + 1 if unit else 0))
