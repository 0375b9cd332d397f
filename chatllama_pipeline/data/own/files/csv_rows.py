"""The rows of CSV and TSV files: the first record names the columns.

Values are separated by commas, by semicolons (as Excel writes them in countries with a decimal
comma) or by tabs; a first line `sep=;` says so, else the header tells.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from chatllama_pipeline.data.columns import columns_error, without_nameless
from chatllama_pipeline.data.own.files.json_rows import Numbered
from chatllama_pipeline.data.own.recognising import is_known
from chatllama_pipeline.data.own.rows import Reading

# A text of a CSV file, at most; a missing quote would else read the rest of the file as one.
LONGEST_TEXT = 256 * 2**20
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAID = re.compile(r'"?sep=(.)"?\s*')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def csv_rows(handle: BinaryIO, reading: Reading) -> Numbered:
    """A row per record; stray bytes are found with the text that they stand in."""
    yield from _rows(handle, reading, "")


def tsv_rows(handle: BinaryIO, reading: Reading) -> Numbered:
    """A row per record, its values separated by tabs."""
    yield from _rows(handle, reading, "\t")


def _rows(handle: BinaryIO, reading: Reading, separator: str) -> Numbered:
    reading.texts = True
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_TEXT))
    with io.TextIOWrapper(handle, "utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = _Lines(text)
        separator = lines.separator() or separator or _separator_of(lines.first)
        reading.decimal_comma = separator != ","
        reader = csv.reader(lines, strict=True, delimiter=separator)
        try:
            yield from _records(reader, separator, reading)
        except csv.Error as error:
            reading.errors.add(
                f"{reading.name}, line {reader.line_num + lines.passed_over}: {error}; put texts "
                'in double quotes, and write a double quote within one as ""'
            )


class _Lines:
    """The lines of a file, the first of which may be looked at before."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.first = text.readline()
        self.passed_over = 0

    def separator(self) -> str:
        """What a first line `sep=` says, which is no record then; "" without one."""
        if said := _SAID.fullmatch(self.first):
            self.first = self._text.readline()
            self.passed_over = 1
            return said[1]
        return ""

    def __iter__(self) -> Iterator[str]:
        yield self.first
        yield from self._text


def _separator_of(header: str) -> str:
    """The separator that makes known fields of a header, else the one that stands in it."""
    plain = _QUOTED.sub(lambda quoted: "x" * len(quoted[0]), header)
    there = [mark for mark in _SEPARATORS if mark in plain]

    def known(mark: str) -> int:
        return sum(map(is_known, (name.strip().strip('"') for name in header.split(mark))))

    return max(there, key=known, default=",")


def _records(reader: Iterator[list[str]], separator: str, reading: Reading) -> Numbered:
    header = [name.strip() for name in next(reader, [])]
    if told := columns_error(header):
        reading.errors.add(f"{reading.name}: {told}")
        return
    names = without_nameless(header)
    for number, record in enumerate(filter(None, reader), start=1):
        if len(record) == len(header):
            yield number, {name: record[place] for name, place in names.items()}
        else:
            reading.errors.add(
                f"{reading.name}, row {number}: {_wrong_count(record, header, separator)}"
            )


def _wrong_count(record: list[str], header: list[str], separator: str) -> str:
    told = f"has {len(record)} values, and the header names {len(header)} columns"
    for mark, words in _SEPARATORS.items():
        if mark != separator and len(record) == 1 and record[0].count(mark) == len(header) - 1:
            return (
                f"{told}; the row is separated by {words}, the header by {_SEPARATORS[separator]}: "
                "use one of them in the whole file"
            )
    kind = _SEPARATORS.get(separator, repr(separator))
    return f"{told}; put texts that hold {kind} in double quotes"
