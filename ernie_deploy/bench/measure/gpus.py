"""Which GPUs a serving container sees, by the vendor's own tool in its image."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker.models.containers import Container

NVIDIA = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
AMD = ["rocm-smi", "--showproductname", "--showdriverversion", "--csv"]


def visible_gpus(container: "Container") -> tuple[tuple[str, ...], str]:
    """Names of the GPUs and the driver's version; empty where no tool answers, as on a CPU."""
    if nvidia := _run(container, NVIDIA):
        return read_nvidia(nvidia)
    return read_amd(_run(container, AMD))


def read_nvidia(text: str) -> tuple[tuple[str, ...], str]:
    """`NVIDIA H100 80GB HBM3, 580.65.06`, a line a GPU."""
    rows = [line.rpartition(",") for line in text.splitlines() if "," in line]
    return tuple(name.strip() for name, _, _ in rows), rows[0][2].strip() if rows else ""


def read_amd(text: str) -> tuple[tuple[str, ...], str]:
    """rocm-smi's CSV: a header with `Card Series`, a row a GPU, the driver in a table of its own."""
    names: list[str] = []
    driver, column = "", None
    for cells in (line.split(",") for line in text.splitlines()):
        if "Card Series" in cells or "Card series" in cells:
            column = next(i for i, cell in enumerate(cells) if cell.lower() == "card series")
        elif cells[0].startswith("card") and column is not None and len(cells) > column:
            names.append(cells[column].strip())
        elif ("driver version" in cells[0].lower() and len(cells) > 1) or (
            cells[0] == "system" and len(cells) > 1
        ):
            driver = cells[-1].strip()
    return tuple(names), driver


def _run(container: "Container", words: list[str]) -> str:
    from docker.errors import APIError

    try:
        done = container.exec_run(words, stderr=False)
    except APIError:
        return ""
    return done.output.decode("utf-8", "replace") if done.exit_code == 0 else ""
