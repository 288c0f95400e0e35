"""openapi.json, made of the routes and dataclasses that the server runs on.

``python -m flowship.apps.server.openapi > docs/openapi.json`` writes it again.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ... import __version__
from ...runtime.schema import to_json
from .app import OPERATIONS, Operation
from .jobs import JobInfo
from .messages import EVENT_NAMES
from .models import BundleInfo

Json = dict[str, Any]

_SCALARS: dict[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
_ERRORS = {
    400: "A wrong value",
    401: "No token, or a wrong one",
    403: "A request from another site",
    404: "No such bundle or job",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not application/json",
    421: "A foreign Host header",
    503: "The queue is full or there are too many connections (Retry-After says when to try "
    "again), or the server stops",
}
_PLAIN_ANSWERS: dict[str, Json] = {
    "/api/status": {
        "type": "object",
        "required": ["name", "version", "token_required"],
        "properties": {
            "name": {"const": "flowship"},
            "version": {"type": "string"},
            "token_required": {"type": "boolean"},
        },
    },
    "/api/openapi.json": {"type": "object"},
    "/api/bundles": {
        "type": "object",
        "required": ["bundles", "limits"],
        "properties": {
            "bundles": {"type": "array", "items": {"$ref": "#/components/schemas/BundleInfo"}},
            "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    },
    "/api/jobs": {
        "type": "object",
        "required": ["jobs"],
        "properties": {
            "jobs": {"type": "array", "items": {"$ref": "#/components/schemas/JobInfo"}}
        },
    },
}


def describe_api() -> Json:
    """The OpenAPI 3.1 document."""
    schemas: Json = {"Error": _error_schema()}
    for kind in (BundleInfo, JobInfo, *EVENT_NAMES):
        _add_schema(kind, schemas, "Event" if kind in EVENT_NAMES else "")
    paths: Json = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flowship serve",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(operation: Operation, schemas: Json) -> Json:
    found: Json = {
        "operationId": "_".join([operation.method.lower(), *re.findall(r"\w+", operation.path)]),
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.open:
        found["security"] = []
    if "{id}" in operation.path:
        schema = {"type": "string"}
        found["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": schema}]
    if operation.body:
        _add_schema(operation.body, schemas, closed=True)
        content = {"application/json": {"schema": _reference(operation.body.__name__)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _responses(operation: Operation) -> Json:
    errors = {403, 421, 503, *operation.errors} | (set() if operation.open else {401})
    good: Json = {"description": "Done"}
    if operation.body:
        errors |= {400, 404, 408, 413, 415}
        names = ", ".join(EVENT_NAMES.values())
        good["description"] = f"Server-sent events: {names}. Their data are the Event schemas."
        good["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    elif operation.path in _PLAIN_ANSWERS:
        good["content"] = {"application/json": {"schema": _PLAIN_ANSWERS[operation.path]}}
    error = {"application/json": {"schema": _reference("Error")}}
    found = {str(s): {"description": _ERRORS[s], "content": error} for s in sorted(errors)}
    return {"204" if operation.method == "DELETE" else "200": good, **found}


def _error_schema() -> Json:
    text = {"type": "string"}
    inner = {
        "type": "object",
        "required": ["kind", "message"],
        "properties": {"kind": text, "message": text},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _add_schema(kind: Any, schemas: Json, prefix: str = "", *, closed: bool = False) -> Json:
    """Add the schema of a dataclass, and of those inside it; returns a reference to it."""
    name = f"{prefix}{kind.__name__}"
    if name not in schemas:
        schemas[name] = {}  # in its place before its parts
        hints, properties, required = get_type_hints(kind), {}, []
        for field in dataclasses.fields(kind):
            properties[field.name] = _schema(hints[field.name], schemas, closed)
            if field.default is not dataclasses.MISSING:
                properties[field.name] = {
                    **properties[field.name],
                    "default": to_json(field.default),
                }
            elif field.default_factory is dataclasses.MISSING:
                required.append(field.name)
        schemas[name] = {"type": "object", "properties": properties, "required": required}
        if closed:
            schemas[name]["additionalProperties"] = False
        if kind.__doc__:
            schemas[name]["description"] = " ".join(kind.__doc__.partition("\n\n")[0].split())
    return _reference(name)


def _schema(kind: Any, schemas: Json, closed: bool) -> Json:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, schemas, closed) for argument in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], schemas, closed)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas, closed)}
    if dataclasses.is_dataclass(kind):
        return _add_schema(kind, schemas, closed=closed)
    return _SCALARS[kind]


if __name__ == "__main__":
    print(json.dumps(describe_api(), indent=1, ensure_ascii=False))
