"""The way that the benchmarks compare with computes the same, and so do the fast paths."""

import pytest
import torch
from published_way import encode_images

from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan


def fresh_model(backbone):
    """A model of the paper's parts whose batch norms have statistics of their own, as after training."""
    torch.manual_seed(0)
    model = Swan(ModelSettings(5, backbone, image_size=64, embed_dim=32, frozen=True, without=("pool",)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_similarities_are_those_of_the_straightforward_path(backbone):
    """Folded batch norms, fused 1x1 convolutions, averaged weights, channels last, parts of 32 images."""
    model = fresh_model(backbone)
    pixels, tokens = torch.randn(40, 3, 64, 64), torch.randint(1, 6, (30, 7))
    with torch.no_grad():
        captions = model.encode_captions(tokens, torch.full((30,), 7))
        plain = encode_images(model, pixels) @ captions.T
        model = model.to(memory_format=torch.channels_last)
        fast = model.encode_images(pixels.contiguous(memory_format=torch.channels_last)) @ captions.T
    assert (fast - plain).abs().max() < 1e-5
    assert plain.std() > 1e-4  # the images differ


def test_training_step_has_the_straightforward_gradients():
    """With dropout off, so that both see the same."""
    model = fresh_model("resnet18")
    pixels = torch.randn(6, 3, 64, 64)
    gradients = []
    for encode in (lambda: encode_images(model, pixels), lambda: model.encode_images(pixels)):
        model.zero_grad()
        encode()[:, 0].sum().backward()
        gradients.append({name: p.grad for name, p in model.image_tower.named_parameters()})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-3, atol=1e-5, msg=name)
