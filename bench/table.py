"""A figure, its base, their ratio, and the bar: one row."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Row:
    what: str
    figure: str
    base: str = ""
    ratio: str = ""
    bar: str = ""


def show(machine: str, rows: list[Row]) -> None:
    print(f"\n{machine}\n")
    print(
        tabulate(
            [(row.what, row.figure, row.base, row.ratio, row.bar) for row in rows],
            headers=("what", "figure", "base", "ratio", "bar"),
            tablefmt="github",
            disable_numparse=True,
        )
    )


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def times(value: float, base: float) -> str:
    return f"{value / base:.1f}x"
