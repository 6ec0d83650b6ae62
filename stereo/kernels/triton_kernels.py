"""The kernels in Triton: a quadtree level, the two sparse products, pooling and the rotary turn. Launched by triton_backend.py.

A program does a block of neighbouring queries of one row and head. Products of a query with a key of its own list are sums over
a tile (queries, candidates, channels); where all queries see the same keys they are matrix products. Everything is summed in
float32. Names: x columns of the queries, c channels, m places in the list of candidates; strides are those of (B, H, W, heads),
channels lie side by side.
"""

import triton
import triton.language as tl


@triton.jit
def _place(H, heads, blocks, W, BLOCK_Q: tl.constexpr):
    """Batch, row, head, columns (BLOCK_Q,) of this program."""
    program = tl.program_id(0)
    row = program // blocks
    x = program % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    return (row // heads // H).to(tl.int64), row // heads % H, row % heads, x


@triton.jit
def _candidates(start, lists, x, side, W, Wk, K, M, LISTED: tl.constexpr, BLOCK_M: tl.constexpr):
    """Columns of the keys at places start ... of the list, and which of them the query may see: (BLOCK_Q, BLOCK_M) each.

    LISTED: place m of the list is child m // K of the parent's entry m % K; otherwise place and column are the same.
    """
    m = start + tl.arange(0, BLOCK_M)[None, :]
    x = x[:, None]
    there = (x < W) & (m < M)
    columns = 2 * tl.load(lists[:, None] + m % K, mask=there, other=-1) + m // K if LISTED else m + tl.zeros_like(x)
    return columns, there & (columns >= 0) & (columns < Wk) & (side * (x - columns) >= 0)


@triton.jit
def _rows(row, columns, allowed, start, stride, Wk, d, LISTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """What the keys or values of a row hold, 0 where there is nothing: (BLOCK_Q, BLOCK_M, BLOCK_D), or without the first."""
    c = tl.arange(0, BLOCK_D)
    if LISTED:
        return tl.load(row + columns[:, :, None] * stride + c, mask=allowed[:, :, None] & (c < d), other=0.0)
    else:  # Triton looks at what follows an if that returns even where that is not reached, hence else here and below
        j = start + tl.arange(0, BLOCK_M)[:, None]
        return tl.load(row + j * stride + c, mask=(j < Wk) & (c < d), other=0.0)


@triton.jit
def _matrix_product(a, b, kind: tl.constexpr):
    """For inputs of 16 bits TF32, which holds them exactly and weights better than they would."""
    precision: tl.constexpr = "ieee" if kind == tl.float32 else "tf32"
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=precision)


@triton.jit
def _dot(a, rows, LISTED: tl.constexpr):
    """Products of a (BLOCK_Q, BLOCK_D) with every row -> (BLOCK_Q, BLOCK_M)."""
    if LISTED:
        return tl.sum(a.to(tl.float32)[:, None, :] * rows.to(tl.float32), 2)
    else:
        return _matrix_product(a, tl.trans(rows), rows.dtype)


@triton.jit
def _mix(weights, rows, LISTED: tl.constexpr):
    """Sum of the rows by weights (BLOCK_Q, BLOCK_M) -> (BLOCK_Q, BLOCK_D)."""
    if LISTED:
        return tl.sum(weights[:, :, None] * rows.to(tl.float32), 1)
    else:
        return _matrix_product(weights, rows, rows.dtype)


@triton.jit
def _scatter(
    to, weights, a, columns, allowed, start, stride, Wk, d, kind: tl.constexpr,
    LISTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add weights (BLOCK_Q, BLOCK_M) times a (BLOCK_Q, BLOCK_D) to the rows, which other programs add to as well."""
    c = tl.arange(0, BLOCK_D)
    if LISTED:
        part = weights[:, :, None] * a.to(tl.float32)[:, None, :]
        tl.atomic_add(to + columns[:, :, None] * stride + c, part, mask=allowed[:, :, None] & (c < d), sem="relaxed")
    else:
        j = start + tl.arange(0, BLOCK_M)[:, None]
        part = _matrix_product(tl.trans(weights), a, kind)
        tl.atomic_add(to + j * stride + c, part, mask=(j < Wk) & (c < d), sem="relaxed")


@triton.jit
def _keep_best(best, best_columns, scores, columns, topk, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr):
    """The topk highest of those kept and those of a new block: topk times the highest of the block replaces the lowest kept."""
    slots, places = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_M)[None, :]
    for _ in range(topk):
        high, place = tl.max(scores, 1, return_indices=True)
        low, slot = tl.min(best, 1, return_indices=True)
        taken = places == place[:, None]
        replaced = (high > low)[:, None] & (slots == slot[:, None])
        best = tl.where(replaced, high[:, None], best)
        best_columns = tl.where(replaced, tl.sum(tl.where(taken, columns, 0), 1)[:, None], best_columns)
        scores = tl.where(taken, float("-inf"), scores)
    return best, best_columns


@triton.jit
def level_forward(
    q, k, v, parent, coarse, share, side, message, chosen,
    H, W, Wk, heads, d, blocks, K, M, topk,
    q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n, v_b, v_h, v_w, v_n,
    LISTED: tl.constexpr, SIDED: tl.constexpr, ADDED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Message and chosen keys; parent, coarse, message and chosen are contiguous. BLOCK_K 0: nothing is to be chosen."""
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)[None, :]
    whole = (x < W)[:, None] & (c < d)
    toward = tl.load(side + b).to(tl.int32) if SIDED else 0
    node = ((b * ((H + 1) // 2) + h // 2) * ((W + 1) // 2) + x // 2) * heads + n
    query = ((b * H + h) * W + x) * heads + n
    a = tl.load(q + b * q_b + h * q_h + n * q_n + x[:, None] * q_w + c, mask=whole, other=0.0)
    k_row, v_row = k + b * k_b + h * k_h + n * k_n, v + b * v_b + h * v_h + n * v_n
    peak = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    summed = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    if BLOCK_K:
        slots = tl.arange(0, BLOCK_K)[None, :] + tl.zeros_like(x)[:, None]
        best = tl.where(slots < topk, float("-inf"), float("inf"))  # slots beyond topk are never the lowest
        best_columns = tl.zeros_like(slots) + Wk
    for start in range(0, M, BLOCK_M):
        columns, allowed = _candidates(start, parent + node * K, x, toward, W, Wk, K, M, LISTED, BLOCK_M)
        keys = _rows(k_row, columns, allowed, start, k_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        scores = tl.where(allowed, _dot(a, keys, LISTED), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher > float("-inf"), higher, 0.0)
        fade, weights = tl.exp(peak - shift), tl.exp(scores - shift[:, None])
        values = _rows(v_row, columns, allowed, start, v_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        summed = summed * fade[:, None] + _mix(weights, values, LISTED)
        total = total * fade + tl.sum(weights, 1)
        peak = higher
        if BLOCK_K:
            best, best_columns = _keep_best(best, best_columns, scores, columns, topk, BLOCK_K, BLOCK_M)
    scale = tl.where(total > 0, tl.load(share).to(tl.float32) / total, 0.0)
    out = summed * scale[:, None]
    if ADDED:
        out += tl.load(coarse + node[:, None] * d + c, mask=whole, other=0.0).to(tl.float32)
    tl.store(message + query[:, None] * d + c, out.to(message.dtype.element_ty), mask=whole)
    if BLOCK_K:
        tl.store(chosen + query[:, None] * topk + slots, best_columns, mask=(x < W)[:, None] & (slots < topk))


@triton.jit
def level_backward(
    grad, q, k, v, parent, share, side, grad_q, grad_k, grad_v, slope,
    H, W, Wk, heads, d, blocks, K, M,
    g_b, g_h, g_w, g_n, q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n, v_b, v_h, v_w, v_n,
    LISTED: tl.constexpr, SIDED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients, all contiguous: of q; of k and v, added to float32 zeros; of the share, as float32 terms of every query.

    With p the softmax and z the scores: message = share * sum of p v, so dz = share * p (g v - mean), mean = sum of p (g v).
    """
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)[None, :]
    whole = (x < W)[:, None] & (c < d)
    toward = tl.load(side + b).to(tl.int32) if SIDED else 0
    node = ((b * ((H + 1) // 2) + h // 2) * ((W + 1) // 2) + x // 2) * heads + n
    query = ((b * H + h) * W + x) * heads + n
    a = tl.load(q + b * q_b + h * q_h + n * q_n + x[:, None] * q_w + c, mask=whole, other=0.0)
    g = tl.load(grad + b * g_b + h * g_h + n * g_n + x[:, None] * g_w + c, mask=whole, other=0.0)
    k_row, v_row = k + b * k_b + h * k_h + n * k_n, v + b * v_b + h * v_h + n * v_n
    to_row = (b * H + h) * Wk * heads * d + n * d
    step = heads * d
    peak = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mean = tl.zeros((BLOCK_Q,), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns, allowed = _candidates(start, parent + node * K, x, toward, W, Wk, K, M, LISTED, BLOCK_M)
        keys = _rows(k_row, columns, allowed, start, k_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        values = _rows(v_row, columns, allowed, start, v_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        scores = tl.where(allowed, _dot(a, keys, LISTED), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher > float("-inf"), higher, 0.0)
        fade, weights = tl.exp(peak - shift), tl.exp(scores - shift[:, None])
        mean = mean * fade + tl.sum(weights * _dot(g, values, LISTED), 1)
        total = total * fade + tl.sum(weights, 1)
        peak = higher
    shift, per_weight = tl.where(total > 0, peak, 0.0), tl.where(total > 0, 1 / total, 0.0)
    mean *= per_weight
    tl.store(slope + query, mean, mask=x < W)
    scale = (per_weight * tl.load(share).to(tl.float32))[:, None]
    grad_a = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns, allowed = _candidates(start, parent + node * K, x, toward, W, Wk, K, M, LISTED, BLOCK_M)
        keys = _rows(k_row, columns, allowed, start, k_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        values = _rows(v_row, columns, allowed, start, v_w, Wk, d, LISTED, BLOCK_M, BLOCK_D)
        scores = tl.where(allowed, _dot(a, keys, LISTED), float("-inf"))
        weights = tl.exp(scores - shift[:, None]) * scale
        slopes = weights * (_dot(g, values, LISTED) - mean[:, None])
        grad_a += _mix(slopes, keys, LISTED)
        _scatter(grad_v + to_row, weights, g, columns, allowed, start, step, Wk, d, values.dtype, LISTED, BLOCK_M, BLOCK_D)
        _scatter(grad_k + to_row, slopes, a, columns, allowed, start, step, Wk, d, keys.dtype, LISTED, BLOCK_M, BLOCK_D)
    tl.store(grad_q + query[:, None] * d + c, grad_a.to(grad_q.dtype.element_ty), mask=whole)


@triton.jit
def _named(start, index, query, x, W, Wk, M, BLOCK_M: tl.constexpr):
    """Columns that an index list names, where they stand in it, and which exist: (BLOCK_Q, BLOCK_M) each."""
    m = start + tl.arange(0, BLOCK_M)[None, :]
    there = (x < W)[:, None] & (m < M)
    place = query[:, None] * M + m
    columns = tl.load(index + place, mask=there, other=-1)
    return columns, place, there, (columns >= 0) & (columns < Wk)


@triton.jit
def gather_scores(
    q, k, index, out, H, W, Wk, heads, d, M, blocks,
    q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n,
    BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Products of every query with the keys that its list names; index and out are contiguous."""
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)[None, :]
    query = ((b * H + h) * W + x) * heads + n
    whole = (x < W)[:, None] & (c < d)
    a = tl.load(q + b * q_b + h * q_h + n * q_n + x[:, None] * q_w + c, mask=whole, other=0.0)
    row = k + b * k_b + h * k_h + n * k_n
    for start in range(0, M, BLOCK_M):
        columns, place, there, exists = _named(start, index, query, x, W, Wk, M, BLOCK_M)
        keys = _rows(row, columns, exists, start, k_w, Wk, d, True, BLOCK_M, BLOCK_D)
        tl.store(out + place, _dot(a, keys, True).to(out.dtype.element_ty), mask=there)


@triton.jit
def gather_values(
    weights, v, index, out, H, W, Wk, heads, d, M, blocks,
    v_b, v_h, v_w, v_n,
    BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sums of the values that the lists name times their weights; weights, index and out are contiguous."""
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)[None, :]
    query = ((b * H + h) * W + x) * heads + n
    row = v + b * v_b + h * v_h + n * v_n
    summed = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns, place, there, exists = _named(start, index, query, x, W, Wk, M, BLOCK_M)
        values = _rows(row, columns, exists, start, v_w, Wk, d, True, BLOCK_M, BLOCK_D)
        summed += _mix(tl.load(weights + place, mask=there, other=0.0).to(tl.float32), values, True)
    tl.store(out + query[:, None] * d + c, summed.to(out.dtype.element_ty), mask=(x < W)[:, None] & (c < d))


@triton.jit
def scatter(
    weights, a, index, out, H, W, Wk, heads, d, M, blocks,
    a_b, a_h, a_w, a_n,
    BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Every row of a times its weights, added to the columns that its list names; out (B, H, Wk, heads, d) is float32."""
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)[None, :]
    query = ((b * H + h) * W + x) * heads + n
    whole = (x < W)[:, None] & (c < d)
    rows = tl.load(a + b * a_b + h * a_h + n * a_n + x[:, None] * a_w + c, mask=whole, other=0.0)
    to_row = out + (b * H + h) * Wk * heads * d + n * d
    for start in range(0, M, BLOCK_M):
        columns, place, there, exists = _named(start, index, query, x, W, Wk, M, BLOCK_M)
        given = tl.load(weights + place, mask=there, other=0.0).to(tl.float32)
        _scatter(to_row, given, rows, columns, exists, start, heads * d, Wk, d, rows.dtype, True, BLOCK_M, BLOCK_D)


@triton.jit
def turn(
    x_in, by, out, H, W, heads, d, pairs, blocks, x_b, x_h, x_w, x_n, direction,
    BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rotates the channel pairs (i, pairs + i) by cosines and sines, by (2, W, pairs) float32; direction -1 turns back."""
    b, h, n, x = _place(H, heads, blocks, W, BLOCK_Q)
    x, c = x[:, None], tl.arange(0, BLOCK_D)[None, :]
    whole, turning = (x < W) & (c < d), (x < W) & (c < 2 * pairs)
    first = c < pairs
    row = x_in + b * x_b + h * x_h + n * x_n + x * x_w
    own = tl.load(row + c, mask=whole, other=0.0).to(tl.float32)
    partner = tl.load(row + tl.where(first, c + pairs, c - pairs), mask=turning, other=0.0).to(tl.float32)
    angle = by + x * pairs + tl.where(first, c, c - pairs)
    cos = tl.load(angle, mask=turning, other=1.0)
    sin = tl.load(angle + W * pairs, mask=turning, other=0.0) * direction
    turned = own * cos + tl.where(first, -sin, sin) * partner
    tl.store(out + (((b * H + h) * W + x) * heads + n) * d + c, turned.to(out.dtype.element_ty), mask=whole)


@triton.jit
def _cells(i, H, W, channels):
    """Offset of the first of the four cells of node element i of a contiguous grid, and whether there is a next column, row."""
    nodes_wide, nodes_high = (W + 1) // 2, (H + 1) // 2
    c, node = i % channels, i // channels
    x, row = node % nodes_wide * 2, node // nodes_wide
    y, b = row % nodes_high * 2, row // nodes_high
    return ((b * H + y) * W + x) * channels + c, x + 1 < W, y + 1 < H


@triton.jit
def pool_forward(x, out, count, H, W, channels, WITH_MAX: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):
    """Mean of the cells of a node, the average of mean and maximum, or the sum; x and out are contiguous."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cell, right, down = _cells(i, H, W, channels)
    there = i < count
    below = cell + W * channels
    missing = float("-inf") if WITH_MAX else 0.0
    x0 = tl.load(x + cell, mask=there, other=0.0).to(tl.float32)
    x1 = tl.load(x + cell + channels, mask=there & right, other=0.0).to(tl.float32)
    x2 = tl.load(x + below, mask=there & down, other=0.0).to(tl.float32)
    x3 = tl.load(x + below + channels, mask=there & right & down, other=0.0).to(tl.float32)
    pooled = (x0 + x1) + (x2 + x3)
    if not SUM:
        pooled /= tl.where(right, 2.0, 1.0) * tl.where(down, 2.0, 1.0)
    if WITH_MAX:
        x1, x2 = tl.where(right, x1, missing), tl.where(down, x2, missing)
        top = tl.maximum(tl.maximum(x0, x1), tl.maximum(x2, tl.where(right & down, x3, missing)))
        pooled = (pooled + top) * 0.5
    tl.store(out + i, pooled.to(out.dtype.element_ty), mask=there)


@triton.jit
def pool_backward(grad, x, out, count, H, W, channels, WITH_MAX: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of the cells; that of the maximum goes to the first of equal cells. All are contiguous."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cell, right, down = _cells(i, H, W, channels)
    there = i < count
    below = cell + W * channels
    g = tl.load(grad + i, mask=there, other=0.0).to(tl.float32)
    each = g / (tl.where(right, 2.0, 1.0) * tl.where(down, 2.0, 1.0))
    g0, g1, g2, g3 = each, each, each, each
    if WITH_MAX:
        x0 = tl.load(x + cell, mask=there, other=0.0).to(tl.float32)
        x1 = tl.load(x + cell + channels, mask=there & right, other=float("-inf")).to(tl.float32)
        x2 = tl.load(x + below, mask=there & down, other=float("-inf")).to(tl.float32)
        x3 = tl.load(x + below + channels, mask=there & right & down, other=float("-inf")).to(tl.float32)
        top = tl.maximum(tl.maximum(x0, x1), tl.maximum(x2, x3))
        is0, is1, is2 = x0 == top, x1 == top, x2 == top
        half = each * 0.5
        g0 = half + tl.where(is0, g * 0.5, 0.0)
        g1 = half + tl.where(is1 & (x0 < top), g * 0.5, 0.0)
        g2 = half + tl.where(is2 & (x0 < top) & (x1 < top), g * 0.5, 0.0)
        g3 = half + tl.where((x0 < top) & (x1 < top) & (x2 < top), g * 0.5, 0.0)
    kind = out.dtype.element_ty
    tl.store(out + cell, g0.to(kind), mask=there)
    tl.store(out + cell + channels, g1.to(kind), mask=there & right)
    tl.store(out + below, g2.to(kind), mask=there & down)
    tl.store(out + below + channels, g3.to(kind), mask=there & right & down)
