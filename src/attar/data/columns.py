"""Columns of a parquet file that somebody else wrote: no more memory than its bytes give reason for. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOST_UNFOLDED = 50
"""Encoded images shrink little; a file that unfolds to more than this times its bytes is no table of images."""
_BATCH_ROWS = 64
_LEAST_BYTES = 1 << 20
UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)
"""What reading a damaged file may raise."""


def read_columns(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a table of these columns, or of all; raises one of UNREADABLE."""
    batches = list(read_batches(path, columns))
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
    return pa.Table.from_batches(batches, schema)


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Read these columns, or all, some rows after the others; raises one of UNREADABLE.

    A thousand bytes may say that they are a billion rows.
    """
    left = MOST_UNFOLDED * max(path.stat().st_size, _LEAST_BYTES)
    wanted = None if columns is None else list(columns)
    with pq.ParquetFile(path) as file:
        for number in range(file.metadata.num_row_groups):  # one by one, or all are read first
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=wanted):
                left -= batch.nbytes
                if left < 0:
                    raise ValueError(f"{path.name} unfolds to more than {MOST_UNFOLDED} times its bytes")
                yield batch


def require_names(schema: Any) -> None:
    """Raise ValueError unless columns, and fields of structs, have names that are text and differ."""
    names = [field.name for field in schema]
    if len(set(names)) < len(names):
        raise ValueError(f"columns of the same name: {', '.join(names)}")
    for kind in schema.types:
        if pa.types.is_struct(kind):
            _ = [kind.field(number).name for number in range(kind.num_fields)]


def column_bytes(path: Path, column: str) -> int:
    """Bytes that one column takes as stored, such as `image.bytes` or `label`; raises one of UNREADABLE."""
    with pq.ParquetFile(path) as file:
        meta = file.metadata
        for number in range(meta.num_row_groups):  # where a chunk's description is damaged, `column` ends the process
            next(file.iter_batches(1, row_groups=[number]), None)
        groups = (meta.row_group(number) for number in range(meta.num_row_groups))
        cells = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(int(cell.total_compressed_size) for cell in cells if cell.path_in_schema == column)
