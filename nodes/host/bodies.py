"""What the body of a request to one of our routes says."""

from typing import Any


async def said(request: Any, key: str) -> str:
    """The name that a request's body gives under `key`; "" if it gives none, whatever else it holds."""
    try:
        body = await request.json()
    except (ValueError, LookupError, RecursionError):  # no JSON, in no known encoding, or nested without end
        return ""
    name = body.get(key) if isinstance(body, dict) else None
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""
