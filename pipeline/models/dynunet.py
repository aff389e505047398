"""DynUNet: the U-Net of nnU-Net; MONAI's.

Paper: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature Methods
2021, doi:10.1038/s41592-020-01008-z; residual blocks as in Futrega et al., "Optimized U-Net for Brain Tumor Segmentation", BrainLes
2021, arXiv:2110.03352. Network code: MONAI 1.6.1, Apache-2.0.

What differs: any image size; coarser outputs are interpolated linearly (MONAI's repeats pixels). nnU-Net's choice of depths and
strides from the data is left to the run file.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.models.base import MODELS, VolumeModelConfig
from pipeline.models.lean_monai import lean_monai
from pipeline.models.padding import SLICE_HALVINGS, Framed, check_slice_halvings, enlarged, product, strides


class DynUNetConfig(VolumeModelConfig):
    name: Literal["dynunet"] = "dynunet"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=3, description="channels at each depth, finest first")
    slice_halvings: int | None = Field(None, ge=0, description=SLICE_HALVINGS)
    residual: bool = Field(False, description="use residual blocks")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")
    deep_supervision: int = Field(0, ge=0, le=4, description="number of coarser decoder outputs that also have a loss; 0: none")

    @model_validator(mode="after")
    def _fits(self) -> DynUNetConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        check_slice_halvings(self.slice_halvings, self.dims, len(self.widths) - 1)
        if self.deep_supervision > len(self.widths) - 2:
            raise ValueError(f"deep_supervision can be at most {len(self.widths) - 2} with {len(self.widths)} widths")
        return self


class DynUNet(Framed):
    """MONAI's DynUNet, its blocks called here: MONAI holds each of them a second time for its own way of calling, which no weights
    file can keep, and stacks coarser outputs on a new axis."""

    def __init__(self, config: DynUNetConfig, in_channels: int, out_channels: int) -> None:
        with lean_monai():
            from monai.networks.nets import DynUNet as MonaiDynUNet

        levels = len(config.widths)
        steps = [1, *strides((2,) * (levels - 1), config.dims, config.slice_halvings)]
        net = MonaiDynUNet(
            spatial_dims=config.dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=(3,) * levels,
            strides=steps,
            upsample_kernel_size=steps[1:],
            filters=config.widths,
            dropout=config.dropout or None,
            deep_supervision=config.deep_supervision > 0,
            deep_supr_num=max(1, config.deep_supervision),
            res_block=config.residual,
        )
        del net.skip_layers, net.heads
        super().__init__(net, product(steps, config.dims), config.dims)

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        net: Any = self.net
        encoded = [net.input_block(images)]
        for down in net.downsamples:
            encoded.append(down(encoded[-1]))
        decoded = [net.bottleneck(encoded[-1])]  # coarsest first
        for up, skip in zip(net.upsamples, reversed(encoded), strict=True):
            decoded.append(up(decoded[-1], skip))
        finest: Tensor = net.output_block(decoded[-1])
        if not (self.training and net.deep_supervision):
            return finest
        coarse = zip(net.deep_supervision_heads, decoded[-2::-1], strict=False)
        return [finest, *(enlarged(head(level), images.shape[2:]) for head, level in coarse)]

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's blocks, finest first."""
        net: Any = self.net
        return [[block] for block in (net.input_block, *net.downsamples, net.bottleneck)]


@MODELS.add(DynUNetConfig)
def build(config: DynUNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return DynUNet(config, in_channels, out_channels)
