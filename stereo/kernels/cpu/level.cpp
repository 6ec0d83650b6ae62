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

// The rotary code of a row of queries or keys: turns the channel pairs (i, pairs + i) of one head. by: (2, columns, pairs), cosines,
// then sines; null: there is none. Heads of one vector are turned whole, by tables as wide as they are.
template <typename S, int NV>
class Turn {
  using V = typename Simd<S>::type;
  static constexpr int L = Simd<S>::lanes;
#ifdef STEREO_BLOCK_SUMS
  static constexpr bool kWhole = NV == 1;
#else
  static constexpr bool kWhole = false;
#endif

 public:
  Turn(const void* by, int64_t columns, int64_t given_pairs)
      : cos(static_cast<const S*>(by)), sin(cos + columns * given_pairs), pairs(by == nullptr ? 0 : given_pairs),
        wide(kWhole && pairs ? 2 * columns : 0) {
    for (int i = 0; i < L; ++i) partner[i] = i < pairs ? i + pairs : i < 2 * pairs ? i - pairs : i;
    for (int64_t j = 0; j < (kWhole && pairs ? columns : 0); ++j) {
      for (int i = 0; i < L; ++i) {
        const bool turned = i < 2 * pairs;
        const int64_t pair = j * pairs + (turned ? i % pairs : 0);
        wide[2 * j][i] = turned ? cos[pair] : S(1);
        wide[2 * j + 1][i] = turned ? (i < pairs ? -sin[pair] : sin[pair]) : S(0);
      }
    }
  }

  // direction -1 turns back.
  void operator()(V* head, int64_t column, S direction) const {
    if (!pairs) return;
#ifdef STEREO_BLOCK_SUMS
    if constexpr (kWhole) {
      head[0] = head[0] * wide[2 * column] + __builtin_shuffle(head[0], partner) * (direction * wide[2 * column + 1]);
      return;
    }
#endif
    S* const x = reinterpret_cast<S*>(head);
    for (int64_t i = 0; i < pairs; ++i) {
      const S first = x[i], second = x[pairs + i], c = cos[column * pairs + i], s = direction * sin[column * pairs + i];
      x[i] = first * c - second * s;
      x[pairs + i] = first * s + second * c;
    }
  }

 private:
  const S *const cos, *const sin;
  const int64_t pairs;
  Scratch<V> wide;  // of each column a vector of cosines and one of sines with their signs
  typename Simd<S>::ints partner;
};

// Columns of the topk highest scores above -inf, the earlier of two equal ones, in any order; the rest is filled with `none`.
// Every score counts how many come before it, `length` (whole vectors) compared with all at once: no branch to mispredict.
template <typename S>
inline void keep_best(const S* scores, const S* columns, int64_t length, int64_t topk, int32_t* out, int32_t none) {
  using V = typename Simd<S>::type;
  using I = typename Simd<S>::ints;
  using Int = typename Simd<S>::Int;
  constexpr int L = Simd<S>::lanes;
  const S lowest = -std::numeric_limits<S>::infinity();
  I place;
  for (int i = 0; i < L; ++i) place[i] = i;
  int64_t kept = 0;
  for (int64_t first = 0; first < length; first += L, place += L) {
    V score, column;
    std::memcpy(&score, scores + first, sizeof(score));
    std::memcpy(&column, columns + first, sizeof(column));
    I rank{};
    for (int64_t block = 0; block < length; block += L) {
      for (int i = 0; i < L; ++i) {
        const V other = fill(scores[block + i]);
        rank -= (other > score) | ((other == score) & (static_cast<Int>(block + i) < place));  // true is -1
      }
    }
    const I best = (rank < static_cast<Int>(topk)) & (score > lowest);
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<S, float>) {
      const auto bits = [](I x) { return reinterpret_cast<__m512i>(x); };
      const __mmask16 mask = _mm512_test_epi32_mask(bits(best), bits(best));
      const int count = __builtin_popcount(mask);
      // Compressing straight into memory takes ten times as long on some processors.
      const __m512i compressed = _mm512_maskz_compress_epi32(mask, bits(__builtin_convertvector(column, I)));
      _mm512_mask_storeu_epi32(out + kept, static_cast<__mmask16>((1u << count) - 1), compressed);
      kept += count;
      continue;
    }
#endif
    for (int i = 0; i < L; ++i) {
      if (best[i]) out[kept++] = static_cast<int32_t>(column[i]);
    }
  }
  for (; kept < topk; ++kept) out[kept] = none;
}

// One row of one or more heads at a time, its queries in blocks. A block goes through the steps together: what has to be joined across
// lanes is joined for all of its queries at once, and no query waits for the end of the one before it.
template <typename T, typename S, int NV>
class Rows {
  using V = typename Simd<S>::type;
  static constexpr int L = Simd<S>::lanes;
  static constexpr S lowest = -std::numeric_limits<S>::infinity();

 public:
  explicit Rows(const Job& given)
      : job(given), backward(job.grad.data != nullptr), G(job.group), nv(NV ? NV : (job.d + L - 1) / L),
        row_vectors(job.Wk * nv), list(padded(job.M)), span(2 * std::max<int64_t>(1, L / (2 * G))), queries(padded(span * G)),
        lists(span / 2 * G * list), none(static_cast<S>(job.Wk)), share(static_cast<S>(job.share)),
        turn_q(job.turn_q, job.W, job.pairs), turn_k(job.turn_k, job.Wk, job.pairs), k(G * row_vectors), v(G * row_vectors),
        grad_k(backward ? G * row_vectors : 0), grad_v(backward ? G * row_vectors : 0), q(queries * nv),
        grad(backward ? queries * nv : 0), acc(nv), scores(queries * list), weights(queries * list),
        slopes(backward ? queries * list : 0), column(lists), offset(lists), twice(lists), joined(queries), peak(queries),
        sum(queries), scale(queries), mean(queries) {
    std::fill(twice.get(), twice.get() + lists, -1);  // beyond both halves: no parent, so no child
    for (int64_t i = 0; i < lists; ++i) {  // all keys; what fills up the last vector names none, and reads the first
      const int64_t m = i % list;
      const bool all = job.parent.data == nullptr && m < job.M;
      column[i] = all ? static_cast<S>(m) : none;
      offset[i] = all ? m * nv * kVectorBytes : 0;
    }
  }

  void run(int64_t task) {
    const int64_t groups = job.heads / G;
    first = task % groups * G, h = task / groups % job.H, b = task / groups / job.H;
    side = job.side == nullptr ? S(0) : static_cast<S>(job.side[b]);
    load_keys();
    double share_slope = 0;  // one sum over the whole row
    for (begin = 0; begin < job.W; begin += span) {
      end = std::min(begin + span, job.W);
      if (job.parent.data != nullptr) list_children();
      weigh();
      if (backward) {
        share_slope += send_back();
      } else {
        speak();
      }
    }
    if (backward) {
      job.share_parts[task] = share_slope;
      store_gradients();
    }
  }

 private:
  static int64_t padded(int64_t count) { return (count + L - 1) / L * L; }
  static V& vector(S* x) { return *reinterpret_cast<V*>(x); }  // of scratch, which is aligned
  void read(V* to, const T* from) const { read_head<S, NV>(to, from, job.d); }
  void write(T* to, const V* from) const { write_head<S, NV>(to, from, job.d); }

  // Calls f(query of the block, its column, its head, its list) for every query of the block.
  template <typename F>
  void each(F f) const {
    for (int64_t w = begin, e = 0; w < end; ++w) {
      for (int64_t n = 0; n < G; ++n, ++e) f(e, w, n, ((w - begin) / 2 * G + n) * list);
    }
  }

  void load_keys() {
    const T *const k_from = job.k.at<const T>(b, h, first), *const v_from = job.v.at<const T>(b, h, first);
    for (int64_t j = 0; j < job.Wk; ++j) {
      for (int64_t n = 0; n < G; ++n) {
        V *const k_row = k.get() + n * row_vectors + j * nv, *const v_row = v.get() + n * row_vectors + j * nv;
        read(k_row, k_from + j * job.k.column + n * job.k.head);
        read(v_row, v_from + j * job.v.column + n * job.v.head);
        turn_k(k_row, j, S(1));
      }
    }
    if (backward) {
      std::memset(static_cast<void*>(grad_k.get()), 0, static_cast<size_t>(G * row_vectors) * sizeof(V));
      std::memset(static_cast<void*>(grad_v.get()), 0, static_cast<size_t>(G * row_vectors) * sizeof(V));
    }
  }

  // Neighbours share a parent, hence a list: both children of each key that it chose.
  void list_children() {
    const int32_t* const parent_from = job.parent.at<const int32_t>(b, h / 2, first);
    const int32_t keys = static_cast<int32_t>(job.Wk), bytes = static_cast<int32_t>(nv * kVectorBytes);
    int64_t length = 0;
    for (int64_t w = begin; w < end; w += 2) {
      for (int64_t n = 0; n < G; ++n, length += list) {
        const int32_t* const parents = parent_from + w / 2 * job.parent.column + n * job.parent.head;
        for (int64_t i = 0; i < job.K; ++i) twice[length + i] = twice[length + job.K + i] = parents[i];
      }
    }
    for (int64_t at = 0; at < length; at += list) {
      for (int64_t m = 0; m < list; m += L) {
        for (int i = 0; i < L; ++i) {
          const int32_t j = twice[at + m + i] * 2 + (m + i >= job.K ? 1 : 0);
          const bool exists = (j >= 0) & (j < keys);
          column[at + m + i] = exists ? static_cast<S>(j) : none;
          offset[at + m + i] = exists ? static_cast<int64_t>(j) * bytes : 0;
        }
      }
    }
  }

  // Scores, -inf where a key may not be seen, e^(score - peak), and their sums.
  void weigh() {
    const T* const q_from = job.q.at<const T>(b, h, first);
    each([&](int64_t e, int64_t w, int64_t n, int64_t at) {
      read(q.get() + e * nv, q_from + w * job.q.column + n * job.q.head);
      turn_q(q.get() + e * nv, w, S(1));
      dot_products<S, NV>(scores.get() + e * list, q.get() + e * nv, k.get() + n * row_vectors, offset.get() + at, job.M, nv);
    });
    each([&](int64_t e, int64_t w, int64_t, int64_t at) {
      const S bound = side * static_cast<S>(w);
      V peaks = fill(lowest);
      for (int64_t m = 0; m < list; m += L) {
        const V key = vector(column.get() + at + m);
        V& score = vector(scores.get() + e * list + m);
        score = (side * key <= bound) & (key < none) ? score : fill(lowest);
        peaks = score > peaks ? score : peaks;
      }
      joined[e] = peaks;
    });
    join(peak.get(), [](V x, V y) { return x > y ? x : y; });
    each([&](int64_t e, int64_t, int64_t, int64_t) {
      const S shift = peak[e] > lowest ? peak[e] : S(0);
      V total{};
      for (int64_t m = 0; m < list; m += L) {
        const V score = vector(scores.get() + e * list + m);
        const V weight = score > lowest ? exponential(score - shift) : V{};
        vector(weights.get() + e * list + m) = weight;
        total += weight;
      }
      joined[e] = total;
    });
    join(sum.get(), [](V x, V y) { return x + y; });
    for (int64_t e = 0; e < (end - begin) * G; e += L) {
      const V all = vector(sum.get() + e);
      vector(scale.get() + e) = all > S(0) ? share / all : V{};
    }
  }

  // What the lanes of each vector in ``joined`` give together -> to, one number per query.
  template <typename Join>
  void join(S* to, Join both) {
    for (int64_t e = 0; e < (end - begin) * G; e += L) join_lanes_of_all<S>(to + e, joined.get() + e, both);
  }

  // The message, with the parent's, and the best keys.
  void speak() {
    const T* const coarse_from = job.coarse.at<const T>(b, h / 2, first);
    T* const message_to = job.message.at<T>(b, h, first);
    int32_t* const chosen_to = job.chosen.at<int32_t>(b, h, first);
    each([&](int64_t e, int64_t w, int64_t n, int64_t at) {
      V* const message = acc.get();
      weighted_sum<S, NV>(message, weights.get() + e * list, v.get() + n * row_vectors, offset.get() + at, job.M, nv);
      for (int64_t c = 0; c < nv; ++c) message[c] *= scale[e];
      if (coarse_from != nullptr) {
        V* const coarse = q.get() + e * nv;
        read(coarse, coarse_from + w / 2 * job.coarse.column + n * job.coarse.head);
        for (int64_t c = 0; c < nv; ++c) message[c] += coarse[c];
      }
      write(message_to + w * job.message.column + n * job.message.head, message);
    });
    if (chosen_to == nullptr) return;
    each([&](int64_t e, int64_t w, int64_t n, int64_t at) {
      int32_t* const out = chosen_to + w * job.chosen.column + n * job.chosen.head;
      keep_best(scores.get() + e * list, column.get() + at, list, job.topk, out, static_cast<int32_t>(job.Wk));
    });
  }

  // Gradients of message = share * sum of p v with p = weights / sum; slopes: of the scores. Returns the block's part of the share's.
  double send_back() {
    const T* const grad_from = job.grad.at<const T>(b, h, first);
    T* const grad_q_to = job.grad_q.at<T>(b, h, first);
    each([&](int64_t e, int64_t w, int64_t n, int64_t at) {
      V* const incoming = grad.get() + e * nv;
      read(incoming, grad_from + w * job.grad.column + n * job.grad.head);
      dot_products<S, NV>(slopes.get() + e * list, incoming, v.get() + n * row_vectors, offset.get() + at, job.M, nv);
      V total{};
      for (int64_t m = 0; m < list; m += L) total += vector(weights.get() + e * list + m) * vector(slopes.get() + e * list + m);
      joined[e] = total;
    });
    join(mean.get(), [](V x, V y) { return x + y; });
    double share_slope = 0;
    each([&](int64_t e, int64_t w, int64_t n, int64_t at) {
      const S average = sum[e] > 0 ? mean[e] / sum[e] : S(0);
      share_slope += static_cast<double>(average);
      for (int64_t m = 0; m < list; m += L) {
        V &weight = vector(weights.get() + e * list + m), &slope = vector(slopes.get() + e * list + m);
        weight *= scale[e];
        slope = weight * (slope - average);
      }
      const int64_t* const rows = offset.get() + at;
      const S* const slope = slopes.get() + e * list;
      const V *const query = q.get() + e * nv, *const incoming = grad.get() + e * nv;
      scatter_products<S, NV>(grad_v.get() + n * row_vectors, weights.get() + e * list, incoming, rows, job.M, nv);
      scatter_products<S, NV>(grad_k.get() + n * row_vectors, slope, query, rows, job.M, nv);
      weighted_sum<S, NV>(acc.get(), slope, k.get() + n * row_vectors, rows, job.M, nv);
      turn_q(acc.get(), w, S(-1));
      write(grad_q_to + w * job.grad_q.column + n * job.grad_q.head, acc.get());
    });
    return share_slope;
  }

  void store_gradients() {
    T *const grad_k_to = job.grad_k.at<T>(b, h, first), *const grad_v_to = job.grad_v.at<T>(b, h, first);
    for (int64_t j = 0; j < job.Wk; ++j) {
      for (int64_t n = 0; n < G; ++n) {
        V* const row = grad_k.get() + n * row_vectors + j * nv;
        turn_k(row, j, S(-1));
        write(grad_k_to + j * job.grad_k.column + n * job.grad_k.head, row);
        write(grad_v_to + j * job.grad_v.column + n * job.grad_v.head, grad_v.get() + n * row_vectors + j * nv);
      }
    }
  }

  const Job& job;
  const bool backward;
  const int64_t G, nv, row_vectors, list;  // heads per task; vectors per head and per row; scores per query, whole vectors of them
  const int64_t span, queries, lists;      // of a block: columns, queries (whole vectors of them), scores of all its lists
  const S none, share;                     // the column that stands for no key; this level's factor
  const Turn<S, NV> turn_q, turn_k;
  Scratch<V> k, v, grad_k, grad_v;         // of the row
  Scratch<V> q, grad, acc;                 // from here on of a block: (query, vector)
  Scratch<S> scores, weights, slopes;      // (query, list)
  Scratch<S> column;                       // (pair of neighbours and head, list)
  Scratch<int64_t> offset;                 // likewise: the bytes before that key's row
  Scratch<int32_t> twice;                  // likewise: what a parent chose, once for either child
  Scratch<V> joined;                       // (query,)
  Scratch<S> peak, sum, scale, mean;       // (query,); scale: share / sum of the weights, 0 where no key may be seen
  int64_t first = 0, h = 0, b = 0, begin = 0, end = 0;  // head, row, image; columns of the block
  S side = 0;
};

template <typename T, typename S, int NV>
void run_tasks(const Job& job, int64_t begin, int64_t end) {
  Rows<T, S, NV> rows(job);
  for (int64_t task = begin; task < end; ++task) rows.run(task);
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
  return by_type(type, [&]<typename T, typename S>() { return run_type<T, S>(job); });
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
