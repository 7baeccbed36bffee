"""Networks trained in PyTorch, and a second source of their losses and Hessians: its autograd."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from hessian_tasks import WeightsWarning, load_problem
from hessian_tasks.errors import ModelError
from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.weights import load_weights
from hessian_tasks.problem import Problem
from pipeline import compute_hessian, spectrum
from tests.helpers.runs import Cli

torch = pytest.importorskip("torch", reason="PyTorch, of tests/torch.txt, is not installed")

pytestmark = pytest.mark.slow

Array = npt.NDArray[Any]
POINTS = {"num_interior": 200, "num_boundary": 80}


def network(width: int, depth: int, dtype: str) -> Any:
    """Of dense layers with tanh between them, as in every introduction to PyTorch."""
    torch.manual_seed(0)
    widths = [2, *[width] * depth, 1]
    layers: list[Any] = []
    for i in range(depth + 1):
        layers += [torch.nn.Linear(widths[i], widths[i + 1]), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1]).to(getattr(torch, dtype))


def loss_of(problem: Problem, dtype: str) -> Callable[[Callable[[Any], Any]], Any]:
    """The loss of the built-in Poisson problem, at its points, written in PyTorch."""
    pde, dirichlet = (
        torch.tensor(np.asarray(term.points), dtype=getattr(torch, dtype))  # type: ignore[union-attr]
        for term in problem.terms
    )
    waves = torch.sin(math.pi * (pde + 1) / 2)
    source = -(math.pi**2) / 2 * waves[:, :1] * waves[:, 1:]

    def loss(u: Callable[[Any], Any]) -> Any:
        x = pde.clone().requires_grad_()
        (slope,) = torch.autograd.grad(u(x).sum(), x, create_graph=True)
        second = [
            torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in (0, 1)
        ]
        residual = second[0] + second[1] - source[:, 0]
        return (residual**2).mean() + (u(dirichlet) ** 2).mean()

    return loss


def train(net: Any, loss: Callable[[Any], Any], steps: int) -> Any:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    return optimizer


def theta_of(net: Any) -> Array:
    parts = [p.detach().numpy() for p in net.parameters()]
    return np.concatenate([(p.T if p.ndim == 2 else p).ravel() for p in parts])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_network_has_the_loss_that_it_was_trained_to(
    ending: str, dtype: str, tmp_path: Path, hessian: Cli
) -> None:
    problem = load_problem("poisson", dtype=dtype, **POINTS)
    net, loss = network(50, 3, dtype), loss_of(problem, dtype)
    before = loss(net).item()
    train(net, loss, steps=40)
    trained = loss(net).item()
    assert trained < before
    path = tmp_path / f"net{ending}"
    if ending == ".pt":
        torch.save(net.state_dict(), path)
    else:
        save_file({k: v.numpy() for k, v in net.state_dict().items()}, path)
    assert np.array_equal(get_theta(load_weights(path, problem).model), theta_of(net))
    options = [f"-o{key}={value}" for key, value in {**POINTS, "dtype": dtype}.items()]
    code, output, errors = hessian("loss", "poisson", *options, "--weights", path, "--json")
    assert (code, errors) == (0, "")
    # Second derivatives and a mean of squares in another order: some ulp, here 2 and 1.
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert json.loads(output)["loss"] == pytest.approx(trained, rel=tolerance)


def test_a_network_has_the_spectrum_that_pytorch_finds(tmp_path: Path) -> None:
    problem = load_problem("poisson", width=6, dtype="float64", **POINTS)
    net, loss = network(6, 3, "float64"), loss_of(problem, "float64")
    train(net, loss, steps=40)
    shapes = {name: p.shape for name, p in net.named_parameters()}

    def at(theta: Any) -> Any:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        values = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return loss(lambda x: torch.func.functional_call(net, values, (x,)))

    theta = torch.cat([p.detach().ravel() for p in net.parameters()])
    # Rows are in another order than ours, which no eigenvalue depends on.
    expected = np.linalg.eigvalsh(torch.autograd.functional.hessian(at, theta).numpy())
    path = tmp_path / "net.pt"
    torch.save(net.state_dict(), path)
    compute_hessian(problem, tmp_path / "h.zarr", weights=path)
    found = spectrum(tmp_path / "h.zarr").eigenvalues
    # A thousand roundings of float64, relative to the norm, are 1e-13.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_checkpoints_hold_the_weights_under_a_name(tmp_path: Path) -> None:
    problem = load_problem("poisson", width=4, depth=2, **POINTS)
    net = network(4, 2, "float32")
    optimizer = train(net, loss_of(problem, "float32"), steps=1)
    state = net.state_dict()
    path = tmp_path / "net.pt"
    checkpoints: list[dict[str, Any]] = [
        {"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()},  # DeepXDE
        {"state_dict": {f"net.{k}": v for k, v in state.items()}, "epoch": 3},  # Lightning
        {"model": {f"module.{k}": v for k, v in state.items()}},  # DataParallel
        {f"_orig_mod.{k}": v for k, v in state.items()},  # torch.compile
    ]
    for checkpoint in checkpoints:
        torch.save(checkpoint, path)
        assert np.array_equal(get_theta(load_weights(path, problem).model), theta_of(net))
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert np.array_equal(get_theta(load_weights(path, problem).model), theta_of(net))


def test_layers_with_names_are_in_the_order_of_their_definition(tmp_path: Path) -> None:
    problem = load_problem("poisson", width=4, depth=3, **POINTS)
    values = network(4, 3, "float32").state_dict()
    numbers = {"0": "begin", "2": "middle", "4": "then", "6": "end"}
    named = {f"{numbers[k[0]]}{k[1:]}": v for k, v in values.items()}
    torch.save(named, tmp_path / "net.pt")
    said = "both 'middle.weight' and 'then.weight' have the shape of layer 'hidden_2'"
    with pytest.warns(WeightsWarning, match=f"{said}.*in the order of the file"):
        found = load_weights(tmp_path / "net.pt", problem)
    assert np.array_equal(found.model.layers[1].kernel, values["2.weight"].numpy().T)
    save_file({k: v.numpy() for k, v in named.items()}, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match=f"{said}. Give the layers names"):
        load_weights(tmp_path / "net.safetensors", problem)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a whole network": (lambda: network(4, 2, "float32"), "holds objects, whose code is not run"),
    "a list": (lambda: [1, 2], "holds a list, and no tensors by name"),
    "a number": (lambda: {"loss": 1.0}, r"no dense tensor of float32 or float64: loss \(float\)"),
    "two networks": (
        lambda: {key: network(4, 2, "float32").state_dict() for key in ("model", "state_dict")},
        "several dictionaries of weights",
    ),
    "half": (lambda: network(4, 2, "float16").state_dict(), r"0\.weight \(float16\)"),
    "sparse": (lambda: {"0.weight": torch.eye(3).to_sparse()}, "torch.sparse_coo"),
    "meta": (lambda: {"0.weight": torch.empty(4, 2, device="meta")}, "meta"),
    "one number as 1e13": (
        lambda: {"0.weight": torch.zeros(1, 1).expand(10**6, 10**7)}, "kernels of 1 layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_dictionary_of_weights_is_refused(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    torch.save(make(), tmp_path / "net.pt")
    problem = load_problem("poisson", width=4, depth=2, **POINTS)
    with pytest.raises(ModelError, match=message):
        load_weights(tmp_path / "net.pt", problem)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    torch.save({"0.weight": Runs()}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="whose code is not run"):
        load_weights(tmp_path / "net.pt", load_problem("poisson", width=4, depth=2, **POINTS))
    assert not ran.exists()


def test_old_versions_of_pytorch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "net.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(ModelError, match=r"PyTorch 2\.5\.1 may run code .* Install 2\.6"):
        load_weights(tmp_path / "net.pt", load_problem("poisson", width=4, depth=2, **POINTS))
