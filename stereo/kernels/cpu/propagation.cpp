// One step of propagation: every position takes a convex combination of the disparities in its 3x3 neighbourhood, the confident ones
// and those that look alike first. Law and shapes: propagation_step in reference.py. Row by row; the nine weights are not kept but
// computed anew for the backward, which writes them out once: rows read each other.
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "simd.h"

namespace {

using namespace stereo;

constexpr double kLeast = 1e-3;  // added to a confidence, so that where nothing is certain all count alike
constexpr int64_t kRows = 3, kNeighbours = 9;

// Pointers are to (B, h, w), (B, 9, h, w) and (B, d, h, w) without gaps.
struct Job {
  const void *disp, *confidence, *logits, *q, *k, *grad_disp = nullptr, *grad_confidence = nullptr;
  void *out_disp, *out_confidence;  // in the backward pass: the gradients of disp and confidence
  void *weights = nullptr, *grad_logits = nullptr, *grad_q = nullptr, *grad_k = nullptr;
  int64_t B, d, h, w, dilation;
};

template <typename S>
const S* row_of(const void* data, int64_t planes, int64_t b, int64_t plane, int64_t y, const Job& job) {
  return static_cast<const S*>(data) + ((b * planes + plane) * job.h + y) * job.w;
}
template <typename S>
S* row_of(void* data, int64_t planes, int64_t b, int64_t plane, int64_t y, const Job& job) {
  return static_cast<S*>(data) + ((b * planes + plane) * job.h + y) * job.w;
}

// The nine weights of the positions of one row.
template <typename S>
class Weights {
  using V = typename Simd<S>::type;
  static constexpr int L = Simd<S>::lanes;

 public:
  explicit Weights(const Job& given)
      : job(given), w(job.w), D(job.dilation), whole((w + L - 1) / L * L), span((whole + 2 * D + L - 1) / L * L),
        disp_(kRows * span), trust_(kRows * span), keys_(kRows * job.d * span), weight_(kNeighbours * whole), peak_(whole),
        total_(whole) {}

  void compute(int64_t b, int64_t y) {
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t from = std::clamp<int64_t>(y + (r - 1) * D, 0, job.h - 1);
      widen(disp_.get() + r * span, row_of<S>(job.disp, 1, b, 0, from, job));
      widen(trust_.get() + r * span, row_of<S>(job.confidence, 1, b, 0, from, job));
      for (int64_t c = 0; c < job.d; ++c) widen(keys_.get() + (r * job.d + c) * span, row_of<S>(job.k, job.d, b, c, from, job));
    }
    for (int64_t n = 0; n < kNeighbours; ++n) {
      S* const score = weight_.get() + n * whole;
      std::fill_n(score, w, S(0));
      for (int64_t c = 0; c < job.d; ++c) {
        const S* const key = keys_.get() + (n / 3 * job.d + c) * span + n % 3 * D;
        const S* const query = row_of<S>(job.q, job.d, b, c, y, job);
#pragma omp simd
        for (int64_t x = 0; x < w; ++x) score[x] += query[x] * key[x];
      }
      const S* const logit = row_of<S>(job.logits, kNeighbours, b, n, y, job);
      S* const peak = peak_.get();
#pragma omp simd
      for (int64_t x = 0; x < w; ++x) {
        score[x] += logit[x];
        peak[x] = n == 0 || score[x] > peak[x] ? score[x] : peak[x];
      }
    }
    std::fill_n(total_.get(), whole, S(0));
    for (int64_t n = 0; n < kNeighbours; ++n) {
      for (int64_t x = 0; x < whole; x += L) {
        V& weight = vector(weight_.get() + n * whole + x);
        V sure;
        std::memcpy(&sure, trust(n) + x, sizeof(V));
        weight = exponential(weight - vector(peak_.get() + x)) * (sure + static_cast<S>(kLeast));
        vector(total_.get() + x) += weight;
      }
    }
    for (int64_t n = 0; n < kNeighbours; ++n) {
      for (int64_t x = 0; x < whole; x += L) vector(weight_.get() + n * whole + x) /= vector(total_.get() + x);
    }
  }

  const S* weight(int64_t n) const { return weight_.get() + n * whole; }
  const S* disp(int64_t n) const { return disp_.get() + n / 3 * span + n % 3 * D; }
  const S* trust(int64_t n) const { return trust_.get() + n / 3 * span + n % 3 * D; }
  const S* key(int64_t n, int64_t c) const { return keys_.get() + (n / 3 * job.d + c) * span + n % 3 * D; }

 private:
  static V& vector(S* p) { return *reinterpret_cast<V*>(p); }

  void widen(S* to, const S* from) const {
    std::fill_n(to, D, from[0]);
    std::copy_n(from, w, to + D);
    std::fill_n(to + D + w, D, from[w - 1]);
  }

  const Job& job;
  const int64_t w, D, whole, span;  // columns, rounded up to vectors, and with the edges repeated
  Scratch<S> disp_, trust_, keys_, weight_, peak_, total_;
};

template <typename S>
void forward_row(const Job& job, Weights<S>& weights, int64_t b, int64_t y) {
  S* const disp = row_of<S>(job.out_disp, 1, b, 0, y, job);
  S* const trust = row_of<S>(job.out_confidence, 1, b, 0, y, job);
  std::fill_n(disp, job.w, S(0));
  std::fill_n(trust, job.w, S(0));
  weights.compute(b, y);
  for (int64_t n = 0; n < kNeighbours; ++n) {
    const S *const weight = weights.weight(n), *const from = weights.disp(n), *const sure = weights.trust(n);
#pragma omp simd
    for (int64_t x = 0; x < job.w; ++x) {
      disp[x] += weight[x] * from[x];
      trust[x] += weight[x] * sure[x];
    }
  }
}

// What a row's own queries and logits get, and its weights for the rows that it has read from. With p the weights and g what their
// values are worth (the gradients of the results times disparity and confidence there): p (g - sum of p g). Only differences of g count,
// so those to the position's own are taken: they are small.
template <typename S>
void backward_own(const Job& job, Weights<S>& weights, Scratch<S>& mean, int64_t b, int64_t y) {
  const S* const of_disp = row_of<S>(job.grad_disp, 1, b, 0, y, job);
  const S* const of_trust = row_of<S>(job.grad_confidence, 1, b, 0, y, job);
  const S* const own_disp = row_of<S>(job.disp, 1, b, 0, y, job);
  const S* const own_trust = row_of<S>(job.confidence, 1, b, 0, y, job);
  std::fill_n(mean.get(), job.w, S(0));
  weights.compute(b, y);
  for (int64_t n = 0; n < kNeighbours; ++n) {
    const S *const weight = weights.weight(n), *const from = weights.disp(n), *const sure = weights.trust(n);
    S* const worth = row_of<S>(job.grad_logits, kNeighbours, b, n, y, job);
    S* const total = mean.get();
#pragma omp simd
    for (int64_t x = 0; x < job.w; ++x) {
      worth[x] = of_disp[x] * (from[x] - own_disp[x]) + of_trust[x] * (sure[x] - own_trust[x]);
      total[x] += weight[x] * worth[x];
    }
  }
  for (int64_t n = 0; n < kNeighbours; ++n) {
    const S *const weight = weights.weight(n), *const total = mean.get();
    S* const worth = row_of<S>(job.grad_logits, kNeighbours, b, n, y, job);
    std::copy_n(weight, job.w, row_of<S>(job.weights, kNeighbours, b, n, y, job));
#pragma omp simd
    for (int64_t x = 0; x < job.w; ++x) worth[x] = weight[x] * (worth[x] - total[x]);
  }
  for (int64_t c = 0; c < job.d; ++c) {
    S* const grad = row_of<S>(job.grad_q, job.d, b, c, y, job);
    std::fill_n(grad, job.w, S(0));
    for (int64_t n = 0; n < kNeighbours; ++n) {
      const S *const of_score = row_of<S>(job.grad_logits, kNeighbours, b, n, y, job), *const key = weights.key(n, c);
#pragma omp simd
      for (int64_t x = 0; x < job.w; ++x) grad[x] += of_score[x] * key[x];
    }
  }
}

// What a row gets from those that have read it. sums: disparity, confidence, its logarithm and the d keys, each a row with edges.
template <typename S>
void backward_read(const Job& job, Scratch<S>& sums, int64_t b, int64_t target) {
  const int64_t w = job.w, D = job.dilation, span = w + 2 * D, planes = 3 + job.d;
  std::fill_n(sums.get(), planes * span, S(0));
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t step = (r - 1) * D;  // the rows y with clamp(y + step) == target
    const int64_t first = target == 0 ? 0 : target - step, last = target == job.h - 1 ? job.h - 1 : target - step;
    for (int64_t y = std::max<int64_t>(first, 0); y <= std::min(last, job.h - 1); ++y) {
      if (std::clamp<int64_t>(y + step, 0, job.h - 1) != target) continue;
      const S* const of_disp = row_of<S>(job.grad_disp, 1, b, 0, y, job);
      const S* const of_trust = row_of<S>(job.grad_confidence, 1, b, 0, y, job);
      for (int64_t n = 3 * r; n < 3 * r + 3; ++n) {
        const S* const weight = row_of<S>(static_cast<const void*>(job.weights), kNeighbours, b, n, y, job);
        const S* const of_score = row_of<S>(static_cast<const void*>(job.grad_logits), kNeighbours, b, n, y, job);
        S* const to = sums.get() + n % 3 * D;
#pragma omp simd
        for (int64_t x = 0; x < w; ++x) {
          to[x] += weight[x] * of_disp[x];
          to[span + x] += weight[x] * of_trust[x];
          to[2 * span + x] += of_score[x];
        }
        for (int64_t c = 0; c < job.d; ++c) {
          const S* const query = row_of<S>(job.q, job.d, b, c, y, job);
          S* const to_key = to + (3 + c) * span;
#pragma omp simd
          for (int64_t x = 0; x < w; ++x) to_key[x] += of_score[x] * query[x];
        }
      }
    }
  }
  for (int64_t plane = 0; plane < planes; ++plane) {  // what was read beyond an edge was read from it
    S* const sum = sums.get() + plane * span;
    for (int64_t x = 0; x < D; ++x) sum[D] += sum[x], sum[D + w - 1] += sum[D + w + x];
  }
  const S* const trust = row_of<S>(job.confidence, 1, b, 0, target, job);
  S* const grad_trust = row_of<S>(job.out_confidence, 1, b, 0, target, job);
  const S *const direct = sums.get() + span + D, *const by_logarithm = sums.get() + 2 * span + D;
  std::copy_n(sums.get() + D, w, row_of<S>(job.out_disp, 1, b, 0, target, job));
  for (int64_t x = 0; x < w; ++x) grad_trust[x] = direct[x] + by_logarithm[x] / (trust[x] + static_cast<S>(kLeast));
  for (int64_t c = 0; c < job.d; ++c) {
    std::copy_n(sums.get() + (3 + c) * span + D, w, row_of<S>(job.grad_k, job.d, b, c, target, job));
  }
}

template <typename S>
void run_type(const Job& job) {
  const int64_t rows = job.B * job.h;
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / (kNeighbours * (job.d + 8) * job.w));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    Weights<S> weights(job);
    Scratch<S> mean(job.w);
    for (int64_t row = begin; row < end; ++row) {
      if (job.grad_disp == nullptr) {
        forward_row(job, weights, row / job.h, row % job.h);
      } else {
        backward_own(job, weights, mean, row / job.h, row % job.h);
      }
    }
  });
  if (job.grad_disp == nullptr) return;
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    Scratch<S> sums((3 + job.d) * (job.w + 2 * job.dilation));
    for (int64_t row = begin; row < end; ++row) backward_read(job, sums, row / job.h, row % job.h);
  });
}

void run(const Job& job, at::ScalarType type) {
  if (job.B * job.h * job.w == 0) return;
  if (type == at::kDouble) return run_type<double>(job);
  TORCH_CHECK(type == at::kFloat, "expected float32 or float64, got ", type);
  run_type<float>(job);
}

Job describe(const Tensor& disp, const Tensor& confidence, const Tensor& logits, const Tensor& q, const Tensor& k, int64_t dilation) {
  TORCH_CHECK(disp.dim() == 3 && q.dim() == 4, "expected disparities (B, h, w) and queries (B, d, h, w)");
  TORCH_CHECK(dilation >= 1, "expected a dilation of 1 or more, got ", dilation);
  Job job;
  job.B = disp.size(0), job.h = disp.size(1), job.w = disp.size(2), job.d = q.size(1), job.dilation = dilation;
  const at::ScalarType type = disp.scalar_type();
  check(confidence, disp.sizes(), type, "confidence");
  check(logits, {job.B, kNeighbours, job.h, job.w}, type, "logits");
  check(q, {job.B, job.d, job.h, job.w}, type, "q");
  check(k, q.sizes(), type, "k");
  job.disp = disp.const_data_ptr(), job.confidence = confidence.const_data_ptr(), job.logits = logits.const_data_ptr();
  job.q = q.const_data_ptr(), job.k = k.const_data_ptr();
  return job;
}

std::tuple<Tensor, Tensor> step(
    const Tensor& given_disp, const Tensor& given_confidence, const Tensor& given_logits, const Tensor& given_q, const Tensor& given_k,
    int64_t dilation) {
  const Tensor disp = given_disp.contiguous(), confidence = given_confidence.contiguous(), logits = given_logits.contiguous();
  const Tensor q = given_q.contiguous(), k = given_k.contiguous();
  Job job = describe(disp, confidence, logits, q, k, dilation);
  const Tensor out_disp = at::empty(disp.sizes(), disp.options()), out_confidence = at::empty(disp.sizes(), disp.options());
  job.out_disp = out_disp.data_ptr(), job.out_confidence = out_confidence.data_ptr();
  run(job, disp.scalar_type());
  return {out_disp, out_confidence};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> step_backward(
    const Tensor& given_grad_disp, const Tensor& given_grad_confidence, const Tensor& given_disp, const Tensor& given_confidence,
    const Tensor& given_logits, const Tensor& given_q, const Tensor& given_k, int64_t dilation) {
  const Tensor disp = given_disp.contiguous(), confidence = given_confidence.contiguous(), logits = given_logits.contiguous();
  const Tensor q = given_q.contiguous(), k = given_k.contiguous();
  const Tensor grad_disp = given_grad_disp.contiguous(), grad_confidence = given_grad_confidence.contiguous();
  Job job = describe(disp, confidence, logits, q, k, dilation);
  check(grad_disp, disp.sizes(), disp.scalar_type(), "gradient of the disparity");
  check(grad_confidence, disp.sizes(), disp.scalar_type(), "gradient of the confidence");
  const Tensor of_disp = at::empty(disp.sizes(), disp.options()), of_confidence = at::empty(disp.sizes(), disp.options());
  const Tensor of_logits = at::empty(logits.sizes(), disp.options()), of_q = at::empty(q.sizes(), disp.options());
  const Tensor of_k = at::empty(q.sizes(), disp.options()), weights = at::empty(logits.sizes(), disp.options());
  job.grad_disp = grad_disp.const_data_ptr(), job.grad_confidence = grad_confidence.const_data_ptr();
  job.out_disp = of_disp.data_ptr(), job.out_confidence = of_confidence.data_ptr(), job.weights = weights.data_ptr();
  job.grad_logits = of_logits.data_ptr(), job.grad_q = of_q.data_ptr(), job.grad_k = of_k.data_ptr();
  run(job, disp.scalar_type());
  return {of_disp, of_confidence, of_logits, of_q, of_k};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stereo_cpu, m) {
  m.def("propagation(Tensor disp, Tensor confidence, Tensor logits, Tensor q, Tensor k, int dilation) -> (Tensor, Tensor)");
  m.def(
      "propagation_backward(Tensor grad_disp, Tensor grad_confidence, Tensor disp, Tensor confidence, Tensor logits, Tensor q, Tensor k, "
      "int dilation) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stereo_cpu, CPU, m) {
  m.impl("propagation", &step);
  m.impl("propagation_backward", &step_backward);
}
