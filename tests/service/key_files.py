"""Files of API keys, and the header that a key is sent in."""

import hashlib
from pathlib import Path
from typing import Any

import tomli_w


def entry(key_id: str, *scopes: str, **more: Any) -> dict[str, Any]:
    """An entry whose secret is `secret of ID`."""
    return {"id": key_id, "sha256": hashlib.sha256(f"secret of {key_id}".encode()).hexdigest(), "scopes": list(scopes)} | more


def write_keys(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps({"keys": list(entries)}))
    return path


def bearer(key_id: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_id}.secret of {key_id}"}
