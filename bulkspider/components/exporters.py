"""Scrapy's exporters, for the rows of a report.

For JSON: Scrapy asks an ItemAdapter about every field of every item, several times. That takes a third of the time of a
run whose entries were all done before, and a BulkItem always has the same fields. The output is the same.

For CSV, which people read: a dict becomes words, where Scrapy writes Python's repr.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from scrapy.exporters import BaseItemExporter, CsvItemExporter, JsonItemExporter, JsonLinesItemExporter

from bulkspider.items import BulkItem

_FIELDS = tuple(field.name for field in fields(BulkItem))
_values = attrgetter(*_FIELDS)


class _Rows(BaseItemExporter):
    def get_serialized_fields(
        self, item: Any, default_value: Any = None, include_empty: bool | None = None
    ) -> Iterable[tuple[str, Any]]:
        if type(item) is BulkItem and self.fields_to_export is None:
            return zip(_FIELDS, _values(item), strict=True)
        return super().get_serialized_fields(item, default_value, include_empty)


class JsonLinesRows(_Rows, JsonLinesItemExporter):
    """A JsonLinesItemExporter."""


class JsonRows(_Rows, JsonItemExporter):
    """A JsonItemExporter."""


class CsvRows(CsvItemExporter):
    """A CsvItemExporter. An error is `MESSAGE [CODE]`, checksums are `md5=… sha256=…`, other dicts are JSON."""

    def serialize_field(self, field: Any, name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return super().serialize_field(field, name, value)
        if name == "error" and {"message", "code"} <= value.keys():
            return f"{value['message']} [{value['code']}]"
        if name == "checksums":
            return " ".join(f"{algorithm}={value[algorithm]}" for algorithm in sorted(value))
        return json.dumps(value, ensure_ascii=False, default=str)
