"""What is said of the contents of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.render.table import table

if TYPE_CHECKING:
    from pipeline.analysis.spectrum import Spectrum
    from pipeline.store import HessianStore

__all__ = ["info", "spectrum"]


def spectrum(spectrum: Spectrum) -> str:
    """Extreme eigenvalues and what follows from them, for people."""
    values = spectrum.eigenvalues
    rows = [
        ("eigenvalues", f"{len(values):,}" + ("" if spectrum.complete else " at both ends")),
        ("largest", "  ".join(f"{value:.5g}" for value in values[::-1][:5])),
        ("smallest", "  ".join(f"{value:.5g}" for value in values[:5])),
        ("noise floor", f"{spectrum.noise_floor:.2g}"),
        ("trace", f"{spectrum.trace:.6g}"),
        ("Frobenius norm", f"{spectrum.frobenius_norm:.6g}"),
    ]
    if spectrum.inertia is not None and spectrum.condition_number is not None:
        above, within, below = spectrum.inertia
        rows += [
            ("inertia", f"{above} positive, {within} within the noise, {below} negative"),
            ("condition number", f"{spectrum.condition_number:.3g} above the noise floor"),
        ]
    return table(rows)


def info(store: HessianStore) -> str:
    """What a store holds and where it came from, for people."""
    attributes = store.attributes
    source, provenance = attributes["source"], attributes["provenance"]
    options = ", ".join(f"{k}={v}" for k, v in source["options"].items())
    packages = ", ".join(f"{name} {v}" for name, v in provenance["packages"].items())
    rows = [
        ("problem", f"{source['reference']}{f' ({options})' if options else ''}"),
        ("loss", f"{attributes['loss']:.6g}"),
        *((f"  {term['name']}", _term(term)) for term in attributes["terms"]),
        ("engine", ", ".join(filter(None, [store.engine, attributes.get("engine_reason")]))),
        ("parameters", f"{store.num_params:,}, {store.dtype}"),
        *((f"  {v.layer}/{v.name}", f"{v.shape} from row {v.offset}") for v in _variables(store)),
        (store.matrix.plural, ", ".join(store.arrays.values())),
        *((f"  {name}", _jacobian(store, name)) for name in store.jacobians.values()),
        ("created", f"{provenance['created']} by Python {provenance['python']}, {packages}"),
    ]
    return table(rows)


def _jacobian(store: HessianStore, name: str) -> str:
    array = store.hessian(name)
    components = array.attrs["num_components"]
    return f"{array.shape}, {components} component{'' if components == 1 else 's'} a point"


def _variables(store: HessianStore) -> tuple[Any, ...]:
    return store.layout.variables


def _term(term: dict[str, Any]) -> str:
    text = f"{term['loss']:.6g}, weight {term['weight']:g}, {term['kind']}"
    derivatives = ", ".join(name or "u" for name in term["derivatives"])
    return f"{text} of {derivatives}" if derivatives else text
