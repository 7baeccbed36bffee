"""Curvature along training as it was kept: a Zarr group of the observations and of the problem."""

from __future__ import annotations

import xarray as xr

from pipeline.analysis.labels import labelled
from pipeline.errors import StoreError
from pipeline.estimates._observed import (
    QUANTITIES,
    STEP,
    WEIGHTS,
    expected_quantities,
    read_training,
)
from pipeline.store.expected import check_expected, expected_inputs
from pipeline.store.opened import HoldsInputs
from pipeline.store.places import Location, Place, locate
from pipeline.store.template import label_contents
from pipeline.store.vetting import RECORD, TRAINING, read_group

__all__ = ["TrainingRecord", "holds_training", "open_watched"]


class TrainingRecord(HoldsInputs):
    """Observations along a training, and the inputs that it began with.

    Attributes:
        phases: Who trained, observation by observation.
        terms: Names of the loss terms.
    """

    kind = RECORD
    advice = advice_for_inputs = "Copy it again from where it came, or train again"

    def __init__(self, place: Place) -> None:
        """Open a record.

        Args:
            place: Where it is.

        Raises:
            StoreError: If there is none, or it is damaged.
        """
        location = locate(place)
        checked, attributes = read_training(location)
        super().__init__(location, attributes, checked, ())
        check_expected(location, self.metadata, expected_inputs(checked), RECORD)
        self.check_contents()
        self.metadata |= expected_quantities(checked.extent)
        self.objects.object_bytes = {n: array.object_bytes for n, array in self.metadata.items()}
        self.phases, self.terms = checked.phases, [term.name for term in checked.terms]

    def dataset(self) -> xr.Dataset:
        """As :func:`open_watched` gives it.

        Raises:
            StoreError: If steps cannot be read.
        """
        labels = {
            name: (content.axes, content.data, content.attributes)
            for name, content in label_contents(self.layout).items()
            if content.axes == ("row",)
        }
        try:
            opened = xr.open_zarr(self.objects, consolidated=True, zarr_format=3)
            # The inputs beside them belong to the first step.
            opened = opened[[name for name in QUANTITIES if name != STEP]]
            opened = opened.rename({WEIGHTS: "theta"})
            opened = opened.assign_coords(phase=(STEP, self.phases), term=self.terms)
            return labelled(opened.assign_coords(labels), ["row"])
        except StoreError:
            raise
        # Damaged files surface as whatever Zarr and xarray make of them.
        except Exception as error:
            raise StoreError(
                f"{self.location} cannot be opened as a dataset ({type(error).__name__}: {error})."
            ) from error


def holds_training(location: Location) -> bool:
    """Whether a group says of itself that it is a record of training."""
    try:
        return read_group(location).get("kind") == TRAINING
    except StoreError:
        return False


def open_watched(store: Place) -> xr.Dataset:
    """Open what ``hessian train --watch`` or a :class:`HessianCallback` has kept.

    Of an interrupted training it has the steps that were observed. What is read lazily is compared
    with its checksum then.

    Args:
        store: Its directory.

    Returns:
        By ``step``: ``loss``, ``term_loss`` ``[term]``, ``gradient_norm``, ``alignment`` (the share
        of the squared gradient in the span of the eigenvectors of the largest eigenvalues),
        ``eigenvalue`` and ``eigenvalue_error`` ``[pair]``, ascending, ``eigenvector``
        ``[row, pair]``, ``trace`` and ``trace_error``, ``theta`` ``[row]``, ``num_products`` and
        ``seconds``; coordinates ``phase`` and ``term``, and ``row_layer``, ``row_variable`` and
        ``row_index``, which select parameters as in :func:`open_store`.

    Raises:
        StoreError: If there is no such record, or it is damaged.

    Example:
        >>> import tempfile
        >>> import keras
        >>> import numpy as np
        >>> from pipeline import HessianCallback, Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="line")])
        >>> x = np.array([[1.0], [3.0]], "float32")
        >>> fit = ResidualTerm("fit", x, lambda x, u: u.value)
        >>> net.compile("sgd", "mse")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     watch = HessianCallback(Problem(net, [fit], "x"), store=f"{directory}/w.zarr")
        ...     _ = net.fit(x, 0 * x, epochs=2, verbose=0, callbacks=[watch])
        ...     found = open_watched(f"{directory}/w.zarr").load()
        >>> found.step.values.tolist(), found.eigenvalue[-1].values.round(3).tolist()
        ([0, 1, 2], [0.343, 11.657])
        >>> found.theta.sel(row_layer="line", row_variable="bias").sizes["step"]
        3
    """
    return TrainingRecord(store).dataset()
