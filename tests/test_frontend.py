"""Capture of PyTorch modules: values equal in float64, names, refusals; batch-norm folding."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from accelsim.errors import InputError
from accelsim.frontend import capture, fold_batch_norm
from accelsim.frontend.operators import SUPPORTED
from accelsim.ir.float_graph import FloatBatchNorm2d, FloatConv2d
from accelsim.quantization import evaluate

# float64 against float64: the same sums in another order, so a few units in the last place of values around 1.
TOLERANCE = 1e-12


class Model(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self._forward(self, *inputs)


def images(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(module, seed=1):
    """The module with fresh weights, and batch-norm statistics that training could have left."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        for _, parameter in part.named_parameters(recurse=False):
            parameter.data = torch.randn(parameter.shape, generator=generator)
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            part.running_mean = torch.randn(part.num_features, generator=generator)
            part.running_var = torch.rand(part.num_features, generator=generator) + 0.1
    return module


def assert_same_function(module, example, graph=None):
    """The captured graph equals the module in evaluation mode, both in double precision."""
    graph = graph or capture(module, example)
    values = evaluate(graph, example.numpy())
    with torch.no_grad():
        expected = module.eval().double()(example.double()).numpy()
    np.testing.assert_allclose(values[graph.output], expected, rtol=TOLERANCE, atol=TOLERANCE)
    for node in graph.nodes:
        assert values[node.name].shape[1:] == node.shape


# --- every supported operator equals PyTorch ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
        nn.Conv2d(3, 6, 3, padding="same", groups=3),
        nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(3, 1)),
        nn.Conv2d(3, 4, 3, padding="valid"),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False, eps=0.1),
        nn.ReLU(),
        nn.ReLU6(inplace=True),
        nn.Hardtanh(0.0, 6.0),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.MaxPool2d(2),
        nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0)),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d((2, 3), padding=(0, 1), count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((None, 3)),
        nn.AdaptiveAvgPool2d((5, 3)),  # 9 rows in 5 windows would overlap unevenly; 10 rows do not
        nn.Flatten(),
        nn.Sequential(nn.Flatten(), nn.Linear(270, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(270, 5, bias=False)),
    ],
    ids=repr,
)
def test_module_equals_pytorch_in_double_precision(module):
    assert_same_function(seeded(module), images(2, 3, 10, 9))


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: functional.relu(x) + x.clone().sigmoid_(),
        lambda _, x: torch.add(x, torch.tanh(x)),
        lambda _, x: functional.relu6(x).clamp(min=0).clamp(0, 6),
        lambda _, x: torch.flatten(torch.sigmoid(x), 1),
        lambda _, x: x.view(x.size(0), -1),
        lambda _, x: x.reshape(-1, 3 * 10 * 9),
        lambda _, x: x.mean((2, 3)),
        lambda _, x: x.mean((-1, -2), keepdim=True),
        lambda _, x: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda _, x: functional.avg_pool2d(functional.max_pool2d(x, 2), 2).contiguous(),
    ],
)
def test_functional_operators_equal_pytorch(function):
    assert_same_function(Model(function), images(2, 3, 10, 9))


def test_an_in_place_operator_changes_what_every_later_reader_sees():
    def forward(self, x):
        y = self.conv(x)
        flat = y.view(y.shape[0], -1)
        y.relu_()
        return flat

    model = seeded(Model(forward, conv=nn.Conv2d(3, 4, 3)))
    graph = capture(model, images(2, 3, 6, 6))
    assert [node.name for node in graph.nodes] == ["input", "conv", "relu_1", "flatten_1"]
    assert_same_function(model, images(2, 3, 6, 6), graph)


def test_a_vector_model_takes_vectors():
    module = seeded(nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)))
    assert_same_function(module, images(4, 7))


def test_dropout_identity_and_equal_reshapes_leave_no_node():
    module = nn.Sequential(nn.Dropout(), nn.Identity(), nn.ReLU(), nn.Dropout2d(), nn.AdaptiveAvgPool2d((10, 9)))
    assert [node.name for node in capture(module, images(1, 3, 10, 9)).nodes] == ["input", "2"]


def test_what_the_output_is_not_computed_from_is_left_out():
    def forward(self, x):
        self.calls += 1
        functional.gelu(x)
        return functional.relu(x)

    model = Model(forward)
    model.register_buffer("calls", torch.zeros(()))
    assert [node.name for node in capture(model, images(1, 4)).nodes] == ["input", "relu_1"]
    assert model.calls == 0


def test_same_padding_of_an_even_kernel_adds_the_odd_line_below_and_to_the_right():
    graph = capture(nn.Conv2d(3, 4, (2, 4), padding="same"), images(1, 3, 8, 8))
    assert graph.nodes[1].padding == (0, 1, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_become_float64_exactly(dtype):
    module = nn.Conv2d(3, 4, 3).to(dtype)
    graph = capture(module, images(1, 3, 8, 8).to(dtype))
    assert graph.nodes[1].weight.dtype == np.float64
    assert np.array_equal(graph.nodes[1].weight, module.weight.detach().double().numpy())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_of_the_example_does_not_matter(batch):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    graph = capture(module, (images(batch, 1, 6, 6),))
    assert [(node.name, node.shape) for node in graph.nodes] == [
        ("input", (1, 6, 6)),
        ("0", (2, 4, 4)),
        ("1", (32,)),
        ("2", (3,)),
    ]


# --- names -------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block in torchvision's style: one ReLU module called twice, and a sum."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + x)


def test_nodes_are_named_by_module_path_and_functions_by_operation_and_number():
    def forward(self, x):
        x = functional.relu(self.layer1(x))
        x = functional.max_pool2d(functional.relu(x), 2)
        return self.fc(x.flatten(1))

    model = Model(forward, layer1=nn.Sequential(Block(3), Block(3)), fc=nn.Linear(48, 2))
    graph = capture(model, images(1, 3, 8, 8), "net")
    block = ["conv1", "relu", "conv2", "add_1", "relu_2"]
    assert graph.name == "net"
    assert [node.name for node in graph.nodes] == [
        "input",
        *(f"layer1.0.{name}" for name in block),
        *(f"layer1.1.{name}" for name in block),
        *("relu_1", "relu_2", "max_pool2d_1", "flatten_1", "fc"),
    ]
    assert graph.by_name["layer1.1.conv2"].source == "layer1.1.conv2 (aten.conv2d)"
    assert graph.by_name["relu_2"].source == "relu_2 (aten.relu)"


def test_a_name_made_for_a_function_is_never_that_of_a_module():
    model = Model(lambda self, x: self.relu_1(functional.relu(x)) + self.input(x), relu_1=nn.Tanh(), input=nn.ReLU())
    assert [node.name for node in capture(model, images(1, 4)).nodes] == [
        "input_1",
        "relu_2",
        "relu_1",
        "input",
        "add_1",
    ]


def test_a_module_of_ones_own_that_computes_one_operation_gives_it_its_path():
    class Projection(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 4))

        def forward(self, x):
            return functional.linear(x, self.weight)

    model = Model(lambda self, x: self.head(x), head=Projection())
    assert [node.name for node in capture(model, images(1, 4)).nodes] == ["input", "head"]


# --- the model is left as it was ---------------------------------------------------------------------------------


def test_capture_in_train_mode_uses_evaluation_mode_and_changes_nothing():
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = capture(model, images(2, 3, 6, 6))
    assert [part.training for part in model.modules()] == [True, True, False, True]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    graph.nodes[1].weight[:] = 0
    assert torch.equal(before["0.weight"], model.state_dict()["0.weight"])
    assert_same_function(model, images(2, 3, 6, 6))


def test_training_flags_are_restored_when_tracing_fails():
    def forward(self, x):
        raise ValueError("needs a mask\nand more")

    model = Model(forward, conv=nn.Conv2d(3, 4, 3)).train()
    with pytest.raises(InputError) as caught:
        capture(model, images(1, 3, 8, 8))
    assert str(caught.value) == (
        "Model: torch.export cannot trace the model on an input of shape (1, 3, 8, 8): ValueError: needs a mask"
    )
    assert model.training
    assert model.conv.training


# --- refusals, each one line -------------------------------------------------------------------------------------


def refusal(model, *example):
    with pytest.raises(InputError) as caught:
        capture(model, example, "net")
    return str(caught.value)


@pytest.mark.parametrize(
    "part, reason",
    [
        (nn.GELU(), f"(aten.gelu): operator is not supported; supported are {SUPPORTED}"),
        (
            nn.LogSoftmax(1),
            "(aten.log_softmax): operator is not supported; return the logits: log_softmax does not change which is "
            f"largest; supported are {SUPPORTED}",
        ),
        (nn.ConvTranspose2d(3, 4, 3), f"(aten.conv_transpose2d): operator is not supported; supported are {SUPPORTED}"),
        (
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            "(aten.pad): padding_mode = 'reflect' is not supported; use padding_mode = 'zeros'",
        ),
        (
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
            "(aten.pad): padding_mode = 'circular' is not supported; use padding_mode = 'zeros'",
        ),
        (
            nn.ZeroPad2d(1),
            "(aten.pad): padding of its own is not supported; give it to the convolution or pool that follows",
        ),
        (
            nn.MaxPool2d(2, ceil_mode=True),
            "(aten.max_pool2d): ceil_mode = True is not supported; pad the input or choose another window",
        ),
        (
            nn.AvgPool2d(2, ceil_mode=True),
            "(aten.avg_pool2d): ceil_mode = True is not supported; pad the input or choose another window",
        ),
        (
            nn.AvgPool2d(2, divisor_override=3),
            "(aten.avg_pool2d): divisor_override = 3 is not supported; leave it out",
        ),
        (nn.MaxPool2d(2, dilation=2), "(aten.max_pool2d): dilation = (2, 2) is not supported; use dilation = 1"),
        (
            nn.AdaptiveAvgPool2d(3),
            "(aten.adaptive_avg_pool2d): 3x3 outputs of a 8x8 image need windows of unequal size or step; "
            "choose an output size that divides the image's",
        ),
        (
            nn.Hardtanh(),
            "(aten.hardtanh): limits -1.0..1.0 are not supported; use ReLU (from 0) or ReLU6 (0..6)",
        ),
        (
            nn.BatchNorm2d(3, track_running_stats=False),
            "(aten.batch_norm): normalises with the statistics of the batch; train it with track_running_stats=True",
        ),
        (
            nn.Unflatten(1, (1, 3)),
            "(aten.unflatten): returns shape (3, 8, 8) as (1, 3, 8, 8); only flattening to a vector is supported",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_unsupported_module_is_refused_with_path_operator_and_remedy(part, reason):
    model = nn.Sequential(nn.Sequential(nn.ReLU(), part))
    assert refusal(model, images(2, 3, 8, 8)) == f"net: 0.1 {reason}"


@pytest.mark.parametrize(
    "forward, reason",
    [
        (
            lambda self, x: x + 1,
            "(aten.add): other is the constant 1; it must be a tensor computed from the model's input",
        ),
        (
            lambda self, x: x + self.conv.bias,
            "(aten.add): other is a parameter or constant tensor; it must be a tensor computed from the model's input",
        ),
        (lambda self, x: torch.add(x, x, alpha=2), "(aten.add): alpha = 2 is not supported; only plain sums are"),
        (
            lambda self, x: functional.max_pool2d(x, 2, return_indices=True)[1],
            "(aten.max_pool2d): result 1 is used, as with return_indices = True; only the first can be",
        ),
        (
            lambda self, x: functional.dropout(x),
            "(aten.dropout): drops at random in evaluation too; pass training=self.training, or use nn.Dropout",
        ),
        (
            lambda self, x: functional.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True),
            "(aten.batch_norm): normalises with the statistics of the batch; train it with track_running_stats=True",
        ),
        (
            lambda self, x: x.flatten(),
            "(aten.flatten): result shape (384,) does not keep the batch of 2 as its first axis",
        ),
        (
            lambda self, x: functional.avg_pool2d(x.view(2, 3, 4, 16), 2),
            "(aten.avg_pool2d): reads shape (3, 8, 8) as (3, 4, 16); only flattening to a vector is supported",
        ),
        (
            lambda self, x: x.mean(1),
            "(aten.mean): only the mean over height and width of an image, or over all tokens, is supported",
        ),
        (lambda self, x: x.double(), "(aten.to): converts torch.float32 to torch.float64; remove the conversion"),
        (
            lambda self, x: x * 2,
            "(aten.mul): a constant factor is supported only of what a matrix product, convolution, linear layer or "
            "batch norm computes, where nothing else reads it; put it there, or train without it",
        ),
        (
            lambda self, x: functional.conv2d(x, self.conv.weight.abs()),
            "(aten.abs): operator is not supported; it computes a parameter, which must be a stored one: call "
            "torch.nn.utils.parametrize.remove_parametrizations first",
        ),
        (
            lambda self, x: x.flatten(1) @ self.matrix,
            "(aten.matmul): multiplies by a parameter; use nn.Linear",
        ),
    ],
)
def test_unsupported_function_is_refused_with_operator_and_reason(forward, reason):
    matrix = nn.Parameter(torch.ones(192, 5))
    model = Model(forward, conv=nn.Conv2d(3, 8, 8), bn=nn.BatchNorm2d(3), matrix=matrix)
    assert refusal(model, images(2, 3, 8, 8)) == f"net: the model itself {reason}"


@pytest.mark.parametrize(
    "forward, example, message",
    [
        (
            lambda self, x: x if x.sum() > 0 else -x,
            (images(1, 3),),
            "net: torch.export cannot trace the model: its control flow depends on values of a tensor; "
            "make the forward pass the same for every input",
        ),
        (
            lambda self, x, y: x + y,
            (images(1, 3), images(1, 3)),
            "net: the example holds 2 inputs; models of one input are supported",
        ),
        (lambda self: None, (), "net: the example holds 0 inputs; models of one input are supported"),
        (
            lambda self, x: (x, x.relu()),
            (images(1, 3),),
            "net: returns 2 values, 2 of them tensors; return one",
        ),
        (lambda self, x: 3, (images(1, 3),), "net: returns 1 values, 0 of them tensors; return one"),
        (lambda self, x: self.weight, (images(1, 3),), "net: the output does not depend on the input"),
        (
            lambda self, x: x,
            (images(3, 8, 8),),
            "net: the example is torch.float32 (3, 8, 8); it must be a float tensor (N, C, H, W) or (N, K)",
        ),
        (
            lambda self, x: x,
            (images(1, 3, 8, 8).int(),),
            "net: the example is torch.int32 (1, 3, 8, 8); it must be a float tensor (N, C, H, W) or (N, K)",
        ),
        (
            lambda self, x: x,
            (np.zeros((1, 3)),),
            "net: the example is ndarray; it must be a float tensor (N, C, H, W) or (N, K)",
        ),
        (
            lambda self, x: x,
            (images(0, 3),),
            "net: the example of shape (0, 3) is empty; give a batch of 1 or more",
        ),
        (
            lambda self, x: functional.relu(x) + functional.adaptive_avg_pool2d(x, 1),
            (images(1, 3, 4, 4),),
            "float graph net: add_1 (aten.add): adds shapes (3, 4, 4) and (3, 1, 1); broadcasting is not supported",
        ),
    ],
)
def test_a_model_that_cannot_be_a_float_graph_is_refused(capfd, forward, example, message):
    assert refusal(Model(forward, weight=nn.Parameter(torch.ones(1, 3))), *example) == message
    assert capfd.readouterr() == ("", "")


def test_nan_weights_are_refused_with_their_module():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    model[1].weight.data[0, 0, 1, 1] = float("nan")
    assert refusal(model, images(1, 1, 8, 8)) == (
        "float graph net: 1 (aten.conv2d): a parameter is NaN or infinite; repair or retrain the model"
    )


# --- batch norm --------------------------------------------------------------------------------------------------


def kinds(graph):
    return [(node.name, type(node).__name__) for node in graph.nodes[1:]]


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, groups=3)], ids=repr
)
def test_batch_norm_behind_a_convolution_becomes_part_of_it(conv):
    model = seeded(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU()))
    plain = capture(model, images(4, 3, 8, 8), fold=False)
    assert kinds(plain) == [("0", "FloatConv2d"), ("1", "FloatBatchNorm2d"), ("2", "FloatActivation")]
    folded = fold_batch_norm(plain)
    assert kinds(folded) == [("0", "FloatConv2d"), ("2", "FloatActivation")]
    assert_same_function(model, images(4, 3, 8, 8), folded)


def test_a_batch_norm_that_cannot_be_folded_becomes_a_depthwise_convolution():
    def forward(self, x):
        y = self.conv(self.first(x))
        return self.second(y) + self.third(functional.max_pool2d(y, 1))

    model = seeded(
        Model(
            forward,
            conv=nn.Conv2d(3, 3, 3),
            first=nn.BatchNorm2d(3),
            second=nn.BatchNorm2d(3),
            third=nn.BatchNorm2d(3),
        )
    )
    graph = capture(model, images(4, 3, 8, 8))
    assert [name for name, kind in kinds(graph) if kind == "FloatConv2d"] == ["first", "conv", "second", "third"]
    for name in ("first", "second", "third"):
        node = graph.by_name[name]
        assert isinstance(node, FloatConv2d)
        assert (node.weight.shape, node.groups) == ((3, 1, 1, 1), 3)
    assert_same_function(model, images(4, 3, 8, 8), graph)


def test_a_chain_of_batch_norms_folds_into_one_convolution():
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    graph = capture(model, images(4, 3, 8, 8))
    assert (kinds(graph), graph.output) == ([("0", "FloatConv2d")], "0")
    assert_same_function(model, images(4, 3, 8, 8), graph)


def test_a_convolution_whose_own_output_is_the_result_keeps_it():
    plain = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), images(1, 3, 8, 8), fold=False)
    cut = type(plain)("cut", plain.nodes, "0")
    assert kinds(fold_batch_norm(cut)) == [("0", "FloatConv2d"), ("1", "FloatConv2d")]
    assert np.array_equal(fold_batch_norm(cut).by_name["0"].weight, plain.by_name["0"].weight)


def test_folding_leaves_no_batch_norm_and_a_graph_without_one_alone():
    model = nn.Sequential(Block(3), Block(3))
    graph = capture(model, images(1, 3, 8, 8))
    assert not any(isinstance(node, FloatBatchNorm2d) for node in graph.nodes)
    assert fold_batch_norm(graph) is graph
    assert_same_function(seeded(model), images(2, 3, 8, 8))


def test_a_variance_that_cannot_be_divided_by_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].running_var[2] = -1.0
    assert refusal(model, images(1, 3, 8, 8)) == (
        "float graph net: 0 (aten.conv2d): a parameter is NaN or infinite; repair or retrain the model"
    )
