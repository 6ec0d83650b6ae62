// What the CPU kernels share: vectors, bfloat16, strided (B, H, columns, heads, last) grids, scratch, and sums of vectors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace stereo {

using at::Tensor;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Rows of keys and the like of one task. More than a second-level cache holds: fetching from beyond it costs less than walking through
// memory in the steps that a part of the heads makes (measured at 1 MiB of cache, 1.4 times).
constexpr int64_t kScratchBytes = 4096 * 1024;
constexpr int64_t kWorkPerThread = 1 << 18;  // products; some 20 microseconds, what waking a thread costs

template <typename S>
struct Simd {
  typedef S type __attribute__((vector_size(kVectorBytes)));
  typedef std::conditional_t<sizeof(S) == 4, int32_t, int64_t> Int;
  typedef Int ints __attribute__((vector_size(kVectorBytes)));  // what comparisons give: all bits set where true
  static constexpr int lanes = kVectorBytes / sizeof(S);
};

template <typename S>
inline typename Simd<S>::type fill(S x) {
  return x - typename Simd<S>::type{};
}

// One number out of all lanes: each is joined with the one that is `Half` lanes away, then the same at half the distance.
template <typename S, int Half, typename Join>
inline S join_lanes_from(typename Simd<S>::type v, Join join) {
  if constexpr (Half == 0) {
    return v[0];
  } else {
    typename Simd<S>::type other;
#if defined(__GNUC__) && !defined(__clang__)
    typename Simd<S>::ints from;
    for (int i = 0; i < Simd<S>::lanes; ++i) from[i] = i ^ Half;
    other = __builtin_shuffle(v, from);
#else
    for (int i = 0; i < Simd<S>::lanes; ++i) other[i] = v[i ^ Half];
#endif
    return join_lanes_from<S, Half / 2>(join(v, other), join);
  }
}

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
  S& operator[](int64_t i) const { return memory_.get()[i]; }

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

// One head's d channels into scratch of NV vectors (0: as many as it takes), and back. A row that fills its vectors has a length that
// the compiler knows.
template <typename S, int NV, typename T>
inline void read_head(typename Simd<S>::type* to, const T* from, int64_t d) {
  constexpr int64_t whole = NV * Simd<S>::lanes;
  if (NV && d == whole) {
    load_row(reinterpret_cast<S*>(to), from, whole);
  } else {
    load_row(reinterpret_cast<S*>(to), from, d);
  }
}

template <typename S, int NV, typename T>
inline void write_head(T* to, const typename Simd<S>::type* from, int64_t d) {
  constexpr int64_t whole = NV * Simd<S>::lanes;
  if (NV && d == whole) {
    store_row(to, reinterpret_cast<const S*>(from), whole);
  } else {
    store_row(to, reinterpret_cast<const S*>(from), d);
  }
}

#if defined(__GNUC__) && !defined(__clang__)
// What the lanes of `lanes` vectors give together, all at once: each step joins the halves of neighbouring groups, so the results end
// in lane order. A third of the shuffles of taking each vector on its own.
template <typename S, int Group, typename Join>
inline void halve(typename Simd<S>::type* p, Join join) {
  constexpr int L = Simd<S>::lanes;
  using Mask = typename Simd<S>::ints;
  if constexpr (Group > 1) {
    constexpr int half = Group / 2;
    Mask low, high;
    for (int i = 0; i < L; ++i) {
      const int from = (i / half) * Group + i % half;  // counts on through the second operand
      low[i] = from;
      high[i] = from + half;
    }
    for (int i = 0; i < half; ++i) {
      p[i] = join(__builtin_shuffle(p[2 * i], p[2 * i + 1], low), __builtin_shuffle(p[2 * i], p[2 * i + 1], high));
    }
    halve<S, half>(p, join);
  }
}
#define STEREO_BLOCK_SUMS 1
#endif

// to[i] = what the lanes of from[i] give together, i < lanes.
template <typename S, typename Join>
inline void join_lanes_of_all(S* to, const typename Simd<S>::type* from, Join join) {
  constexpr int L = Simd<S>::lanes;
#ifdef STEREO_BLOCK_SUMS
  typename Simd<S>::type p[L];
  for (int i = 0; i < L; ++i) p[i] = from[i];
  halve<S, L>(p, join);
  std::memcpy(to, &p[0], sizeof(p[0]));
#else
  for (int i = 0; i < L; ++i) to[i] = join_lanes_from<S, L / 2>(from[i], join);
#endif
}

// The three sums over lists of rows that every kernel here is made of. Row m of y (or sums) begins offset[m] bytes behind it and has nv
// vectors, NV of them if that is known at compile time. Lists are padded with valid offsets to whole vectors of lanes.

template <typename V>
inline V* row_at(V* y, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<V>, const char, char>;
  return reinterpret_cast<V*>(reinterpret_cast<Byte*>(y) + bytes);
}

// out[m] = x . row m of y, m < M; writes whole vectors of lanes.
template <typename S, int NV>
inline void dot_products(
    S* out, const typename Simd<S>::type* x, const typename Simd<S>::type* y, const int64_t* offset, int64_t M, int64_t count) {
  using V = typename Simd<S>::type;
  constexpr int L = Simd<S>::lanes;
  const int64_t nv = NV ? NV : count;
#ifdef STEREO_BLOCK_SUMS
  for (int64_t m = 0; m < M; m += L) {
    V p[L];
    for (int i = 0; i < L; ++i) {
      const V* const row = row_at(y, offset[m + i]);
      p[i] = x[0] * row[0];
      for (int64_t c = 1; c < nv; ++c) p[i] += x[c] * row[c];
    }
    halve<S, L>(p, [](V a, V b) { return a + b; });
    std::memcpy(out + m, &p[0], sizeof(V));
  }
#else
  for (int64_t m = 0; m < M; ++m) {
    const S* const row = reinterpret_cast<const S*>(row_at(y, offset[m]));
    const S* const query = reinterpret_cast<const S*>(x);
    S sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < nv * L; ++c) sum += query[c] * row[c];
    out[m] = sum;
  }
#endif
}

// out = sum over m < M of a[m] * row m of y.
template <typename S, int NV>
__attribute__((always_inline)) inline void weighted_sum(
    typename Simd<S>::type* out, const S* a, const typename Simd<S>::type* y, const int64_t* offset, int64_t M, int64_t count) {
  using V = typename Simd<S>::type;
  constexpr int kChains = NV && NV <= 2 ? 4 : 1;  // sums that do not wait for each other
  const int64_t nv = NV ? NV : count;
  V registers[kChains][NV ? NV : 1];
  V* const acc = NV ? registers[0] : out;
  for (int64_t c = 0; c < nv; ++c) acc[c] = V{};
  int64_t m = 0;
  if constexpr (kChains > 1) {
    for (int chain = 1; chain < kChains; ++chain) {
      for (int64_t c = 0; c < nv; ++c) registers[chain][c] = V{};
    }
    for (; m + kChains <= M; m += kChains) {
      for (int chain = 0; chain < kChains; ++chain) {
        const V* const row = row_at(y, offset[m + chain]);
        for (int64_t c = 0; c < nv; ++c) registers[chain][c] += a[m + chain] * row[c];
      }
    }
    for (int chain = 1; chain < kChains; ++chain) {
      for (int64_t c = 0; c < nv; ++c) acc[c] += registers[chain][c];
    }
  }
  for (; m < M; ++m) {
    const V* const row = row_at(y, offset[m]);
    for (int64_t c = 0; c < nv; ++c) acc[c] += a[m] * row[c];
  }
  if (NV) std::memcpy(out, acc, static_cast<size_t>(nv) * sizeof(V));
}

// row m of sums += a[m] * x, m < M.
template <typename S, int NV>
inline void scatter_products(
    typename Simd<S>::type* sums, const S* a, const typename Simd<S>::type* x, const int64_t* offset, int64_t M, int64_t count) {
  using V = typename Simd<S>::type;
  const int64_t nv = NV ? NV : count;
  for (int64_t m = 0; m < M; ++m) {
    V* const row = row_at(sums, offset[m]);
    for (int64_t c = 0; c < nv; ++c) row[c] += a[m] * x[c];
  }
}

// Does CALL with NV a constant for the usual numbers of vectors per row; float64, which only tests use, takes the general loop.
#define STEREO_DISPATCH_VECTORS(S, COUNT, CALL)                \
  switch (std::is_same_v<S, double> ? 0 : (COUNT)) {           \
    case 1: if constexpr (!std::is_same_v<S, double>) { constexpr int NV = 1; CALL; } break; \
    case 2: if constexpr (!std::is_same_v<S, double>) { constexpr int NV = 2; CALL; } break; \
    case 4: if constexpr (!std::is_same_v<S, double>) { constexpr int NV = 4; CALL; } break; \
    default: { constexpr int NV = 0; CALL; }                   \
  }

// f.operator()<T, S>() for tensors of this type: T as it lies in memory, S as it is computed in.
template <typename F>
auto by_type(at::ScalarType type, F f) {
  switch (type) {
    case at::kFloat: return f.template operator()<float, float>();
    case at::kBFloat16: return f.template operator()<BF16, float>();
    case at::kDouble: return f.template operator()<double, double>();
    default: TORCH_CHECK(false, "expected float32, bfloat16 or float64, got ", type);
  }
}

// Heads of a row that one task takes. All heads together walk through memory in order, several times faster than one head's strided
// walk. Fewer at a time when the scratch would leave the cache or the threads would run out of tasks.
inline int64_t heads_per_task(int64_t heads, int64_t rows, int64_t bytes_per_head) {
  int64_t group = std::max<int64_t>(heads, 1);
  for (; group > 1; --group) {
    const bool enough = rows * (heads / group) >= 2 * at::get_num_threads();
    if (heads % group == 0 && group * bytes_per_head <= kScratchBytes && enough) break;
  }
  return group;
}

// The loops read q, k, v and their like with unit steps along d. Nothing else about strides is assumed.
inline Tensor dense_last(const Tensor& t) { return t.size(-1) > 1 && t.stride(-1) != 1 ? t.contiguous() : t; }

inline void check(const Tensor& t, at::IntArrayRef shape, at::ScalarType type, const char* name) {
  TORCH_CHECK(t.sizes() == shape, name, " has shape ", t.sizes(), ", expected ", shape);
  TORCH_CHECK(t.scalar_type() == type, name, " is ", t.scalar_type(), ", expected ", type);
}

}  // namespace stereo
