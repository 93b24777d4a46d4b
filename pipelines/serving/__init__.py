"""Upscaling over HTTP: a page, an API, and the replicas that do the work."""

from sddusr.cli.extras import require

require("serve", "fastapi", "starlette", "uvicorn", "python_multipart", "mmh3")
