"""The section of a report that says where its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report._page import Section, Table
from pipeline.store.opened import HoldsInputs

__all__ = ["pairs_table", "provenance_section"]


def provenance_section(source: HoldsInputs, computed: Mapping[str, Any]) -> Section:
    """Where the numbers come from: problem, versions, machine, digests.

    Args:
        source: What the report is of.
        computed: How it was computed, by what is said.
    """
    problem, provenance = source.attributes["source"], source.attributes["provenance"]
    shown = {
        "store": source.location.name,
        "problem": problem["reference"],
        **{f"option {name}": value for name, value in problem["options"].items()},
        **computed,
        "created": provenance["created"],
        **{name: provenance[name] for name in provenance if name not in ("created", "packages")},
        **{f"version of {name}": v for name, v in provenance["packages"].items()},
    }
    tables = [
        pairs_table("provenance", f"Where this {source.kind} comes from.", shown),
        pairs_table(
            "digests", "SHA-256 of the inputs, or their values.", source.attributes["fingerprint"]
        ),
    ]
    text = ["Whatever resumes this, replaces it, or compares it with another, checks the digests."]
    return Section("Provenance", text, tables=tables)


def pairs_table(name: str, caption: str, values: Mapping[str, Any]) -> Table:
    """A table of two columns, without what is empty."""
    kept = {key: str(value) for key, value in values.items() if value not in ("", None)}
    return Table(name, caption, {"what": list(kept), "value": list(kept.values())})
