"""What differs between the settings that stored features were computed with and others."""

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One phrase for each setting that differs, nested ones by dotted name: "dtype was 'float32', now 'bfloat16'"."""
    left, right = _flatten(found), _flatten(wanted)
    return [
        f"{key} was {_short(left, key)}, now {_short(right, key)}"
        for key in {**left, **right}
        if left.get(key, _ABSENT) != right.get(key, _ABSENT)
    ]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _short(settings: Mapping[str, Any], key: str) -> str:
    text = repr(settings[key]) if key in settings else "absent"
    return text if len(text) <= 60 else f"{text[:40]}…"
