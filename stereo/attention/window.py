"""Attention within local windows: what lies in another window is out of reach until the windows are shifted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stereo.attention.contract import check_inputs, check_same_grid, columns_of, masked_softmax
from stereo.attention.position import Position
from stereo.attention.sparse import KeyGrid, allowed_candidates, candidate_scores, candidate_values


class WindowAttention(nn.Module):
    """Softmax over the tokens of the query's own window (Swin Transformer, arXiv 2103.14030, section 3.2).

    window: s, windows are 1 x s in row scope and s x s in image scope. shifted: move their grid by s // 2, as Swin does in
    every other layer; windows are cut off at the edges where Swin wraps them around and masks, which is the same. Without
    Swin's learned relative bias: position comes from the position object. O(W s). Queries and keys lie on one grid. In cross
    attention a window holds only disparities below its size, so this operator is for self attention and comparisons.
    kernel: a backend name of stereo.kernels.
    """

    scopes = ("row", "image")

    def __init__(self, window: int = 8, shifted: bool = False, kernel: str = "auto"):
        super().__init__()
        if window < 1:
            raise ValueError(f"expected window >= 1, got {window}")
        self.size, self.offset, self.kernel = window, window // 2 if shifted else 0, kernel

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        position: Position | None = None,
    ) -> Tensor:
        """q, k, v (B,H,W,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract."""
        check_inputs(self.scopes, q, k, v, scope, side)
        check_same_grid("window", q, k)
        keys = KeyGrid.of(k, scope)
        candidates = self.candidates(q.shape[1], keys, q.device)[None, :, :, None].expand(*q.shape[:4], -1)
        allowed = allowed_candidates(candidates, keys, scope, side)
        existing, columns = keys.existing(candidates), columns_of(q, scope)
        scores = candidate_scores(q * q.shape[-1] ** -0.5, k, existing, scope, (columns, columns), position, self.kernel)
        return candidate_values(masked_softmax(scores, allowed), v, existing, scope, self.kernel)

    def candidates(self, height: int, keys: KeyGrid, device: torch.device) -> Tensor:
        """Indices of the keys in the window of every query (height, width, M); see KeyGrid for those beyond the edges."""
        columns = self._members(keys.width, device)[None, :, None, :]  # (1, W, 1, s)
        if keys.height == 1:
            rows = torch.zeros(height, 1, 1, 1, dtype=torch.int64, device=device)
        else:
            rows = self._members(height, device)[:, None, :, None]  # (H, 1, s, 1)
        exists = (rows >= 0) & (rows < keys.height) & (columns >= 0) & (columns < keys.width)
        return torch.where(exists, rows * keys.width + columns, keys.count).flatten(2)

    def _members(self, length: int, device: torch.device) -> Tensor:
        """Coordinates of all members of the window of every coordinate -> (length, s), also those beyond the edges."""
        own = torch.arange(length, device=device) + self.offset
        first = own - own % self.size - self.offset
        return first[:, None] + torch.arange(self.size, device=device)
