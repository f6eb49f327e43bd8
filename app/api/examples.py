"""An example for every body of the OpenAPI document: put together from the examples and defaults of its fields, the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BY_FORMAT = {
    "uuid": "3f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11",
    "date-time": "2026-11-20T10:00:00Z",
    "uri": "https://example.com/",
}
_DEEPEST = 6


class Examples:
    """Makes examples of the schemas of one document.

    Args:
        schemas: Its `components.schemas`.
    """

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas

    def of(self, schema: Mapping[str, Any], *, is_request: bool) -> Any:
        """A value of `schema`: of a request only the fields that are required or have an example, of an answer all."""
        return self._of(schema, is_request, 0)

    def fields(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields that a schema, or the one that it refers to, has."""
        found: Mapping[str, Any] = self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        properties: Mapping[str, Any] = found.get("properties", {})
        return properties

    def _of(self, schema: Mapping[str, Any], is_request: bool, depth: int) -> Any:
        if "examples" in schema:
            return schema["examples"][0]
        if "$ref" in schema:
            return self._of(self._schemas[schema["$ref"].rpartition("/")[2]], is_request, depth + 1)
        for word in ("const", "default"):
            if word in schema:
                return schema[word]
        if "enum" in schema:
            return schema["enum"][0]
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                return self._of(schema[word][0], is_request, depth)
        return self._of_type(schema, is_request, depth)

    def _of_type(self, schema: Mapping[str, Any], is_request: bool, depth: int) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema, is_request, depth)
            case "array" if "prefixItems" in schema:
                return [self._of(item, is_request, depth + 1) for item in schema["prefixItems"]]
            case "array":
                is_wanted = depth < _DEEPEST and (schema.get("minItems") or not is_request)
                return [self._of(schema["items"], is_request, depth + 1)] if is_wanted and "items" in schema else []
            case "string":
                return _BY_FORMAT.get(schema.get("format", ""), "text")
            case "integer":
                return int(schema.get("minimum", 1))
            case "number":
                return schema.get("minimum", 1)
            case "boolean":
                return True
            case "null":
                return None
        return {}

    def _object(self, schema: Mapping[str, Any], is_request: bool, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        return {
            name: self._of(field, is_request, depth + 1)
            for name, field in schema.get("properties", {}).items()
            if name in required or "examples" in field
        }
