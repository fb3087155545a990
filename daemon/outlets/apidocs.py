"""The API's documentation as one page of plain HTML, made from its OpenAPI description: no script, no other host asked."""

from collections.abc import Mapping
from html import escape
from typing import Any, Final

from daemon.outlets.listener import OPEN_PATHS, needed_scope

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do with the page: read it."""
METHODS: Final = ("get", "post", "put", "patch", "delete")

INTRODUCTION: Final = (
    "<p>The same as a file for tools: <a href='openapi.json'>openapi.json</a>. A token goes into the header "
    "<code>Authorization: Bearer …</code>. Too many requests are answered 429 with <code>Retry-After</code> in seconds.</p>"
)

STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h2 { font: 600 1rem ui-monospace, monospace; margin: 2rem 0 .25rem; overflow-wrap: anywhere }
p { margin: .25rem 0 }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { text-align: left; padding: .1rem 1rem .1rem 0 }
.method { display: inline-block; min-width: 3.5rem } .post { color: #b45309 } .get { color: #15803d } .scope { opacity: .75 }
"""


def page(schema: Mapping[str, Any]) -> str:
    """Return the HTML page of an OpenAPI 3 description, paths in its order."""
    info = schema.get("info", {})
    title = escape(f"{info.get('title', 'API')} {info.get('version', '')}".strip())
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        f"<h1>{title}</h1>",
        INTRODUCTION,
    ]
    for path, entry in schema.get("paths", {}).items():
        parts.extend(_operation(path, method, entry[method]) for method in METHODS if method in entry)
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    scope = "no token" if path in OPEN_PATHS else f"scope {needed_scope(method.upper(), path)}"
    summary = operation.get("description") or operation.get("summary") or ""
    rows = "".join(_parameter(one) for one in operation.get("parameters", ()))
    table = f"<table><tr><th>parameter</th><th>in</th><th>values</th></tr>{rows}</table>" if rows else ""
    return (
        f'<h2><span class="method {method}">{method.upper()}</span> {escape(path)}</h2>'
        f'<p>{escape(summary)} <span class="scope">({escape(scope)})</span></p>{table}'
    )


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema", {})
    words = [str(schema.get("type", ""))]
    words += [f"{text} {schema[key]}" for key, text in (("minimum", "from"), ("maximum", "to")) if key in schema]
    words += [f"default {schema['default']}"] if "default" in schema else []
    words += ["required"] if parameter.get("required") else []
    cells = (parameter.get("name", ""), parameter.get("in", ""), ", ".join(filter(None, words)))
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
