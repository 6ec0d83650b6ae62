// 2x2 pooling of a level into the next one, and the way back: mean, or the average of mean and maximum; and the sum of the children
// of a node. Laws: pool_grid in stereo/attention/tree.py, sum_of_children in reference.py.
#include <torch/library.h>

#include <tuple>

#include "simd.h"

namespace {

using namespace stereo;

struct Job {
  Grid x, pooled, grad_x;  // pooled: the result of the forward, the incoming gradient of the backward
  int64_t B, H, W, heads, d;
  bool with_max, sum = false;
};

// The up to four cells of a node as offsets into a grid. Missing ones repeat others, evenly: that changes neither mean nor maximum.
struct Cells {
  int64_t row[4], column[4];
  int count;

  Cells(const Job& job, int64_t node_row, int64_t node_column) {
    const int64_t rows = std::min<int64_t>(2, job.H - 2 * node_row), columns = std::min<int64_t>(2, job.W - 2 * node_column);
    count = static_cast<int>(rows * columns);
    for (int i = 0; i < 4; ++i) {
      const int cell = i % count;
      row[i] = 2 * node_row + cell / columns, column[i] = 2 * node_column + cell % columns;
    }
  }
  template <typename T>
  T* in(const Grid& grid, int64_t b, int64_t n, int i) const {
    return grid.at<T>(b, row[i], n) + column[i] * grid.column;
  }
};

template <typename T, typename S>
void pool_node(const Job& job, const Cells& cells, int64_t b, int64_t n, T* out) {
  const T *const p0 = cells.in<const T>(job.x, b, n, 0), *const p1 = cells.in<const T>(job.x, b, n, 1);
  const T *const p2 = cells.in<const T>(job.x, b, n, 2), *const p3 = cells.in<const T>(job.x, b, n, 3);
  const S even = S(0.25) * (job.sum ? static_cast<S>(cells.count) : S(1));
#pragma omp simd
  for (int64_t c = 0; c < job.d; ++c) {
    const S a0 = load(p0[c]), a1 = load(p1[c]), a2 = load(p2[c]), a3 = load(p3[c]);
    const S mean = ((a0 + a1) + (a2 + a3)) * even;
    const S high = a0 > a1 ? a0 : a1, higher = a2 > a3 ? a2 : a3;
    store(out[c], job.with_max ? (mean + (high > higher ? high : higher)) * S(0.5) : mean);
  }
}

// The gradient of the maximum goes to the first of equal cells.
template <typename T, typename S>
void unpool_node(const Job& job, const Cells& cells, int64_t b, int64_t n, const T* grad) {
  const T *const p0 = cells.in<const T>(job.x, b, n, 0), *const p1 = cells.in<const T>(job.x, b, n, 1);
  const T *const p2 = cells.in<const T>(job.x, b, n, 2), *const p3 = cells.in<const T>(job.x, b, n, 3);
  T *const t0 = cells.in<T>(job.grad_x, b, n, 0), *const t1 = cells.in<T>(job.grad_x, b, n, 1);
  T *const t2 = cells.in<T>(job.grad_x, b, n, 2), *const t3 = cells.in<T>(job.grad_x, b, n, 3);
  const S even = (job.with_max ? S(0.5) : S(1)) / static_cast<S>(cells.count), extra = job.with_max ? S(0.5) : S(0);
#pragma omp simd
  for (int64_t c = 0; c < job.d; ++c) {
    const S a0 = load(p0[c]), a1 = load(p1[c]), a2 = load(p2[c]), a3 = load(p3[c]), g = load(grad[c]);
    const S high = a0 > a1 ? a0 : a1, higher = a2 > a3 ? a2 : a3, top = high > higher ? high : higher;
    // 1 for the first that is the maximum; arithmetic instead of conditions, which keeps this loop in vector registers.
    const S i0 = a0 == top ? S(1) : S(0), i1 = (a1 == top ? S(1) : S(0)) * (1 - i0);
    const S i2 = (a2 == top ? S(1) : S(0)) * (1 - i0 - i1), i3 = 1 - i0 - i1 - i2;
    store(t3[c], g * (even + extra * i3));  // last first: where a cell stands for a missing one, its own value is the final one
    store(t2[c], g * (even + extra * i2));
    store(t1[c], g * (even + extra * i1));
    store(t0[c], g * (even + extra * i0));
  }
}

template <typename T, typename S>
void run_type(const Job& job) {
  const int64_t node_rows = (job.H + 1) / 2, node_columns = (job.W + 1) / 2;
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, 16 * node_columns * job.heads * job.d));
  at::parallel_for(0, job.B * node_rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / node_rows, node_row = task % node_rows;
      for (int64_t node_column = 0; node_column < node_columns; ++node_column) {
        const Cells cells(job, node_row, node_column);
        for (int64_t n = 0; n < job.heads; ++n) {
          T* const node = job.pooled.at<T>(b, node_row, n) + node_column * job.pooled.column;
          if (job.grad_x.data != nullptr) {
            unpool_node<T, S>(job, cells, b, n, node);
          } else {
            pool_node<T, S>(job, cells, b, n, node);
          }
        }
      }
    }
  });
}

void run(Job job, at::ScalarType type) {
  auto side_by_side = [&](const Grid& grid) { return grid.data == nullptr || grid.head == job.d; };
  if (side_by_side(job.x) && side_by_side(job.pooled) && side_by_side(job.grad_x)) job.d *= job.heads, job.heads = 1;
  return by_type(type, [&]<typename T, typename S>() { return run_type<T, S>(job); });
}

Job describe(const Tensor& x, bool with_max) {
  Job job;
  job.B = x.size(0), job.H = x.size(1), job.W = x.size(2), job.heads = x.size(3), job.d = x.size(4);
  job.x = Grid(x), job.with_max = with_max;
  return job;
}

Tensor shrink(const Tensor& given, bool with_max, bool sum) {
  TORCH_CHECK(given.dim() == 5, "expected a (B, H, W, heads, d) tensor");
  const Tensor x = dense_last(given);
  Job job = describe(x, with_max);
  job.sum = sum;
  const Tensor out = at::empty({job.B, (job.H + 1) / 2, (job.W + 1) / 2, job.heads, job.d}, x.options());
  job.pooled = Grid(out);
  run(job, x.scalar_type());
  return out;
}

Tensor pool(const Tensor& x, bool with_max) { return shrink(x, with_max, false); }

Tensor sum_of_children(const Tensor& x) { return shrink(x, false, true); }

Tensor pool_backward(const Tensor& given_grad, const Tensor& given, bool with_max) {
  const Tensor x = dense_last(given), grad = dense_last(given_grad);
  Job job = describe(x, with_max);
  check(grad, {job.B, (job.H + 1) / 2, (job.W + 1) / 2, job.heads, job.d}, x.scalar_type(), "gradient");
  const Tensor out = at::empty(x.sizes(), x.options());
  job.pooled = Grid(grad), job.grad_x = Grid(out);
  run(job, x.scalar_type());
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stereo_cpu, m) {
  m.def("pool(Tensor x, bool with_max) -> Tensor");
  m.def("sum_of_children(Tensor x) -> Tensor");
  m.def("pool_backward(Tensor grad, Tensor x, bool with_max) -> Tensor");
}

TORCH_LIBRARY_IMPL(stereo_cpu, CPU, m) {
  m.impl("pool", &pool);
  m.impl("sum_of_children", &sum_of_children);
  m.impl("pool_backward", &pool_backward);
}
