"""Every row of the table of architectures, through the same contract."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from zsharp.models import ARCHITECTURES, build_model, check_architecture

CIFAR = (3, 32, 32)
# For 3x32x32 images and 10 classes. He et al. 2015, table 6, has 0.27, 0.46, 0.66, 0.85 and 1.7 million for the
# CIFAR ResNets; the ZSharp authors' code and ViT-CIFAR have the others.
NUM_PARAMETERS = {
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_173_962,
    "vgg11_bn": 9_231_114,
    "vgg13_bn": 9_416_010,
    "vgg16_bn": 14_728_266,
    "vgg19_bn": 20_040_522,
    "vit_tiny": 148_170,
    "vit_7_8_8_384": 6_268_810,
    "vit_7_8_12_768": 8_335_882,
}
REFUSED = {  # architecture -> shapes that it cannot take, and what its message must say is valid
    **{name: ([(3, 3, 32), (1, 2, 2)], "at least 4") for name in NUM_PARAMETERS if name.startswith("resnet")},
    "resnet18": ([(3, 7, 32), (1, 4, 4)], "at least 8"),
    **{
        name: ([(1, 28, 28), (3, 32, 31)], "at least 32") for name in NUM_PARAMETERS if name.startswith("vgg")
    },
    "vit_tiny": ([(1, 30, 30), (3, 32, 36)], "multiple of 4"),
    "vit_7_8_8_384": ([(1, 28, 28), (3, 32, 40)], "multiple of 8"),
    "vit_7_8_12_768": ([(1, 28, 28), (3, 40, 32)], "multiple of 8"),
}
ACCEPTED = [  # architecture, a shape at or near the edge of what it can take, number of classes
    ("resnet20", (3, 4, 4), 3),
    ("resnet20", (1, 5, 9), 3),
    ("resnet18", (3, 8, 11), 200),
    ("vgg11_bn", (2, 32, 47), 3),
    ("vit_tiny", (1, 4, 4), 10),
    ("vit_tiny", (5, 12, 12), 3),
    ("vit_7_8_8_384", (4, 8, 8), 3),
    ("vit_7_8_8_384", (3, 64, 64), 3),
]
# The others are deeper or wider.
one_of_each_kind = pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "vgg11_bn", "vit_tiny", "vit_7_8_8_384"]
)


def test_number_of_parameters():
    assert list(ARCHITECTURES) == list(NUM_PARAMETERS) == list(REFUSED)
    for name, expected in NUM_PARAMETERS.items():
        with torch.device("meta"):
            model = build_model(name, CIFAR, 10)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected
        row = ARCHITECTURES[name]
        assert row.name == name and name.startswith(row.family)
        assert "\n" not in row.summary and f" {expected / 1e6:.2f} M parameters" in row.summary


@pytest.mark.parametrize(("name", "image_shape", "num_classes"), ACCEPTED)
def test_the_smallest_and_odd_shapes_train(name, image_shape, num_classes):
    model = build_model(name, image_shape, num_classes)
    logits = model(torch.randn(4, *image_shape))
    assert logits.shape == (4, num_classes)
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@one_of_each_kind
def test_gradients_reach_every_parameter_from_the_first_step(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR, 10)
    F.cross_entropy(model(torch.randn(4, *CIFAR)), torch.tensor([0, 3, 6, 9])).backward()
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            assert parameter.grad.isfinite().all(), key
            is_removed_by_the_norm = (
                isinstance(module, torch.nn.Conv2d) and name.startswith("vgg") and key == "bias"
            )
            assert parameter.grad.any() or is_removed_by_the_norm, (module, key)


@one_of_each_kind
def test_a_seed_fixes_the_weights(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model(name, CIFAR, 10).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_it_cannot_take_are_refused(name):
    shapes, valid = REFUSED[name]
    for shape in shapes:
        for refuse in (lambda s: check_architecture(name, s), lambda s: build_model(name, s, 10)):
            with pytest.raises(ValueError, match=valid) as error:
                refuse(shape)
            assert repr(name) in str(error.value) and " x ".join(map(str, shape)) in str(error.value)
    for shape in [(32, 32), (3, 0, 32), (3, 32.0, 32), (0, 32, 32), (1, 3, 32, 32)]:
        with pytest.raises(ValueError, match=re.escape(repr(shape))):
            check_architecture(name, shape)
    with pytest.raises(ValueError, match=f"{name}.*at least 2, not 1"):
        build_model(name, CIFAR, 1)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("ResNet20", "resnet20"),
        ("resnet-110", "resnet110"),
        ("vgg16", "vgg16_bn"),
        ("vit_7_8_384", "vit_7_8_8_384"),
        ("?", None),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_the_list(given, nearest):
    with pytest.raises(ValueError, match=re.escape(repr(given))) as error:
        build_model(given, CIFAR, 10)
    assert (f"did you mean {nearest}" if nearest else "valid: resnet8") in str(error.value)
    assert all(name in str(error.value) for name in ARCHITECTURES)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "vgg11_bn", "vit_tiny"])
def test_channels_last_and_the_compiler_change_nothing(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR, 10).double()
    images = torch.randn(2, *CIFAR, dtype=torch.float64)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    expected = model(images)
    torch.testing.assert_close(twin(images.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(compiled(images), expected)
