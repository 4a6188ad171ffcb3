"""Torch modules: the float network computes the same, and what is not compiled is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: its importer was not tested; pip install '.[nas]'")

from torch import Tensor, nn  # noqa: E402

from tinyengine import floatnet as fl  # noqa: E402
from tinyengine.errors import ModelFormatError, UnsupportedOp  # noqa: E402
from tinyengine.importers import torch as importer  # noqa: E402
from tinyengine.ir import Shape, op_name  # noqa: E402
from tinyengine.quantize import Range, quantize  # noqa: E402


class Function(nn.Module):
    """A module around a function of a tensor."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _normed(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None and norm.running_var is not None
    for values, low, high in (
        (norm.running_mean, -1.0, 1.0),
        (norm.running_var, 0.3, 3.0),
        (norm.weight, -2.0, 2.0),
        (norm.bias, -1.0, 1.0),
    ):
        nn.init.uniform_(values, low, high)
    return norm


class Residual(nn.Module):
    """A shortcut around a depthwise separable pair."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            _normed(6),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 1),
            _normed(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


MODULES: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "convolution": (lambda: nn.Conv2d(3, 5, 3), (3, 9, 7)),
    "uneven convolution": (
        lambda: nn.Conv2d(3, 5, (5, 3), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        (3, 11, 9),
    ),
    "no bias, normed": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), _normed(4), nn.ReLU6()), (3, 8, 8)),
    "plain norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        (3, 4, 4),
    ),
    "depthwise with multiplier": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), _normed(8)),
        (4, 9, 9),
    ),
    "shortcut": (Residual, (6, 7, 5)),
    "classifier": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3), nn.Softmax(dim=1)
        ),
        (4, 5, 6),
    ),
    "a flattened map": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3 * 4 * 5, 7)),
        (2, 4, 5),
    ),
    "pools": (lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.Sigmoid()), (3, 12, 12)),
    "functions": (lambda: Function(lambda x: torch.cat([torch.relu(x), x * x], 1).mean((2, 3))), (3, 4, 5)),
    "methods": (lambda: Function(lambda x: nn.functional.relu6(x.add(x)).flatten(1).sigmoid()), (3, 4, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_float_network_answers_as_torch_does(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module = make().eval()
    x = torch.randn(4, *shape).clamp(-3.9, 3.9)
    net = importer.load(module, name=name, input_shapes=[shape])
    given = x.numpy().transpose(0, 2, 3, 1)
    (got,) = fl.forward(net, [given.astype(np.float64)])
    want = module(x).detach().numpy()
    if want.ndim == 4:
        want = want.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    graph = quantize(net, [given], input_ranges=[Range(low=-4.0, high=4.0)])
    assert graph.tensors[graph.inputs[0]].shape == (1, *given.shape[1:])
    quant = graph.tensors[graph.inputs[0]].quant
    assert quant is not None and quant.scale == pytest.approx(8 / 255)


def test_normalization_leaves_no_layer_behind() -> None:
    net = importer.load(MODULES["no bias, normed"][0](), name="net", input_shapes=[(3, 8, 8)])
    graph = quantize(net, [np.random.default_rng(0).normal(size=(4, 8, 8, 3))])
    assert [op_name(n.op) for n in graph.nodes] == ["CONV_2D"]


def test_loading_leaves_the_module_in_its_mode() -> None:
    module = MODULES["shortcut"][0]().train()
    importer.load(module, name="net", input_shapes=[(6, 7, 5)])
    assert all(m.training for m in module.modules())


@pytest.mark.parametrize(
    ("module", "shape", "named"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), (4, 5, 5), "2 groups"),
        (nn.Sequential(nn.Hardswish()), (4, 5, 5), "Hardswish"),
        (nn.Sequential(nn.BatchNorm2d(4)), (4, 5, 5), "right after a convolution"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1)), (4, 5, 5), "zeros"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), (4, 6, 6), "1 x 1"),
        (nn.Sequential(nn.AvgPool2d(3, padding=1)), (4, 6, 6), "lies in the map"),
        (nn.Sequential(nn.Linear(5, 2)), (4, 5, 5), "dimensions"),
        (Function(lambda x: x + 1.0), (4, 5, 5), "1.0"),
        (Function(lambda x: x.permute(0, 2, 3, 1)), (4, 5, 5), "permute"),
        (Function(lambda x: x.mean(dim=1)), (4, 5, 5), "rows and columns"),
    ],
)
def test_what_is_not_compiled_is_refused_by_name(module: nn.Module, shape: Shape, named: str) -> None:
    with pytest.raises(UnsupportedOp, match=named):
        importer.load(module, name="net", input_shapes=[shape])


def test_a_norm_after_a_convolution_that_others_read_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z: Tensor = y + self.norm(y)
            return z

    with pytest.raises(UnsupportedOp, match="nothing else reads"):
        importer.load(Shared(), name="net", input_shapes=[(2, 3, 3)])


def test_value_dependent_control_flow_and_wrong_inputs_are_one_line_each() -> None:
    module = Function(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(ModelFormatError, match="cannot be traced"):
        importer.load(module, name="net", input_shapes=[(2, 3, 3)])
    with pytest.raises(ModelFormatError, match="no shape was given"):
        importer.load(nn.Sequential(nn.ReLU()), name="net", input_shapes=[])
    with pytest.raises(ModelFormatError, match="more shapes"):
        importer.load(nn.Sequential(nn.ReLU()), name="net", input_shapes=[(1, 2, 2), (1, 2, 2)])
