"""Reading a user's file, row after row: unpacked, its encoding found, its format as its name says.

Rows stream: memory doesn't grow with a file, but for a JSON list, which is read whole. What is
wrong with a file is noted as an error of it, and its other rows are read on where that is possible.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from chatllama_pipeline.data.own.files.csv_rows import csv_rows, tsv_rows
from chatllama_pipeline.data.own.files.endings import PACKINGS, ending_cure, format_of, split_name
from chatllama_pipeline.data.own.files.excel_rows import excel_rows
from chatllama_pipeline.data.own.files.json_rows import Numbered, json_rows, jsonl_rows
from chatllama_pipeline.data.own.files.parquet_rows import parquet_rows
from chatllama_pipeline.data.own.rows import Reading
from chatllama_pipeline.data.unchanged import unchanged

_READERS: dict[str, Callable[[BinaryIO, Reading], Numbered]] = {
    "json": json_rows,
    "jsonl": jsonl_rows,
    "csv": csv_rows,
    "tsv": tsv_rows,
}
_PACKED_BY = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# What is told of a file that holds something else than its name says.
_OTHER_FORMATS = {
    b"PK\x03\x04": "is an Excel workbook or a zip; name it .xlsx, or unpack it",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"BZh": "is packed by bzip2; unpack it",
    b"\xfd7zXZ": "is packed by xz; unpack it",
    b"\xd0\xcf\x11\xe0": "is an old Excel file; save it as .xlsx or .csv",
}
_HEAD = 6
# Between two looks whether a file is still the same.
_ROWS_PER_LOOK = 1_000
# The longer mark first: that of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_file(path: Path, reading: Reading, also: Collection[str] | None = ()) -> Numbered:
    """The rows of a file as plain values, numbered from 1, not yet checked; of Parquet only columns
    that some format reads, and those that `also` names (None: all). Raises ChangedFileError where
    the file changes meanwhile: what was found wrong with it may be half of a row."""
    with unchanged(path) as require_unchanged:
        for count, row in enumerate(_read(path, reading, also)):
            if count % _ROWS_PER_LOOK == 0:
                require_unchanged()
            yield row


def _read(path: Path, reading: Reading, also: Collection[str] | None) -> Numbered:
    name, errors = reading.name, reading.errors
    form = format_of(path.name)
    if form is None:
        errors.add(f"{name}: {ending_cure(path.name)}")
        return
    packing = PACKINGS.get(split_name(path.name)[2], "")
    try:
        if form == "parquet":
            yield from parquet_rows(path, reading, also)
        elif form == "excel":
            yield from excel_rows(path, reading)
        else:
            with _opened(path, packing, reading) as handle:
                if handle is not None:
                    yield from _READERS[form](handle, reading)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        errors.add(f"{name}: is no gzip file, or one that was cut short ({error}); copy it again")
    except UnicodeDecodeError as error:
        errors.add(
            f"{name}: is no whole text in {error.encoding.upper()} ({error.reason}); save it as "
            "UTF-8"
        )
    except FileNotFoundError:
        errors.add(f"{name}: there is no such file; check its path")
    except OSError as error:
        if error.errno is None:
            told = f"is no zstd file, or one that was cut short ({error}); copy it again"
        else:
            told = f"cannot be read ({error.strerror}); give yourself the right to read it"
        errors.add(f"{name}: {told}")


@contextlib.contextmanager
def _opened(path: Path, packing: str, reading: Reading) -> Iterator[BinaryIO | None]:
    """The unpacked bytes of a file as UTF-8; None with an error noted for what is no text."""
    with contextlib.ExitStack() as stack:
        plain: Any = stack.enter_context(path.open("rb"))
        head = plain.peek(_HEAD)
        for magic, kind in _PACKED_BY.items():
            # A name that doesn't tell of a packing that is there does no harm.
            packing = packing or (kind if head.startswith(magic) else "")
        if packing == "gzip":
            plain = stack.enter_context(gzip.GzipFile(fileobj=plain))
        elif packing == "zstd":
            stream = pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")
            plain = stack.enter_context(io.BufferedReader(stream))
        head = plain.peek(_HEAD)[:_HEAD]
        for magic, told in _OTHER_FORMATS.items():
            if head.startswith(magic):
                reading.errors.add(f"{reading.name}: {told}")
                yield None
                return
        if b"\0" in head[:2] and not head.startswith(tuple(_MARKS)):
            reading.errors.add(
                f"{reading.name}: begins with a NUL byte, as UTF-16 without its mark does; save it "
                "as UTF-8"
            )
            yield None
            return
        for mark, encoding in _MARKS.items():
            if head.startswith(mark):
                plain = io.BufferedReader(_Recoded(plain, encoding))
                break
        yield plain


class _Recoded(io.RawIOBase):
    """A text of another encoding as bytes of UTF-8."""

    def __init__(self, handle: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(handle, encoding, newline="")
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._waiting:
            self._waiting = self._text.read(io.DEFAULT_BUFFER_SIZE).encode()
        count = min(len(buffer), len(self._waiting))
        buffer[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count
