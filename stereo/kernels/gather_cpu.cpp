// The two gather primitives for the CPU. Law and shapes: reference.py. Both primitives and both backwards are made of three sums
// over the same index lists, so there is one loop nest and the callers only choose which of its three results they want:
//   dot     (B,H,W,heads,M)    dot[w, m]  = x[w] . y[index[w, m]]           scores; grad of the weights
//   combine (B,H,W,heads,d)    sum over m of a[w, m] * y[index[w, m]]       values; grad of q
//   scatter (B,H,Wk,heads,d)   scatter[index[w, m]] += a[w, m] * x[w]       grad of k and of v
// One task is one row of one or more heads. It alone writes its part of every result, so the scatter needs no atomics. Its row of y
// is converted once into scratch of the accumulation type, padded to whole vectors: every key is read M times on average, and bf16,
// odd d and odd strides then cost nothing in the inner loops.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <tuple>
#include <type_traits>

namespace {

using at::Tensor;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int64_t kScratchBytes = 256 * 1024;  // one row of keys, and as much again for sums

constexpr int64_t kWorkPerThread = 1 << 18;  // products; some 20 microseconds, what waking a thread costs

template <typename S>
struct Simd {
  typedef S type __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / sizeof(S);
};

struct BF16 {
  uint16_t bits;
};

inline float load(const float& x) { return x; }
inline double load(const double& x) { return x; }
inline float load(const BF16& x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(BF16& to, float x) {  // round to nearest even, as c10 does, but without a branch
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// A (B, H, columns, heads, last) tensor as the loops see it. An absent one has data == nullptr.
struct Grid {
  char* data = nullptr;
  int64_t batch = 0, row = 0, column = 0, head = 0, last = 0;

  Grid() = default;
  explicit Grid(const Tensor& t) {
    if (!t.defined()) return;
    data = static_cast<char*>(t.data_ptr());
    batch = t.stride(0), row = t.stride(1), column = t.stride(2), head = t.stride(3), last = t.stride(4);
  }
  template <typename T>
  T* at(int64_t b, int64_t h, int64_t n) const {
    return data == nullptr ? nullptr : reinterpret_cast<T*>(data) + b * batch + h * row + n * head;
  }
};

struct Job {
  Grid x, y, a, index, dot, combine, scatter;
  int64_t B, H, W, Wk, heads, d, M;
  int64_t group = 1;  // heads per task
};

// Zeroed memory aligned to a vector, one per thread and call.
template <typename S>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = static_cast<size_t>(count > 0 ? count : 1) * sizeof(S);
    memory_.reset(static_cast<S*>(::operator new(bytes, std::align_val_t(64))));
    std::memset(static_cast<void*>(memory_.get()), 0, bytes);
  }
  S* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(S* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<S, Free> memory_;
};

template <typename T, typename S>
inline void load_row(S* __restrict to, const T* __restrict from, int64_t d) {
#pragma omp simd
  for (int64_t c = 0; c < d; ++c) to[c] = load(from[c]);
}

template <typename T, typename S>
inline void store_row(T* __restrict to, const S* __restrict from, int64_t d) {
#pragma omp simd
  for (int64_t c = 0; c < d; ++c) store(to[c], from[c]);
}

#if defined(__GNUC__) && !defined(__clang__)
// Sums of `lanes` vectors at once: each step adds the halves of neighbouring groups, so the sums end in lane order. A third of the
// shuffles of summing each vector on its own.
template <typename S, int Group>
inline void halve(typename Simd<S>::type* p) {
  constexpr int L = Simd<S>::lanes;
  typedef std::conditional_t<sizeof(S) == 4, int32_t, int64_t> I;
  typedef I Mask __attribute__((vector_size(kVectorBytes)));
  if constexpr (Group > 1) {
    constexpr int half = Group / 2;
    Mask low, high;
    for (int i = 0; i < L; ++i) {
      const int from = (i / half) * Group + i % half;  // counts on through the second operand
      low[i] = from;
      high[i] = from + half;
    }
    for (int i = 0; i < half; ++i) {
      p[i] = __builtin_shuffle(p[2 * i], p[2 * i + 1], low) + __builtin_shuffle(p[2 * i], p[2 * i + 1], high);
    }
    halve<S, half>(p);
  }
}
#define STEREO_BLOCK_SUMS 1
#endif

// NV: vectors per row of scratch as a constant, 0 when it is only known at run time.
template <typename T, typename S, int NV>
void run_tasks(const Job& job, int64_t begin, int64_t end) {
  using V = typename Simd<S>::type;
  constexpr int L = Simd<S>::lanes;
  const int64_t d = job.d, M = job.M, W = job.W, Wk = job.Wk;
  const int64_t nv = NV ? NV : (d + L - 1) / L;
  const bool full = NV && d == NV * L;  // lets the compiler see a constant length
  const bool want_dot = job.dot.data != nullptr, want_combine = job.combine.data != nullptr;
  const bool want_scatter = job.scatter.data != nullptr;

  const int64_t G = job.group;
  Scratch<V> y_memory(want_dot || want_combine ? G * Wk * nv : 0), sums_memory(want_scatter ? G * Wk * nv : 0);
  Scratch<V> x_memory(nv), acc_memory(nv);
  Scratch<S> a_memory(M), dot_memory(M + L);
  Scratch<int64_t> offset_memory(G * (M + L));  // each tail beyond M stays 0: a harmless read for the last block of dots
  V* const x = x_memory.get();
  S *const a = a_memory.get(), *const dots = dot_memory.get();

  auto read = [&](V* to, const T* from) {
    if (full) {
      load_row(reinterpret_cast<S*>(to), from, NV * L);
    } else {
      load_row(reinterpret_cast<S*>(to), from, d);
    }
  };
  auto write = [&](T* to, const V* from) {
    if (full) {
      store_row(to, reinterpret_cast<const S*>(from), NV * L);
    } else {
      store_row(to, reinterpret_cast<const S*>(from), d);
    }
  };

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
            offset[m] = j * nv;
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
#ifdef STEREO_BLOCK_SUMS
          for (int64_t m = 0; m < M; m += L) {
            V p[L];
            for (int i = 0; i < L; ++i) {
              const V* const row = y + offset[m + i];
              p[i] = x[0] * row[0];
              for (int64_t c = 1; c < nv; ++c) p[i] += x[c] * row[c];
            }
            halve<S, L>(p);
            std::memcpy(dots + m, &p[0], sizeof(V));
          }
#else
          for (int64_t m = 0; m < M; ++m) {
            const S* const row = reinterpret_cast<const S*>(y + offset[m]);
            const S* const query = reinterpret_cast<const S*>(x);
            S sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < nv * L; ++c) sum += query[c] * row[c];
            dots[m] = sum;
          }
#endif
          store_row(dot_to + w * job.dot.column + n * job.dot.head, dots, M);
        }

        if (want_combine) {
          V registers[NV ? NV : 1];
          V* const acc = NV ? registers : acc_memory.get();
          for (int64_t c = 0; c < nv; ++c) acc[c] = V{};
          for (int64_t m = 0; m < M; ++m) {
            const V* const row = y + offset[m];
            for (int64_t c = 0; c < nv; ++c) acc[c] += a[m] * row[c];
          }
          write(combine_to + w * job.combine.column + n * job.combine.head, acc);
        }

        if (want_scatter) {
          for (int64_t m = 0; m < M; ++m) {
            V* const row = sums + offset[m];
            for (int64_t c = 0; c < nv; ++c) row[c] += a[m] * x[c];
          }
        }
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
  // All heads of a row together walk through memory in order, several times faster than one head's strided walk. Fewer at a time
  // when the scratch would leave the second-level cache or the threads would run out of tasks.
  const int64_t row_bytes = (job.d + L - 1) / L * kVectorBytes * std::max<int64_t>(job.Wk, 1);
  for (job.group = job.heads; job.group > 1; --job.group) {
    const bool fits = job.group * row_bytes <= kScratchBytes;
    const bool enough = job.B * job.H * (job.heads / job.group) >= 2 * at::get_num_threads();
    if (job.heads % job.group == 0 && fits && enough) break;
  }
  const int64_t work = std::max<int64_t>(1, job.group * job.W * job.M * job.d);
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / work);
  at::parallel_for(0, job.B * job.H * (job.heads / std::max<int64_t>(job.group, 1)), grain, [&](int64_t begin, int64_t end) {
    switch ((job.d + L - 1) / L) {
      case 1: return run_tasks<T, S, 1>(job, begin, end);
      case 2: return run_tasks<T, S, 2>(job, begin, end);
      case 4: return run_tasks<T, S, 4>(job, begin, end);
      case 8: return run_tasks<T, S, 8>(job, begin, end);
      default: return run_tasks<T, S, 0>(job, begin, end);
    }
  });
}

// The loops read q, k, v and their like with unit steps along d. Nothing else about strides is assumed.
Tensor dense_last(const Tensor& t) { return t.size(-1) > 1 && t.stride(-1) != 1 ? t.contiguous() : t; }

void check(const Tensor& t, at::IntArrayRef shape, at::ScalarType type, const char* name) {
  TORCH_CHECK(t.sizes() == shape, name, " has shape ", t.sizes(), ", expected ", shape);
  TORCH_CHECK(t.scalar_type() == type, name, " is ", t.scalar_type(), ", expected ", type);
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

  switch (type) {
    case at::kFloat: run_type<float, float>(job); break;
    case at::kBFloat16: run_type<BF16, float>(job); break;
    case at::kDouble: run_type<double, double>(job); break;
    default: TORCH_CHECK(false, "expected float32, bfloat16 or float64, got ", type);
  }
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

TORCH_LIBRARY(stereo_gather, m) {
  m.def("scores(Tensor q, Tensor k, Tensor index) -> Tensor");
  m.def("values(Tensor weights, Tensor v, Tensor index) -> Tensor");
  m.def("scores_backward(Tensor grad, Tensor q, Tensor k, Tensor index, bool need_q, bool need_k) -> (Tensor, Tensor)");
  m.def("values_backward(Tensor grad, Tensor weights, Tensor v, Tensor index, bool need_weights, bool need_v) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stereo_gather, CPU, m) {
  m.impl("scores", &scores);
  m.impl("values", &values);
  m.impl("scores_backward", &scores_backward);
  m.impl("values_backward", &values_backward);
}
