// One level of quadtree attention (variant B) in row scope, in one pass: the children of the keys that the parent chose, scores,
// softmax, sum of values, the parent's message added, and the best K keys for the next level. Law and shapes:
// quadtree_level in reference.py. Nothing of the size of the scores is ever written to memory; the backward computes them anew.
// One task is one row of one or more heads, as in gather.cpp.
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "simd.h"

namespace {

using namespace stereo;

struct Job {
  Grid q, k, v, parent, coarse, message, chosen, grad, grad_q, grad_k, grad_v;
  const int64_t* side = nullptr;                      // (B,)
  const void *turn_q = nullptr, *turn_k = nullptr;    // (2, W, pairs) and (2, Wk, pairs): cosines, then sines
  double share = 1;
  double* share_parts = nullptr;  // (tasks,): what each task adds to the gradient of the share
  int64_t B, H, W, Wk, heads, d, K, M, topk, pairs = 0;
  int64_t group = 1;  // heads per task
};

// e^x for x <= 0, to 2 units in the last place down to e^-87.
inline Simd<float>::type exponential(Simd<float>::type x) {
  using V = Simd<float>::type;
  x = x < -87.0f ? fill(-87.0f) : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const V n = (x * 1.44269504f + magic) - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  V p = fill(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Simd<float>::ints bits = (__builtin_convertvector(n, Simd<float>::ints) + 127) << 23;
  V scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}
inline Simd<double>::type exponential(Simd<double>::type x) {
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Rotates the channel pairs (i, pairs + i) of one head; direction -1 turns back.
template <typename S>
inline void turn(S* x, const S* cos, const S* sin, int64_t pairs, S direction) {
  for (int64_t i = 0; i < pairs; ++i) {
    const S a = x[i], b = x[pairs + i], s = direction * sin[i];
    x[i] = a * cos[i] - b * s;
    x[pairs + i] = a * s + b * cos[i];
  }
}

// Columns of the topk highest scores above -inf, best first, the earlier of two equal ones; the rest is filled with `none`.
// Every score counts how many come before it, `length` (whole vectors) compared with all at once: no branch to mispredict.
template <typename S>
inline void keep_best(
    const S* scores, const S* columns, int64_t length, int64_t topk, int32_t* ranked, int32_t* out, int32_t none) {
  using V = typename Simd<S>::type;
  using I = typename Simd<S>::ints;
  constexpr int L = Simd<S>::lanes;
  const S lowest = -std::numeric_limits<S>::infinity();
  I place;
  for (int i = 0; i < L; ++i) place[i] = i;
  for (int64_t first = 0; first < length; first += L, place += L) {
    V score;
    std::memcpy(&score, scores + first, sizeof(score));
    I rank{};
    for (int64_t m = 0; m < length; ++m) {
      const V other = fill(scores[m]);
      rank -= (other > score) | ((other == score) & (static_cast<typename Simd<S>::Int>(m) < place));  // true is -1
    }
    for (int i = 0; i < L; ++i) ranked[rank[i]] = score[i] > lowest ? static_cast<int32_t>(columns[first + i]) : none;
  }
  for (int64_t i = 0; i < topk; ++i) out[i] = ranked[i];
}

template <typename T, typename S, int NV>
void run_tasks(const Job& job, int64_t begin, int64_t end) {
  using V = typename Simd<S>::type;
  constexpr int L = Simd<S>::lanes;
  const S lowest = -std::numeric_limits<S>::infinity();
  const int64_t d = job.d, M = job.M, W = job.W, Wk = job.Wk, G = job.group, K = job.K, pairs = job.pairs;
  const int64_t nv = NV ? NV : (d + L - 1) / L;
  const bool backward = job.grad.data != nullptr;
  const S share = static_cast<S>(job.share);
  const S *const turn_q = static_cast<const S*>(job.turn_q), *const turn_k = static_cast<const S*>(job.turn_k);

  const int64_t row_vectors = Wk * nv, list = (M + L - 1) / L * L;  // whole vectors; the rest names no key, and reads the first
  Scratch<V> k_memory(G * row_vectors), v_memory(G * row_vectors);
  Scratch<V> grad_k_memory(backward ? G * row_vectors : 0), grad_v_memory(backward ? G * row_vectors : 0);
  Scratch<V> q_memory(nv), acc_memory(nv), grad_memory(nv);
  Scratch<S> score_memory(list), weight_memory(list), slope_memory(list);
  Scratch<int32_t> ranked_memory(list);
  Scratch<int64_t> offset_memory(G * list);
  Scratch<S> column_memory(G * list);
  const S none = static_cast<S>(Wk);
  for (int64_t i = 0; i < G * list; ++i) column_memory.get()[i] = none;
  V *const q = q_memory.get(), *const acc = acc_memory.get(), *const grad = grad_memory.get();
  S *const scores = score_memory.get(), *const weights = weight_memory.get(), *const slopes = slope_memory.get();

  auto scalars = [](V* x) { return reinterpret_cast<S*>(x); };
  auto vector = [](S* x) -> V& { return *reinterpret_cast<V*>(x); };  // of scratch, which is aligned
  auto read = [&](V* to, const T* from) { read_head<S, NV>(to, from, d); };
  auto write = [&](T* to, const V* from) { write_head<S, NV>(to, from, d); };

  for (int64_t task = begin; task < end; ++task) {
    const int64_t groups = job.heads / G;
    const int64_t first = task % groups * G, h = task / groups % job.H, b = task / groups / job.H;
    const T *const q_from = job.q.at<const T>(b, h, first), *const k_from = job.k.at<const T>(b, h, first);
    const T *const v_from = job.v.at<const T>(b, h, first), *const grad_from = job.grad.at<const T>(b, h, first);
    const T* const coarse_from = job.coarse.at<const T>(b, h / 2, first);
    const int32_t* const parent_from = job.parent.at<const int32_t>(b, h / 2, first);
    T* const message_to = job.message.at<T>(b, h, first);
    T* const grad_q_to = job.grad_q.at<T>(b, h, first);
    int32_t* const chosen_to = job.chosen.at<int32_t>(b, h, first);
    const S side = job.side == nullptr ? S(0) : static_cast<S>(job.side[b]);
    double share_slope = 0;  // one sum over the whole row

    for (int64_t j = 0; j < Wk; ++j) {
      for (int64_t n = 0; n < G; ++n) {
        V *const k_row = k_memory.get() + n * row_vectors + j * nv, *const v_row = v_memory.get() + n * row_vectors + j * nv;
        read(k_row, k_from + j * job.k.column + n * job.k.head);
        read(v_row, v_from + j * job.v.column + n * job.v.head);
        if (pairs) turn(scalars(k_row), turn_k + j * pairs, turn_k + (Wk + j) * pairs, pairs, S(1));
      }
    }
    if (backward) {
      std::memset(static_cast<void*>(grad_k_memory.get()), 0, static_cast<size_t>(G * row_vectors) * sizeof(V));
      std::memset(static_cast<void*>(grad_v_memory.get()), 0, static_cast<size_t>(G * row_vectors) * sizeof(V));
    }

    for (int64_t w = 0; w < W; ++w) {
      for (int64_t n = 0; n < G; ++n) {
        const V *const k = k_memory.get() + n * row_vectors, *const v = v_memory.get() + n * row_vectors;
        int64_t* const offset = offset_memory.get() + n * list;
        S* const column = column_memory.get() + n * list;

        if (parent_from != nullptr && w % 2 == 0) {  // neighbours share a parent, hence a list
          const int32_t* const parents = parent_from + w / 2 * job.parent.column + n * job.parent.head;
          for (int64_t i = 0; i < K; ++i) {
            for (int32_t child = 0; child < 2; ++child) {
              const int32_t j = parents[i] * 2 + child;
              const bool exists = static_cast<uint32_t>(j) < static_cast<uint32_t>(Wk);
              column[child * K + i] = exists ? static_cast<S>(j) : none;
              offset[child * K + i] = exists ? j * nv : 0;
            }
          }
        } else if (parent_from == nullptr && w == 0) {
          for (int64_t m = 0; m < M; ++m) column[m] = static_cast<S>(m), offset[m] = m * nv;
        }

        read(q, q_from + w * job.q.column + n * job.q.head);
        if (pairs) turn(scalars(q), turn_q + w * pairs, turn_q + (W + w) * pairs, pairs, S(1));

        dot_products<S, NV>(scores, q, k, offset, M, nv);
        const S bound = side * static_cast<S>(w);
        V peaks = fill(lowest), sums{};
        for (int64_t m = 0; m < list; m += L) {
          const V at = vector(column + m);
          const V score = (side * at <= bound) & (at < none) ? vector(scores + m) : fill(lowest);
          vector(scores + m) = score;
          peaks = score > peaks ? score : peaks;
        }
        const S peak = maximum_of_lanes<S>(peaks);
        const S shift = peak > lowest ? peak : S(0);
        for (int64_t m = 0; m < list; m += L) {
          const V score = vector(scores + m);
          const V weight = score > lowest ? exponential(score - shift) : V{};
          vector(weights + m) = weight;
          sums += weight;
        }
        const S sum = sum_of_lanes<S>(sums);
        const S scale = sum > 0 ? share / sum : S(0);

        if (!backward) {
          weighted_sum<S, NV>(acc, weights, v, offset, M, nv);
          for (int64_t c = 0; c < nv; ++c) acc[c] *= scale;
          if (coarse_from != nullptr) {
            read(q, coarse_from + w / 2 * job.coarse.column + n * job.coarse.head);
            for (int64_t c = 0; c < nv; ++c) acc[c] += q[c];
          }
          write(message_to + w * job.message.column + n * job.message.head, acc);
          if (chosen_to != nullptr) {
            int32_t* const out = chosen_to + w * job.chosen.column + n * job.chosen.head;
            keep_best(scores, column, list, job.topk, ranked_memory.get(), out, static_cast<int32_t>(Wk));
          }
          continue;
        }

        // message = share * sum of p v with p = weights / sum; slopes: gradient of the scores.
        read(grad, grad_from + w * job.grad.column + n * job.grad.head);
        dot_products<S, NV>(slopes, grad, v, offset, M, nv);
        V means{};
        for (int64_t m = 0; m < list; m += L) means += vector(weights + m) * vector(slopes + m);
        const S mean = sum > 0 ? sum_of_lanes<S>(means) / sum : S(0);
        share_slope += static_cast<double>(mean);
        for (int64_t m = 0; m < list; m += L) {
          const V weight = vector(weights + m) * scale;
          vector(weights + m) = weight;
          vector(slopes + m) = weight * (vector(slopes + m) - mean);
        }
        scatter_products<S, NV>(grad_v_memory.get() + n * row_vectors, weights, grad, offset, M, nv);
        scatter_products<S, NV>(grad_k_memory.get() + n * row_vectors, slopes, q, offset, M, nv);
        weighted_sum<S, NV>(acc, slopes, k, offset, M, nv);
        if (pairs) turn(scalars(acc), turn_q + w * pairs, turn_q + (W + w) * pairs, pairs, S(-1));
        write(grad_q_to + w * job.grad_q.column + n * job.grad_q.head, acc);
      }
    }

    if (backward) {
      job.share_parts[task] = share_slope;
      T *const grad_k_to = job.grad_k.at<T>(b, h, first), *const grad_v_to = job.grad_v.at<T>(b, h, first);
      for (int64_t j = 0; j < Wk; ++j) {
        for (int64_t n = 0; n < G; ++n) {
          V* const row = grad_k_memory.get() + n * row_vectors + j * nv;
          if (pairs) turn(scalars(row), turn_k + j * pairs, turn_k + (Wk + j) * pairs, pairs, S(-1));
          write(grad_k_to + j * job.grad_k.column + n * job.grad_k.head, row);
          write(grad_v_to + j * job.grad_v.column + n * job.grad_v.head, grad_v_memory.get() + n * row_vectors + j * nv);
        }
      }
    }
  }
}

template <typename T, typename S>
double run_type(Job job) {
  constexpr int L = Simd<S>::lanes;
  const bool backward = job.grad.data != nullptr;
  const int64_t vectors = (job.d + L - 1) / L;
  job.group = heads_per_task(job.heads, job.B * job.H, (backward ? 4 : 2) * vectors * kVectorBytes * std::max<int64_t>(job.Wk, 1));
  const int64_t tasks = job.B * job.H * (job.heads / job.group);
  std::vector<double> parts(static_cast<size_t>(tasks), 0.0);
  job.share_parts = parts.data();
  const int64_t work = std::max<int64_t>(1, job.group * job.W * job.M * job.d);
  at::parallel_for(0, tasks, std::max<int64_t>(1, kWorkPerThread / work), [&](int64_t begin, int64_t end) {
    STEREO_DISPATCH_VECTORS(S, vectors, (run_tasks<T, S, NV>(job, begin, end)));
  });
  double total = 0;
  for (const double part : parts) total += part;  // in the order of the tasks: the same sum for any number of threads
  return total;
}

double run(const Job& job, at::ScalarType type) {
  switch (type) {
    case at::kFloat: return run_type<float, float>(job);
    case at::kBFloat16: return run_type<BF16, float>(job);
    case at::kDouble: return run_type<double, double>(job);
    default: TORCH_CHECK(false, "expected float32, bfloat16 or float64, got ", type);
  }
}

using Maybe = std::optional<Tensor>;

// Everything that forward and backward have in common. `hold` keeps copies alive.
Job describe(
    const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& parent, const Tensor& share, const Maybe& side,
    const Maybe& turn_q, const Maybe& turn_k, std::vector<Tensor>& hold) {
  TORCH_CHECK(q.dim() == 5 && k.dim() == 5, "expected (B, H, W, heads, d) tensors");
  const auto type = q.scalar_type();
  Job job;
  job.B = q.size(0), job.H = q.size(1), job.W = q.size(2), job.heads = q.size(3), job.d = q.size(4), job.Wk = k.size(2);
  TORCH_CHECK(job.Wk < (int64_t(1) << 24), "rows of ", job.Wk, " keys are too wide");  // columns are compared as floats
  check(k, {job.B, job.H, job.Wk, job.heads, job.d}, type, "k");
  check(v, k.sizes(), type, "v");
  auto kept = [&](Tensor t) {
    hold.push_back(t);
    return t;
  };
  job.q = Grid(kept(dense_last(q))), job.k = Grid(kept(dense_last(k))), job.v = Grid(kept(dense_last(v)));
  job.K = 0, job.M = job.Wk, job.topk = 0;
  if (parent) {
    job.K = parent->size(-1), job.M = 2 * job.K;
    check(*parent, {job.B, (job.H + 1) / 2, (job.W + 1) / 2, job.heads, job.K}, at::kInt, "parent");
    job.parent = Grid(kept(parent->contiguous()));
  }
  if (side) {
    check(*side, {job.B}, at::kLong, "side");
    job.side = kept(side->contiguous()).const_data_ptr<int64_t>();
  }
  TORCH_CHECK(turn_q.has_value() == turn_k.has_value(), "expected both turns or none");
  if (turn_q) {
    job.pairs = turn_q->size(-1);
    TORCH_CHECK(2 * job.pairs <= job.d, "cannot turn ", job.pairs, " pairs of ", job.d, " channels");
    const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
    check(*turn_q, {2, job.W, job.pairs}, wide, "turn_q");
    check(*turn_k, {2, job.Wk, job.pairs}, wide, "turn_k");
    job.turn_q = kept(turn_q->contiguous()).const_data_ptr(), job.turn_k = kept(turn_k->contiguous()).const_data_ptr();
  }
  job.share = share.item<double>();
  return job;
}

std::tuple<Tensor, Tensor> level(
    const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& parent, const Maybe& coarse, const Tensor& share,
    const Maybe& side, int64_t topk, const Maybe& turn_q, const Maybe& turn_k) {
  std::vector<Tensor> hold;
  Job job = describe(q, k, v, parent, share, side, turn_q, turn_k, hold);
  const Tensor message = at::empty(q.sizes(), q.options());
  job.topk = std::min(topk, job.M);
  const Tensor chosen = at::empty({job.B, job.H, job.W, job.heads, job.topk}, q.options().dtype(at::kInt));
  job.message = Grid(message);
  if (job.topk) job.chosen = Grid(chosen);
  if (coarse) {
    check(*coarse, {job.B, (job.H + 1) / 2, (job.W + 1) / 2, job.heads, job.d}, q.scalar_type(), "coarse");
    hold.push_back(dense_last(*coarse));
    job.coarse = Grid(hold.back());
  }
  run(job, q.scalar_type());
  return {message, chosen};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> level_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& parent, const Tensor& share,
    const Maybe& side, const Maybe& turn_q, const Maybe& turn_k) {
  std::vector<Tensor> hold;
  Job job = describe(q, k, v, parent, share, side, turn_q, turn_k, hold);
  check(grad, q.sizes(), q.scalar_type(), "gradient");
  hold.push_back(dense_last(grad));
  job.grad = Grid(hold.back());
  const Tensor grad_q = at::empty(q.sizes(), q.options());
  const Tensor grad_k = at::empty(k.sizes(), k.options()), grad_v = at::empty(k.sizes(), k.options());
  job.grad_q = Grid(grad_q), job.grad_k = Grid(grad_k), job.grad_v = Grid(grad_v);
  const double slope = run(job, q.scalar_type());
  return {grad_q, grad_k, grad_v, at::full(share.sizes(), slope, share.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stereo_cpu, m) {
  m.def(
      "level(Tensor q, Tensor k, Tensor v, Tensor? parent, Tensor? coarse, Tensor share, Tensor? side, int topk, "
      "Tensor? turn_q, Tensor? turn_k) -> (Tensor, Tensor)");
  m.def(
      "level_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? parent, Tensor share, Tensor? side, "
      "Tensor? turn_q, Tensor? turn_k) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stereo_cpu, CPU, m) {
  m.impl("level", &level);
  m.impl("level_backward", &level_backward);
}
