// The two gather primitives for the CPU. Law and shapes: reference.py. Both primitives and both backwards are made of three sums
// over the same index lists, so there is one loop nest and the callers only choose which of its three results they want:
//   dot     (B,H,W,heads,M)    dot[w, m]  = x[w] . y[index[w, m]]           scores; grad of the weights
//   combine (B,H,W,heads,d)    sum over m of a[w, m] * y[index[w, m]]       values; grad of q
//   scatter (B,H,Wk,heads,d)   scatter[index[w, m]] += a[w, m] * x[w]       grad of k and of v
// One task is one row of one or more heads. It alone writes its part of every result, so the scatter needs no atomics. Its row of y
// is converted once into scratch of the accumulation type, padded to whole vectors: every key is read M times on average, and bf16,
// odd d and odd strides then cost nothing in the inner loops.
#include <torch/library.h>

#include <tuple>

#include "simd.h"

namespace {

using namespace stereo;

struct Job {
  Grid x, y, a, index, dot, combine, scatter;
  int64_t B, H, W, Wk, heads, d, M;
  int64_t group = 1;  // heads per task
};

// NV: vectors per row of scratch as a constant, 0 when it is only known at run time.
template <typename T, typename S, int NV>
void run_tasks(const Job& job, int64_t begin, int64_t end) {
  using V = typename Simd<S>::type;
  constexpr int L = Simd<S>::lanes;
  const int64_t d = job.d, M = job.M, W = job.W, Wk = job.Wk;
  const int64_t nv = NV ? NV : (d + L - 1) / L;
  const bool want_dot = job.dot.data != nullptr, want_combine = job.combine.data != nullptr;
  const bool want_scatter = job.scatter.data != nullptr;

  const int64_t G = job.group;
  Scratch<V> y_memory(want_dot || want_combine ? G * Wk * nv : 0), sums_memory(want_scatter ? G * Wk * nv : 0);
  Scratch<V> x_memory(nv), acc_memory(nv);
  Scratch<S> a_memory(M), dot_memory(M + L);
  Scratch<int64_t> offset_memory(G * (M + L));  // each tail beyond M stays 0: a harmless read for the last block of dots
  V* const x = x_memory.get();
  S *const a = a_memory.get(), *const dots = dot_memory.get();

  auto read = [&](V* to, const T* from) { read_head<S, NV>(to, from, d); };
  auto write = [&](T* to, const V* from) { write_head<S, NV>(to, from, d); };

  for (int64_t task = begin; task < end; ++task) {
    const int64_t groups = job.heads / G;
    const int64_t first = task % groups * G, h = task / groups % job.H, b = task / groups / job.H;
    const T* const x_from = job.x.at<const T>(b, h, first);
    const T* const y_from = job.y.at<const T>(b, h, first);
    const T* const a_from = job.a.at<const T>(b, h, first);
    const int64_t* const index = job.index.at<const int64_t>(b, h, first);
    T* const dot_to = job.dot.at<T>(b, h, first);
    T* const combine_to = job.combine.at<T>(b, h, first);
    T* const scatter_to = job.scatter.at<T>(b, h, first);

    if (want_dot || want_combine) {
      for (int64_t j = 0; j < Wk; ++j) {
        for (int64_t n = 0; n < G; ++n) read(y_memory.get() + (n * Wk + j) * nv, y_from + j * job.y.column + n * job.y.head);
      }
    }
    if (want_scatter) std::memset(static_cast<void*>(sums_memory.get()), 0, static_cast<size_t>(G * Wk * nv) * sizeof(V));

    for (int64_t w = 0; w < W; ++w) {
      for (int64_t n = 0; n < G; ++n) {
        const V* const y = y_memory.get() + n * Wk * nv;
        V* const sums = sums_memory.get() + n * Wk * nv;
        int64_t* const offset = offset_memory.get() + n * (M + L);

        if (w == 0 || job.index.column != 0) {  // one list for all queries is read once
          const int64_t* const list = index + w * job.index.column + n * job.index.head;
          const int64_t step = job.index.last;
          bool bad = false;
          for (int64_t m = 0; m < M; ++m) {
            const int64_t j = list[m * step];
            bad |= static_cast<uint64_t>(j) >= static_cast<uint64_t>(Wk);
            offset[m] = j * nv * kVectorBytes;
          }
          TORCH_CHECK(!bad, "gather index out of range: allowed are 0 to ", Wk - 1);
        }
        if (want_dot || want_scatter) read(x, x_from + w * job.x.column + n * job.x.head);
        if (want_combine || want_scatter) {
          const T* const from = a_from + w * job.a.column + n * job.a.head;
          const int64_t step = job.a.last;
          for (int64_t m = 0; m < M; ++m) a[m] = load(from[m * step]);
        }

        if (want_dot) {
          dot_products<S, NV>(dots, x, y, offset, M, nv);
          store_row(dot_to + w * job.dot.column + n * job.dot.head, dots, M);
        }
        if (want_combine) {
          weighted_sum<S, NV>(acc_memory.get(), a, y, offset, M, nv);
          write(combine_to + w * job.combine.column + n * job.combine.head, acc_memory.get());
        }
        if (want_scatter) scatter_products<S, NV>(sums, a, x, offset, M, nv);
      }
    }
    if (want_scatter) {
      for (int64_t j = 0; j < Wk; ++j) {
        for (int64_t n = 0; n < G; ++n) {
          write(scatter_to + j * job.scatter.column + n * job.scatter.head, sums_memory.get() + (n * Wk + j) * nv);
        }
      }
    }
  }
}

template <typename T, typename S>
void run_type(Job job) {
  constexpr int L = Simd<S>::lanes;
  const int64_t vectors = (job.d + L - 1) / L;
  job.group = heads_per_task(job.heads, job.B * job.H, vectors * kVectorBytes * std::max<int64_t>(job.Wk, 1));
  const int64_t work = std::max<int64_t>(1, job.group * job.W * job.M * job.d);
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / work);
  at::parallel_for(0, job.B * job.H * (job.heads / job.group), grain, [&](int64_t begin, int64_t end) {
    STEREO_DISPATCH_VECTORS(S, vectors, (run_tasks<T, S, NV>(job, begin, end)));
  });
}

struct Results {
  Tensor dot, combine, scatter;
};

// x: q or the gradient of the message. y: k or v (only its shape counts when neither dot nor combine is wanted).
// a: weights or the gradient of the scores.
Results run(Tensor x, Tensor y, const Tensor& a, const Tensor& index, bool dot, bool combine, bool scatter) {
  TORCH_CHECK(y.dim() == 5 && index.dim() == 5, "expected (B, H, W, heads, ...) tensors");
  TORCH_CHECK(index.scalar_type() == at::kLong, "index is ", index.scalar_type(), ", expected int64");
  const auto type = y.scalar_type();
  Job job;
  job.B = index.size(0), job.H = index.size(1), job.W = index.size(2), job.heads = index.size(3), job.M = index.size(4);
  job.Wk = y.size(2), job.d = y.size(4);
  check(y, {job.B, job.H, job.Wk, job.heads, job.d}, type, "k or v");
  y = dense_last(y);
  if (x.defined()) {
    check(x, {job.B, job.H, job.W, job.heads, job.d}, type, "q or gradient");
    x = dense_last(x);
  }
  if (a.defined()) check(a, index.sizes(), type, "weights or gradient");

  Results out;
  if (dot) out.dot = at::empty(index.sizes(), y.options());
  if (combine) out.combine = at::empty({job.B, job.H, job.W, job.heads, job.d}, y.options());
  if (scatter) out.scatter = at::empty({job.B, job.H, job.Wk, job.heads, job.d}, y.options());
  job.x = Grid(x), job.y = Grid(y), job.a = Grid(a), job.index = Grid(index);
  job.dot = Grid(out.dot), job.combine = Grid(out.combine), job.scatter = Grid(out.scatter);

  by_type(type, [&]<typename T, typename S>() { run_type<T, S>(job); });
  return out;
}

Tensor scores(const Tensor& q, const Tensor& k, const Tensor& index) { return run(q, k, {}, index, true, false, false).dot; }

Tensor values(const Tensor& weights, const Tensor& v, const Tensor& index) {
  return run({}, v, weights, index, false, true, false).combine;
}

std::tuple<Tensor, Tensor> scores_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& index, bool need_q, bool need_k) {
  Results r = run(q, k, grad, index, false, need_q, need_k);
  return {r.combine, r.scatter};
}

std::tuple<Tensor, Tensor> values_backward(
    const Tensor& grad, const Tensor& weights, const Tensor& v, const Tensor& index, bool need_weights, bool need_v) {
  Results r = run(grad, v, weights, index, need_weights, false, need_v);
  return {r.dot, r.scatter};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stereo_cpu, m) {
  m.def("scores(Tensor q, Tensor k, Tensor index) -> Tensor");
  m.def("values(Tensor weights, Tensor v, Tensor index) -> Tensor");
  m.def("scores_backward(Tensor grad, Tensor q, Tensor k, Tensor index, bool need_q, bool need_k) -> (Tensor, Tensor)");
  m.def("values_backward(Tensor grad, Tensor weights, Tensor v, Tensor index, bool need_weights, bool need_v) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stereo_cpu, CPU, m) {
  m.impl("scores", &scores);
  m.impl("values", &values);
  m.impl("scores_backward", &scores_backward);
  m.impl("values_backward", &values_backward);
}
