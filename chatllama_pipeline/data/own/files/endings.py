"""Which format a file's ending tells of, in capital or small letters; and what packs it."""

from __future__ import annotations

FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".xlsx": "excel",
    ".parquet": "parquet",
}
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
# A workbook and a Parquet file are packed in themselves, and read from several places at once.
_NEVER_PACKED = ("excel", "parquet")
TOLD_ENDINGS = ", ".join(FORMATS)
# What other programs write rows into, and what to do about it.
_OTHERS = {
    ".xls": "save it as .xlsx or .csv",
    ".xlsm": "save it as .xlsx or .csv",
    ".ods": "save it as .xlsx or .csv",
    ".numbers": "save it as .xlsx or .csv",
    ".pq": "name it .parquet",
    ".parq": "name it .parquet",
    ".arrow": "write it as .parquet",
    ".feather": "write it as .parquet",
    ".pkl": "write it as .jsonl or .parquet",
    ".pickle": "write it as .jsonl or .parquet",
    ".json5": "write it as .json",
    ".jsonlines": "name it .jsonl",
    ".jl": "name it .jsonl",
    ".zip": "unpack it",
    ".bz2": "unpack it",
    ".xz": "unpack it",
    ".7z": "unpack it",
    ".tar": "unpack it",
    ".tgz": "unpack it",
    ".rar": "unpack it",
    ".txt": "write its rows as .jsonl or .csv",
    ".xml": "write its rows as .jsonl or .csv",
    ".yml": "write its rows as .json",
    ".yaml": "write its rows as .json",
}


def split_name(name: str) -> tuple[str, str, str]:
    """A file's name as stem, ending and the ending of its packing, each "" where there is none;
    endings in small letters."""
    packing = next((end for end in PACKINGS if name.lower().endswith(end)), "")
    plain = name[: len(name) - len(packing)]
    stem, dot, ending = plain.rpartition(".")
    return (stem, f".{ending.lower()}", packing) if dot and stem else (plain, "", packing)


def format_of(name: str) -> str | None:
    """The format that a file's name tells of; None for none that is read."""
    _, ending, packing = split_name(name)
    form = FORMATS.get(ending)
    return None if packing and form in _NEVER_PACKED else form


def is_data(name: str) -> bool:
    """Whether a file's name tells of rows, in a format that is read or in another."""
    _, ending, packing = split_name(name)
    return bool(packing) or ending in FORMATS or ending in _OTHERS


def ending_cure(name: str) -> str:
    """What to do about a file whose ending tells of no format that is read."""
    _, ending, packing = split_name(name)
    if packing and FORMATS.get(ending) in _NEVER_PACKED:
        return f"{ending} is packed in itself: unpack it"
    cure = _OTHERS.get(ending, f"name it with one of {TOLD_ENDINGS}")
    return f"its ending tells of no format that is read; {cure}"
