"""What was run, so that it can be run again: settings that differ from the defaults, hashes, versions, both files."""

import json
from typing import Any

from transfer import config as settings
from transfer.report.run_data import RunData
from transfer.report.templates import Section, rendered

# Facts of `result.json` -> what a reader calls them.
FACTS = {
    "weights_sha256": "weights, SHA-256",
    "device": "device",
    "jax_version": "JAX",
    "seconds_extract": "seconds to extract features",
    "seconds_train": "seconds to train",
    "epochs": "epochs",
    "best_epoch": "best epoch",
}
# Entries of a list that are shown: a thousand classes are no reading, and the page has them elsewhere.
SHORTENED = 40


def section(run: RunData) -> Section:
    """The settings and the files."""
    facts = [(name, str(run.result[key])) for key, name in FACTS.items() if run.result.get(key) not in (None, "")]
    config, result = (
        json.dumps(value, indent=2, ensure_ascii=False) if value else ""
        for value in (run.config, _shortened(run.result))
    )
    values = {"workdir": str(run.path), "changed": _changed(run.config), "config": config, "result": result}
    return Section("setup", "Settings and versions", rendered("setup.html", facts=facts, **values))


def _changed(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(setting, its value, its default) of those that differ."""
    if "model" not in config:  # a run on feature files keeps only what its head is
        return []
    usual = settings.flat(json.loads(settings.default().to_json_best_effort()))
    return [
        (name, json.dumps(value, ensure_ascii=False), json.dumps(usual[name]) if name in usual else "")
        for name, value in settings.flat(config).items()
        if value != usual.get(name)
    ]


def _shortened(value: Any) -> Any:
    """The value with long lists cut, and an entry that says so."""
    if isinstance(value, dict):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list):
        cut = [_shortened(part) for part in value[:SHORTENED]]
        return cut + [f"… {len(value) - SHORTENED} more"] * (len(value) > SHORTENED)
    return value
