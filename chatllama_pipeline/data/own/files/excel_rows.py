"""The rows of an Excel workbook (.xlsx): its one sheet with cells, as a CSV file of it would hold
them. A formula counts as the value that Excel saved with it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.columns import columns_error, without_nameless
from chatllama_pipeline.data.own.files.json_rows import Numbered
from chatllama_pipeline.data.own.rows import Reading

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
# Number formats that show the number itself.
_PLAIN_FORMATS = {"General", "0", "@", "0.0", "0.00", None}
# What Excel keeps of a longer text.
_LONGEST_CELL = 32_767
_OLD_OR_LOCKED = b"\xd0\xcf\x11\xe0"


def excel_rows(path: Path, reading: Reading) -> Numbered:
    """A row per row of the sheet, with the sheet's own numbers; its first row with cells names the
    columns. Raises OSError as reading a file does."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        reading.errors.add(
            f"{reading.name}: needs the package openpyxl: install the extra `excel` "
            "(pip install -c constraints.txt -e '.[excel]'), or save it as .csv"
        )
        return
    reading.texts = True
    with path.open("rb") as handle:
        if handle.read(4) == _OLD_OR_LOCKED:
            reading.errors.add(
                f"{reading.name}: is an old .xls file, or one with a password; save it as a plain "
                ".xlsx"
            )
            return
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            yield from _sheet_rows(book, path, reading)
        finally:
            book.close()
    except (zipfile.BadZipFile, KeyError, ET.ParseError, ValueError) as error:
        reading.errors.add(
            f"{reading.name}: is no Excel workbook, or a damaged one ({error}); save it again"
        )


def _sheet_rows(book: Any, path: Path, reading: Reading) -> Numbered:
    full = [sheet for sheet in book.worksheets if _has_cells(sheet)]
    if not full:
        return
    if len(full) > 1:
        names = ", ".join(sheet.title for sheet in full)
        reading.errors.add(
            f"{reading.name}: has {len(full)} sheets with cells ({names}); keep one, or save each "
            "as a file of its own"
        )
        return
    if told := _sheet_error(path, full[0]._worksheet_path):
        reading.errors.add(f"{reading.name}: {told}")
        return
    header: list[str] = []
    for number, cells in enumerate(full[0].iter_rows(), start=1):
        if all(cell.value is None for cell in cells):
            continue
        texts, told = _texts(cells)
        if told:
            reading.errors.add(f"{reading.name}, row {number}: {told}")
        elif not header:
            header = [text.strip() for text in texts]
            if told := columns_error(header):
                reading.errors.add(f"{reading.name}: {told}")
                return
        else:
            row = {
                name: texts[place] if place < len(texts) else ""
                for name, place in without_nameless(header).items()
            }
            _warn_of_cuts(row, number, reading)
            yield number, row


def _has_cells(sheet: Any) -> bool:
    if not hasattr(sheet, "iter_rows"):
        return False
    return any(cell.value is not None for row in sheet.iter_rows() for cell in row)


def _sheet_error(path: Path, inside: str) -> str | None:
    """What a table can't have: merged cells, and formulas without the value they come to."""
    with zipfile.ZipFile(path) as archive, archive.open(inside) as sheet:
        for _, element in ET.iterparse(sheet):
            if element.tag == f"{_SHEET}mergeCell":
                return (
                    f"the cells {element.get('ref')} are merged; unmerge them, and write into each "
                    "what belongs there"
                )
            if element.tag == f"{_SHEET}c":
                formula, value = element.find(f"{_SHEET}f"), element.find(f"{_SHEET}v")
                if formula is not None and (value is None or not value.text):
                    return (
                        f"the cell {element.get('r')} holds a formula without its value; open the "
                        "file in Excel and save it, or write the value"
                    )
                element.clear()
    return None


def _texts(cells: Sequence[Any]) -> tuple[list[str], str]:
    """The texts of a row's cells, and what is wrong with one, "" if nothing."""
    from openpyxl.utils.escape import unescape

    found = []
    for cell in cells:
        value = cell.value
        if value is None:
            found.append("")
        elif isinstance(value, str) and cell.data_type != "e":
            found.append(unescape(value))
        elif isinstance(value, bool):
            found.append("true" if value else "false")
        elif isinstance(value, int | float) and cell.number_format in _PLAIN_FORMATS:
            found.append(str(value))
        else:
            return [], f"the cell {cell.coordinate} {_odd_cell(cell)}"
    return found, ""


def _odd_cell(cell: Any) -> str:
    if cell.data_type == "e":
        return f"holds the error {cell.value}; correct it"
    if isinstance(cell.value, int | float):
        return f"is shown as {cell.number_format}; format it as text, and write what is meant"
    return "holds a date or time; format it as text, and write it as it should read"


def _warn_of_cuts(row: dict[str, str], number: int, reading: Reading) -> None:
    for name, text in row.items():
        if len(text) >= _LONGEST_CELL:
            reading.errors.warn(
                f"{reading.name}, row {number}, field {name}: has {len(text):,} characters, all "
                "that a cell of Excel holds: its end may be lost"
            )
