"""Lets torchvision's wheel be imported beside a CPU-only torch, where its compiled operators cannot load.

Import torchvision by `load`. The operators are declared, so that torchvision's own fake kernels can register, and those
that its detection models run get a slow kernel without gradients; calling another (deformable convolution, say) still
fails. For test and benchmark environments only.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

_LIB = torch.library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
    "int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int "
    "sampling_ratio, bool aligned) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version() -> int",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt "
    "pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt "
    "pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width, int sampling_ratio, "
    "bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt "
    "pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt "
    "width) -> Tensor",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt "
    "pooled_width, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
    "SymInt pooled_height, SymInt pooled_width, int sampling_ratio, SymInt batch_size, SymInt channels, "
    "SymInt height, SymInt width) -> Tensor",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt "
    "pooled_width) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt "
    "pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt "
    "width) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt "
    "stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt "
    "groups, SymInt offset_groups, bool use_mask) -> Tensor",
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, "
    "Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, "
    "SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> (Tensor, Tensor, Tensor, "
    "Tensor, Tensor)",
):
    _LIB.define(_schema)


def load() -> ModuleType:
    """The package, imported as if its library of operators had been loaded."""
    with mock.patch.object(torch.ops, "load_library"):
        return importlib.import_module("torchvision")


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes kept, best first: none overlaps a better one by more than the threshold."""
    order, kept = scores.argsort(descending=True), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[order, :2], boxes[best, :2])
        high = torch.minimum(boxes[order, 2:], boxes[best, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = order[shared <= threshold * (area[order] + area[best] - shared)]
    return torch.stack(kept) if kept else order


def _roi_align(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, samples: int, aligned: bool
) -> Tensor:
    """Means of bilinear samples in a grid over every region; (K, 5) regions of an (N, C, H, W) give (K, C, h, w)."""
    size, count = torch.tensor(input.shape[:1:-1]), max(samples, 2)
    bins = [input.new_empty(0, input.shape[1], height, width)]
    for row in rois:
        low, high = (row[1:].view(2, 2) * scale - 0.5 * aligned).unbind()
        steps = [(torch.arange(n * count) + 0.5) / (n * count) for n in (width, height)]
        x, y = (low[i] + step * (high[i] - low[i]).clamp(min=0 if aligned else 1) for i, step in enumerate(steps))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) * 2 / (size - 1).clamp(min=1) - 1
        found = functional.grid_sample(input[int(row[0]), None], grid[None].to(input), "bilinear", "border", True)
        bins.append(functional.avg_pool2d(found, count))
    return torch.cat(bins)


_LIB.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
_LIB.impl("nms", _nms, "CPU")
_LIB.impl("roi_align", _roi_align, "CPU")
