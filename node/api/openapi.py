"""What this API takes and gives, for programs (/openapi.json) and for people (/docs): made from the table of routes."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from node.api.guards import Access

if TYPE_CHECKING:
    from node.api.routes import ApiRoute

CHAT_SOCKET: Final = "/ws/chat"
ASK_EXAMPLE: Final = html.escape('{"type": "ask", "id": "a", "prompt": "def "}')
STOP_EXAMPLE: Final = html.escape('{"type": "stop", "id": "a"}')
_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_WHO: Final = {
    Access.READ: "this machine; elsewhere a key",
    Access.ASK: "a key or the token",
    Access.CHANGE: "the token, on this machine",
}


def openapi_facts(routes: Sequence[ApiRoute]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    kinds = [row.takes for row in routes if row.takes is not None]
    (schemas, components) = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in routes:
        operation: dict[str, Any] = {
            "summary": row.what,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _PARAMETER.findall(row.path)
            ],
            "responses": {"200": {"description": "as asked"}, "default": {"$ref": "#/components/responses/Error"}},
        }
        if row.access is not Access.READ:
            operation["security"] = [{"bearer": []}]
        if row.takes is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema_of[row.takes]}},
            }
        paths.setdefault(_PARAMETER.sub(r"{\1}", row.path), {})[row.method.lower()] = operation
    error = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "nocknode", "version": version("nocknode"), "description": "One node's API."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": {"description": "refused", "content": {"application/json": {"schema": error}}},
            },
        },
    }


def docs_page(routes: Sequence[ApiRoute]) -> str:
    """The same as a page to read, without a script and without anything of another host."""
    rows = "".join(
        f"<tr><td><code>{row.method}</code><td><code>{html.escape(row.path)}</code><td>{html.escape(row.what)}"
        f"<td>{html.escape(_WHO[row.access])}<td>{_fields(row)}"
        for row in routes
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>nocknode: API</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1a1a;background:#fff}"
        "table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;text-align:left;vertical-align:top;"
        "border-bottom:1px solid #ddd}div{overflow-x:auto}"
        "@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}td,th{border-color:#444}a{color:#8ab4ff}}"
        "</style><main><h1>The API of this node</h1>"
        "<p>For OpenAI's clients: base URL <code>/v1</code>, and as key one from <code>nocknode api-key new NAME</code> or the "
        "content of <code>api.token</code>. For programs: <a href=/openapi.json>openapi.json</a>.</p>"
        f"<p>Several texts on one WebSocket: <code>{CHAT_SOCKET}</code>, to which <code>{ASK_EXAMPLE}</code> and "
        f"<code>{STOP_EXAMPLE}</code> are said.</p>"
        f"<div><table><thead><tr><th>Method<th>Path<th>What<th>Who<th>Takes</thead><tbody>{rows}</table></div></main></html>"
    )


def _fields(row: ApiRoute) -> str:
    if row.takes is None:
        return ""
    fields = msgspec.structs.fields(row.takes)
    return ", ".join(f"<code>{field.encode_name}</code>" + ("" if field.required else "?") for field in fields)
