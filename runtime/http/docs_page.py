"""Interactive documentation at /docs: Swagger UI from the package fastapi-swagger, without any other host."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from runtime.http import paths

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page: its own origin only, no inline script, no frame around it."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""Files of Swagger UI by name, with their media types."""

# Links are relative, so that the page also works where a proxy serves the API under a prefix.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tally API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# The validator is a public host. Authorization is not persisted: a key would stay in the browser's storage.
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""


def docs_routes() -> APIRouter:
    """Return the routes of the page and its assets, which are not in the OpenAPI document."""
    router = APIRouter(include_in_schema=False)
    folder = Path(str(files("fastapi_swagger") / "resources"))

    @router.get(paths.DOCS)
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers=_HEADERS)

    @router.get(f"{paths.DOCS}/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_HEADERS)

    def serve(name: str, media_type: str) -> None:
        @router.get(f"{paths.DOCS}/{name}")
        async def asset() -> Response:
            return FileResponse(folder / name, media_type=media_type, headers=_HEADERS)

    for name, media_type in _ASSETS.items():
        serve(name, media_type)
    return router
