"""Telling weights apart by their values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor], content: str = "") -> str:
    """Hash tensors by name, type, shape and value, on any device.

    Parameters
    ----------
    tensors : mapping from name to Tensor
    content : str
        What else goes into the hash.
    """
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
