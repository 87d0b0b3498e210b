"""JSON files as transformers writes them."""

import json
from typing import Any


def encode_json(data: dict[str, Any]) -> bytes:
    """The bytes of a JSON file: indented, UTF-8, a newline at the end."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
