"""DETR: transformers' encoder and decoder over our own image encoders.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, arXiv:2005.12872. Network code: Hugging Face
transformers (Apache-2.0), built from its configuration; nothing is downloaded.

What differs: the image encoder is one of backbones.py, so that ImageNet weights come from the same files as everywhere, and its
normalisation learns where there are none (transformers would freeze it at random). Weights begin as in the authors' code (Xavier in
the transformer, N(0, 1) queries): transformers, meant to load trained ones, begins with N(0, .02), where all queries are alike. The
set loss is the paper's, written here: transformers' sums across processes, so that a validation with uneven parts would never end,
and it stops at the first number that is not finite instead of showing it in the loss.

DETR is known to need hundreds of epochs. ``points`` (default; ``false`` is the paper's) gives it what later papers found missing, in
its simplest form: boxes relative to a point of each query (Wang et al., "Anchor DETR", AAAI 2022, arXiv:2109.07107), attention that
begins around that point (Gao et al., "Fast Convergence of DETR with Spatially Modulated Co-Attention", ICCV 2021, arXiv:2101.07448),
position codes of a picture's wave lengths (Liu et al., "DAB-DETR", ICLR 2022, arXiv:2201.12329) and in the values too, so that a
query is told where what it sees lies. Fewer layers, ``dropout: 0``, ImageNet weights and ``stride: 16`` for small objects (the
paper's DC5 gets there by dilation) help a short run as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models.backbones import Name, build_encoder
from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, DetectorConfig, FrozenStages, Sizes, boxes_and_labels
from pipeline.models.features import Features
from pipeline.models.weights import Loaded
from pipeline.types import Target

CLASS, BOX, GIOU = 1.0, 5.0, 2.0
"""Weights of the losses' parts, and of the costs by which objects are matched (section A.4 of the paper)."""
OUTSIDE = -1e4  # added to attention, leaves nothing of it; infinity would leave NaN where a row has nothing else


class DetrConfig(DetectorConfig):
    name: Literal["detr"] = "detr"
    backbone: Name = Field("resnet50", description="encoder: mobilenet_v2, efficientnet_lite0 (lite1, lite2), resnet18, resnet50")
    frozen_stages: FrozenStages = 2
    stride: Literal[16, 32] = Field(
        32, description="stride of the features passed to the transformer; 16 gives four times as many, from two depths"
    )
    queries: int = Field(100, ge=1, description="maximum number of objects per image; a small multiple of the usual number trains fastest")
    width: int = Field(256, ge=8, multiple_of=4, description="width of the transformer (d_model)")
    heads: int = Field(8, ge=1, description="attention heads")
    encoder_layers: int = Field(6, ge=0)
    decoder_layers: int = Field(6, ge=1)
    feedforward: int = Field(2048, ge=1, description="width of the feed-forward layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    points: bool = Field(
        True,
        description="each query has a reference point, attends around it at first and predicts its box relative to it; false: as in the "
        "paper, which learns where to attend and takes many times as long to train",
    )
    auxiliary: bool = Field(True, description="apply the loss to every decoder layer, not only to the last")
    no_object: float = Field(0.1, gt=0, description="class-loss weight of queries without an object")

    @model_validator(mode="after")
    def _fits(self) -> DetrConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class Detr(Detector):
    """See the module."""

    def __init__(self, config: DetrConfig, features: Features, classes: int) -> None:
        super().__init__()
        try:
            from transformers import DetrConfig as Settings
            from transformers import DetrForObjectDetection, ResNetConfig
        except ImportError:
            raise ConfigError("model.name: detr needs the package transformers: install ocuseg[detr]") from None
        self.config = config
        settings = Settings(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"]),
            num_labels=classes,
            num_queries=config.queries,
            d_model=config.width,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.feedforward,
            decoder_ffn_dim=config.feedforward,
            dropout=config.dropout,
            auxiliary_loss=True,
        )
        self.net = DetrForObjectDetection(settings)
        self.net.model.backbone = features  # in the place of the toy that the settings describe
        inputs = features.widths[3] + (features.widths[2] if config.stride == 16 else 0)
        self.net.model.input_projection = nn.Conv2d(inputs, config.width, 1)
        for part in (self.net.model.encoder, self.net.model.decoder):
            for weight in part.parameters():
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.net.model.query_position_embeddings.weight)
        for layer in (self.net.class_labels_classifier, *self.net.bbox_predictor.layers):
            layer.reset_parameters()
        if config.points:
            size = self.net.bbox_predictor.layers[-1]  # boxes begin on their point, an eighth of the image wide and high
            nn.init.normal_(size.weight, std=0.01)
            nn.init.zeros_(size.bias[:2])
            nn.init.constant_(size.bias[2:], -2.0)
            self.net.model.position_embedding.temperature = 20  # Liu et al., section 4.4; 10,000 is meant for sentences
            number = torch.arange(1, config.queries + 1, dtype=torch.float64)[:, None]
            strewn = number * torch.tensor([0.7548776662, 0.5698402910], dtype=torch.float64) % 1  # even, however many there are
            self.points = nn.Parameter(strewn.float().logit())
            self.reach = nn.Parameter(torch.linspace(math.log(0.05), math.log(0.4), config.heads))

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the image encoder from "imagenet" or a file."""
        features: Features = self.net.model.backbone
        return features.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        features: Features = self.net.model.backbone
        return features.stages()

    def outputs(self, images: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Logits (L, B, queries, classes + 1), "no object" last, and boxes (L, B, queries, 4): centre, width, height as fractions of the
        image's own sides. L decoder layers, the last one last; float32."""
        model = self.net.model
        seen = model.input_projection(self._features(images))
        batch, _, rows, columns = seen.shape
        steps = [torch.arange(count, device=seen.device) * self.config.stride for count in (rows, columns)]
        heights, widths = torch.tensor(sizes, device=seen.device).T
        picture = (steps[0][None, :, None] < heights[:, None, None]) & (steps[1][None, None] < widths[:, None, None])
        codes = model.position_embedding(shape=seen.shape, device=seen.device, dtype=torch.float32, mask=picture)
        seen, codes, picture = seen.flatten(2).transpose(1, 2), codes.flatten(2).transpose(1, 2), picture.flatten(1)
        queries = model.query_position_embeddings.weight.expand(batch, -1, -1)
        attended: Tensor = picture
        if self.config.points:
            seen = seen + codes
            attended = self._near_points(steps, heights, widths).masked_fill(~picture[:, None, None], OUTSIDE)
        memory = model.encoder(inputs_embeds=seen, attention_mask=picture, spatial_position_embeddings=codes).last_hidden_state
        layers = model.decoder(
            inputs_embeds=torch.zeros_like(queries),
            encoder_hidden_states=memory,
            encoder_attention_mask=attended,
            spatial_position_embeddings=codes,
            object_queries_position_embeddings=queries,
        ).intermediate_hidden_states
        boxes = self.net.bbox_predictor(layers).float()
        if self.config.points:
            boxes = torch.cat([boxes[..., :2] + self.points, boxes[..., 2:]], dim=-1)
        return self.net.class_labels_classifier(layers).float(), boxes.sigmoid()

    def _features(self, images: Tensor) -> Tensor:
        """At stride 16 the features of stride 32 are laid under those of 16: small objects have their pixels and their meaning."""
        features: list[Tensor] = self.net.model.backbone(images)
        fine, coarse = features[2:]
        if self.config.stride == 32:
            return coarse
        return torch.cat([fine, functional.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1)

    def _near_points(self, steps: Sequence[Tensor], heights: Tensor, widths: Tensor) -> Tensor:
        """What is added to attention (B, heads, queries, places): the logarithm of a bell around the query's point, as wide as the
        head's reach."""
        half = self.config.stride / 2
        y, x = (steps[0] + half) / heights[:, None], (steps[1] + half) / widths[:, None]  # (B, rows), (B, columns)
        point = self.points.sigmoid()
        away_x = (x[:, None] - point[None, :, :1]) ** 2
        away_y = (y[:, None] - point[None, :, 1:]) ** 2
        away = (away_y[..., :, None] + away_x[..., None, :]).flatten(2)
        return -away[:, None] / (2 * (2 * self.reach).exp())[None, :, None, None]

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, boxes = self.outputs(images, sizes)
        labels, truths = [], []
        for target, (rows, columns) in zip(targets, sizes, strict=True):
            own, classes = boxes_and_labels(target)
            labels.append(classes - 1)
            truths.append(_fractions(own.to(boxes), rows, columns))
        if not self.config.auxiliary:
            logits, boxes = logits[-1:], boxes[-1:]
        return set_losses(logits, boxes, labels, truths, self.config.no_object)

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        """The highest-scoring class of each query, as in the paper: no suppression."""
        from torchvision.ops import clip_boxes_to_image

        logits, boxes = self.outputs(images, sizes)
        found = []
        for probabilities, centred, (rows, columns) in zip(logits[-1].softmax(-1)[..., :-1], boxes[-1], sizes, strict=True):
            scores, labels = probabilities.max(-1)
            inside = clip_boxes_to_image(_corners(centred) * _sides(centred, rows, columns), (rows, columns))
            order = scores.argsort(descending=True, stable=True)
            order = order[(inside[order, 2:] > inside[order, :2]).all(1)]
            found.append(Detections(inside[order], labels[order] + 1, scores[order]))
        return found


def set_losses(logits: Tensor, boxes: Tensor, labels: Sequence[Tensor], truths: Sequence[Tensor], no_object: float) -> dict[str, Tensor]:
    """Losses ``class``, ``box`` (L1) and ``giou``, times the paper's weights and summed over the L decoder layers given.

    ``logits`` (L, B, Q, K + 1), ``boxes`` (L, B, Q, 4): centre, width, height as fractions of the image's sides; for each image
    ``labels`` int64 (T) 0..K - 1 and ``truths`` (T, 4). Objects and queries are matched one to one at the least total cost (Kuhn, 1955);
    unmatched queries are trained to predict "no object". With more objects than queries the costliest objects stay unmatched. Where
    nothing is matched, box and giou are 0.
    """
    from torchvision.ops import generalized_box_iou_loss  # importing torchvision takes a second

    layer, image, query, number = match(logits, boxes, labels, truths)
    all_labels, all_truths = torch.cat(list(labels)), torch.cat(list(truths))
    wanted = torch.full(logits.shape[:3], logits.shape[-1] - 1, device=logits.device)
    wanted[layer, image, query] = all_labels[number]
    found, truth = boxes[layer, image, query], all_truths[number]
    near = functional.l1_loss(found, truth, reduction="sum")
    overlap = generalized_box_iou_loss(_corners(found), _corners(truth), reduction="sum")
    weight = torch.ones_like(logits[0, 0, 0])
    weight[-1] = no_object
    count = max(len(all_labels), 1)
    # The weights of a layer's queries sum to the same in each, so that the sum of the layers' means is a mean of all times their number.
    kind = functional.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight) * len(logits)
    return {"class": CLASS * kind, "box": BOX * near / count, "giou": GIOU * overlap / count}


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, labels: Sequence[Tensor], truths: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What belongs together in each layer and image of :func:`set_losses`: int64 numbers of layers, images, queries and objects, which
    are counted through all images. The costs of the whole batch come from the device in one piece.
    """
    from scipy.optimize import linear_sum_assignment
    from torchvision.ops import generalized_box_iou

    costs = []
    for image, (label, truth) in enumerate(zip(labels, truths, strict=True)):
        own = boxes[:, image].flatten(0, 1)
        likely = logits[:, image].softmax(-1)[..., label].flatten(0, 1)
        cost = BOX * torch.cdist(own, truth, p=1) - CLASS * likely - GIOU * generalized_box_iou(_corners(own), _corners(truth))
        costs.append(cost.nan_to_num(1e6, 1e6, -1e6).flatten())
    at_once = torch.cat(costs).cpu().split([len(cost) for cost in costs])
    found: list[tuple[int, int, int, int]] = []
    first = 0
    for image, (cost, label) in enumerate(zip(at_once, labels, strict=True)):
        for layer, of_layer in enumerate(cost.view(len(boxes), boxes.shape[2], len(label)).numpy()):
            pairs: Any = linear_sum_assignment(of_layer)
            found += [(layer, image, int(query), first + int(number)) for query, number in zip(*pairs, strict=True)]
        first += len(label)
    layers, images, queries, numbers = torch.tensor(found, dtype=torch.int64).reshape(-1, 4).to(logits.device, non_blocking=True).unbind(1)
    return layers, images, queries, numbers


def _sides(like: Tensor, rows: int, columns: int) -> Tensor:
    return like.new_tensor([columns, rows, columns, rows])


def _fractions(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Boxes (N, 4) xyxy in pixels -> centre, width and height as fractions of the image's sides."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1) / _sides(boxes, rows, columns)


def _corners(centred: Tensor) -> Tensor:
    """Centre, width, height (..., 4) -> xyxy."""
    centre, half = centred[..., :2], centred[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


@MODELS.add(DetrConfig)
def build(config: DetrConfig, in_channels: int, out_channels: int) -> Detr:
    return Detr(config, build_encoder(config.backbone, in_channels, config.weights, config.frozen_stages), out_channels)
