"""U-Net by MONAI.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
doi:10.1007/978-3-319-24574-4_28. Residual units as in Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net",
STACOM 2018, doi:10.1007/978-3-030-12029-0_40. Deep supervision as in Lee et al., "Deeply-Supervised Nets", AISTATS 2015,
arXiv:1409.5185. Attention gates as in Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018,
arXiv:1804.03999. Volumes as in Çiçek et al., "3D U-Net", MICCAI 2016, arXiv:1606.06650. Network code: MONAI 1.6.1, Apache-2.0.

What differs from MONAI's: any image size (padded inside, cropped back), optional deep supervision, optional attention gates, an
optional head of its own (``head_width``), and volumes whose slices need not be halved with their rows (``slice_halvings``). Widths
(12, 24, 48, 96) with two residual units make 0.23 M parameters: the little configuration for a CPU.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS, Dims, VolumeModelConfig
from pipeline.models.lean_monai import lean_monai
from pipeline.models.padding import SLICE_HALVINGS, Framed, check_slice_halvings, convolution_class, enlarged, product, strides
from pipeline.models.transposed import ConvTranspose2d


class UNetConfig(VolumeModelConfig):
    name: Literal["unet"] = "unet"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=2, description="channels at each depth, finest first")
    first_stride: Literal[1, 2] = Field(
        2, description="1: the first level works at full resolution, at four times the cost, for structures one or two pixels wide"
    )
    residual_units: int = Field(2, ge=0, description="convolutions in a residual unit; 0 for plain convolutions")
    norm: Literal["instance", "batch", "group"] = Field("instance", description="normalisation layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")
    attention_gates: bool = Field(False, description="weight skip connections by attention from the coarser level (Attention U-Net)")
    slice_halvings: int | None = Field(None, ge=0, description=SLICE_HALVINGS)
    deep_supervision: int = Field(0, ge=0, le=4, description="number of coarser decoder outputs that also have a loss; 0: none")
    head_width: int = Field(
        0,
        ge=0,
        description="channels at full resolution before the last 1 x 1 convolution; 0: MONAI's own head, which decodes directly into the"
        " classes (faster, but it normalises the logits: set a width if images may contain none of a class)",
    )

    @model_validator(mode="after")
    def _fits(self) -> UNetConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        check_slice_halvings(self.slice_halvings, self.dims, sum(stride == 2 for stride in self.strides))
        if self.deep_supervision > len(self.widths) - 2:
            raise ValueError(f"deep_supervision can be at most {len(self.widths) - 2} with {len(self.widths)} widths")
        return self

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each level, finest first; the bottom keeps its size."""
        return (self.first_stride, *(2,) * (len(self.widths) - 2))


class AttentionGate(nn.Module):
    """Lets through what the coarser level asks for: features (B, C, ...) times a map in 0..1 made of them and the ``gating`` signal.

    As in the paper (additive attention by 1 x 1 convolutions), except that the gating signal has already been brought to the
    features' size here; it begins half open.
    """

    def __init__(self, dims: Dims, features: int, gating: int) -> None:
        super().__init__()
        width = max(1, features // 2)
        self.features = convolution_class(dims)(features, width, 1, bias=False)
        self.gating = convolution_class(dims)(gating, width, 1)
        self.map = convolution_class(dims)(width, 1, 1)

    def forward(self, features: Tensor, gating: Tensor) -> Tensor:
        opening: Tensor = torch.sigmoid(self.map(functional.relu(self.features(features) + self.gating(gating))))
        return features * opening


class UNet(Framed):
    """MONAI's UNet; with deep supervision every coarser output is brought to full size, so that each loss sees the target as drawn."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        with lean_monai():
            from monai.networks.nets import UNet as MonaiUNet

        steps = strides(config.strides, config.dims, config.slice_halvings)
        last = config.head_width or out_channels
        net = MonaiUNet(
            spatial_dims=config.dims,
            in_channels=in_channels,
            out_channels=last,
            channels=config.widths,
            strides=steps,
            num_res_units=config.residual_units,
            norm=_norm(config, last),
            dropout=config.dropout,
        )
        super().__init__(with_quick_gradients(net), product(steps, config.dims), config.dims)
        self.levels = len(steps)
        convolve = convolution_class(config.dims)
        self.head = nn.Sequential(PReLU(), convolve(last, out_channels, 1)) if config.head_width else nn.Identity()
        self.coarse_heads = nn.ModuleList(convolve(width, out_channels, 1) for width in config.widths[: config.deep_supervision])
        # MONAI's decoder hands each level features as wide as its own; only the bottom's stay as they are.
        below = (*config.widths[:-2], config.widths[-1])
        pairs = zip(config.widths[:-1], below, strict=True) if config.attention_gates else ()
        self.gates = nn.ModuleList(AttentionGate(config.dims, width, gating) for width, gating in pairs)

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        features = self._decoder_outputs(self.net.model, images, 0)
        finest: Tensor = self.head(features[0])
        if not (self.training and self.coarse_heads):
            return finest
        coarse = zip(self.coarse_heads, features[1:], strict=False)
        return [finest, *(enlarged(head(feature), images.shape[2:]) for head, feature in coarse)]

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's blocks, finest first."""
        stages: list[list[nn.Module]] = []
        block: Any = self.net.model
        for _ in range(self.levels):
            down, skip, _ = block.children()
            stages.append([down])
            block = skip.get_submodule("submodule")
        return [*stages, [block]]

    def _decoder_outputs(self, block: Any, x: Tensor, level: int) -> list[Tensor]:
        """Run MONAI's nested (down, skip(inner), up) blocks and keep what each decoder level gives, finest first, the bottom last."""
        if level == self.levels:
            return [block(x)]
        down, skip, up = block.children()
        encoded = down(x)
        inner = self._decoder_outputs(skip.get_submodule("submodule"), encoded, level + 1)
        kept = self.gates[level](encoded, inner[0]) if self.gates else encoded
        return [up(torch.cat([kept, inner[0]], dim=1)), *inner]


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` of one slope: the same numbers, parameter and name.

    torch's own gradient goes through a map pixel by pixel on a CPU (a fifth of a U-Net's training step); here it is made of
    vectorised operations.
    """

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        return _OneSlope.apply(x, self.weight) if learns else super().forward(x)


class _OneSlope(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, slope: Tensor) -> Tensor:
        context.save_for_backward(x, slope)
        return functional.leaky_relu(x, slope.item())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = context.saved_tensors
        of_slope = None
        if context.needs_input_grad[1]:
            of_slope = x.clamp(max=0).mul_(gradient).sum(dtype=slope.dtype).view_as(slope)
        return torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False), of_slope


def with_quick_gradients(network: nn.Module) -> nn.Module:
    """The network with each of its PReLUs of one slope as :class:`PReLU` and its transposed convolutions as :class:`ConvTranspose2d`,
    weights kept."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.PReLU and child.num_parameters == 1:
                quick = PReLU()
                quick.weight = child.weight
                setattr(module, name, quick)
            elif type(child) is nn.ConvTranspose2d:
                setattr(module, name, ConvTranspose2d.of(child))
    return network


def _norm(config: UNetConfig, last: int) -> str | tuple[str, dict[str, int]]:
    """MONAI's name of the normalisation; groups must divide every width, so there are as many (up to 8) as do."""
    if config.norm != "group":
        return config.norm
    common = math.gcd(*config.widths, last)
    return "group", {"num_groups": max(n for n in range(1, 9) if common % n == 0)}


@MODELS.add(UNetConfig)
def build(config: UNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return UNet(config, in_channels, out_channels)
