// Layer normalisation of the channels of each pixel with what follows it: scale, shift, a residual to be added, ReLU. One pass over
// memory instead of one for each of them. Law: channel_norm in reference.py.
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "simd.h"

namespace {

using namespace stereo;

constexpr int64_t kRowsPerTask = 2048;  // fixed: sums over rows are taken task by task, the same for any number of threads

// Pointers are to (rows, C) without gaps, except scale and shift (C,) and statistics (2, rows): means, then 1 / deviations.
struct Job {
  const void *x = nullptr, *residual = nullptr, *grad = nullptr, *y = nullptr, *scale = nullptr, *shift = nullptr;
  void *out = nullptr, *grad_residual = nullptr, *statistics = nullptr, *grad_scale = nullptr, *grad_shift = nullptr;
  int64_t rows, C;
  double eps;
  bool relu;
};

// Rows in blocks of one vector's lanes, so that what is summed over a row's channels is summed for all of them at once.
template <typename T, typename S>
class Rows {
  using V = typename Simd<S>::type;
  static constexpr int L = Simd<S>::lanes;

 public:
  explicit Rows(const Job& given)
      : job(given), C(job.C), nv((C + L - 1) / L), x(L * nv), second(L * nv), scale(nv), shift(nv), present(nv), joined(L),
        mean(L), other(L), row(nv) {
    for (int64_t c = 0; c < nv * L; ++c) scalar(present.get())[c] = c < C ? S(1) : S(0);
    load_row(scalar(scale.get()), static_cast<const S*>(job.scale), C);
    if (job.shift != nullptr) load_row(scalar(shift.get()), static_cast<const S*>(job.shift), C);
  }

  void forward(int64_t begin, int64_t end) {
    S *const means = static_cast<S*>(job.statistics), *const inverses = means + job.rows;
    for (int64_t first = begin; first < end; first += L) {
      const int64_t count = std::min<int64_t>(L, end - first);
      read(x, job.x, first, count);
      sum_rows(mean, count, [&](int64_t i, int64_t c) { return x[i * nv + c]; });
      for (int64_t i = 0; i < count; ++i) {
        means[first + i] = mean[i] / static_cast<S>(C);
        for (int64_t c = 0; c < nv; ++c) x[i * nv + c] = (x[i * nv + c] - means[first + i]) * present[c];
      }
      sum_rows(other, count, [&](int64_t i, int64_t c) { return x[i * nv + c] * x[i * nv + c]; });
      if (job.residual != nullptr) read(second, job.residual, first, count);
      for (int64_t i = 0; i < count; ++i) {
        const S inverse = S(1) / std::sqrt(other[i] / static_cast<S>(C) + static_cast<S>(job.eps));
        inverses[first + i] = inverse;
        for (int64_t c = 0; c < nv; ++c) {
          V y = x[i * nv + c] * inverse * scale[c] + shift[c];
          if (job.residual != nullptr) y += second[i * nv + c];
          row[c] = job.relu ? (y < S(0) ? V{} : y) : y;  // NaN stays NaN
        }
        write(job.out, first + i);
      }
    }
  }

  // With g the gradient behind the ReLU and n the normalised x: inverse * (g s - mean(g s) - n mean(g s n)), s the scale.
  void backward(int64_t begin, int64_t end, S* scale_sums, S* shift_sums) {
    const S *const means = static_cast<const S*>(job.statistics), *const inverses = means + job.rows;
    Scratch<V> of_scale(nv), of_shift(nv);
    for (int64_t first = begin; first < end; first += L) {
      const int64_t count = std::min<int64_t>(L, end - first);
      read(second, job.grad, first, count);
      if (job.relu) {
        read(x, job.y, first, count);
        for (int64_t i = 0; i < count * nv; ++i) second[i] = x[i] <= S(0) ? V{} : second[i];
      }
      read(x, job.x, first, count);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < nv; ++c) {
          V &n = x[i * nv + c], &g = second[i * nv + c];
          n = (n - means[first + i]) * inverses[first + i] * present[c];
          of_scale[c] += g * n;
          of_shift[c] += g;
          row[c] = g;
          g *= scale[c];
        }
        if (job.grad_residual != nullptr) write(job.grad_residual, first + i);
      }
      sum_rows(mean, count, [&](int64_t i, int64_t c) { return second[i * nv + c]; });
      sum_rows(other, count, [&](int64_t i, int64_t c) { return second[i * nv + c] * x[i * nv + c]; });
      for (int64_t i = 0; i < count; ++i) {
        const S level = mean[i] / static_cast<S>(C), slope = other[i] / static_cast<S>(C), inverse = inverses[first + i];
        for (int64_t c = 0; c < nv; ++c) row[c] = (second[i * nv + c] - level - x[i * nv + c] * slope) * inverse;
        write(job.out, first + i);
      }
    }
    store_row(scale_sums, scalar(of_scale.get()), C);
    store_row(shift_sums, scalar(of_shift.get()), C);
  }

 private:
  static S* scalar(V* v) { return reinterpret_cast<S*>(v); }

  void read(Scratch<V>& to, const void* from, int64_t first, int64_t count) const {
    const T* const rows = static_cast<const T*>(from) + first * C;
    for (int64_t i = 0; i < count; ++i) load_row(scalar(to.get() + i * nv), rows + i * C, C);
  }
  void write(void* to, int64_t at) const { store_row(static_cast<T*>(to) + at * C, scalar(row.get()), C); }

  // to[i] = sum over the channels of term(i, vector of channels).
  template <typename Term>
  void sum_rows(Scratch<S>& to, int64_t count, Term term) {
    for (int64_t i = 0; i < count; ++i) {
      V sum{};
      for (int64_t c = 0; c < nv; ++c) sum += term(i, c);
      joined[i] = sum;
    }
    join_lanes_of_all<S>(to.get(), joined.get(), [](V a, V b) { return a + b; });
  }

  const Job& job;
  const int64_t C, nv;
  Scratch<V> x, second, scale, shift, present;  // present: 1 for a channel, 0 for what fills up the last vector
  Scratch<V> joined;
  Scratch<S> mean, other;
  Scratch<V> row;
};

template <typename T, typename S>
void run_type(const Job& job) {
  const int64_t tasks = (job.rows + kRowsPerTask - 1) / kRowsPerTask;
  const bool backward = job.grad != nullptr;
  Scratch<S> parts(backward ? 2 * tasks * job.C : 0);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    Rows<T, S> rows(job);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kRowsPerTask, last = std::min(first + kRowsPerTask, job.rows);
      if (backward) {
        rows.backward(first, last, parts.get() + 2 * task * job.C, parts.get() + (2 * task + 1) * job.C);
      } else {
        rows.forward(first, last);
      }
    }
  });
  if (!backward) return;
  S* const sums[] = {static_cast<S*>(job.grad_scale), static_cast<S*>(job.grad_shift)};
  for (int64_t task = 0; task < tasks; ++task) {
    for (int64_t which = 0; which < 2; ++which) {
      for (int64_t c = 0; c < job.C; ++c) sums[which][c] += parts[(2 * task + which) * job.C + c];
    }
  }
}

void run(const Job& job, at::ScalarType type) {
  if (job.rows == 0 || job.C == 0) return;
  return by_type(type, [&]<typename T, typename S>() { return run_type<T, S>(job); });
}

using Maybe = std::optional<Tensor>;

at::ScalarType wide(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Job describe(const Tensor& x, const Tensor& scale) {
  TORCH_CHECK(x.dim() >= 1, "expected a tensor with channels");
  Job job;
  job.C = x.size(-1), job.rows = job.C == 0 ? 0 : x.numel() / job.C;
  check(scale, {job.C}, wide(x), "scale");
  job.x = x.const_data_ptr(), job.scale = scale.const_data_ptr();
  return job;
}

std::tuple<Tensor, Tensor> norm(
    const Tensor& given, const Tensor& given_scale, const Tensor& given_shift, const Maybe& given_residual, bool relu, double eps) {
  const Tensor x = given.contiguous(), scale = given_scale.contiguous(), shift = given_shift.contiguous();
  Job job = describe(x, scale);
  check(shift, {job.C}, wide(x), "shift");
  const Tensor residual = given_residual ? given_residual->contiguous() : Tensor();
  if (given_residual) check(residual, x.sizes(), x.scalar_type(), "residual");
  const Tensor out = at::empty(x.sizes(), x.options()), statistics = at::empty({2, job.rows}, x.options().dtype(wide(x)));
  job.shift = shift.const_data_ptr(), job.residual = given_residual ? residual.const_data_ptr() : nullptr;
  job.out = out.data_ptr(), job.statistics = statistics.data_ptr(), job.relu = relu, job.eps = eps;
  run(job, x.scalar_type());
  return {out, statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(
    const Tensor& given_grad, const Tensor& given, const Tensor& given_scale, const Tensor& given_y, const Tensor& statistics,
    bool residual, bool relu) {
  const Tensor x = given.contiguous(), scale = given_scale.contiguous(), grad = given_grad.contiguous(), y = given_y.contiguous();
  Job job = describe(x, scale);
  check(grad, x.sizes(), x.scalar_type(), "gradient");
  check(y, x.sizes(), x.scalar_type(), "result");
  check(statistics, {2, job.rows}, wide(x), "statistics");
  const Tensor grad_x = at::empty(x.sizes(), x.options()), grad_scale = at::zeros({job.C}, scale.options());
  const Tensor grad_shift = at::zeros({job.C}, scale.options());
  const Tensor grad_residual = at::empty(residual ? x.sizes() : at::IntArrayRef({0}), x.options());
  job.grad = grad.const_data_ptr(), job.y = y.const_data_ptr(), job.statistics = statistics.data_ptr(), job.relu = relu;
  job.out = grad_x.data_ptr(), job.grad_scale = grad_scale.data_ptr(), job.grad_shift = grad_shift.data_ptr();
  job.grad_residual = residual ? grad_residual.data_ptr() : nullptr;
  run(job, x.scalar_type());
  return {grad_x, grad_scale, grad_shift, grad_residual};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stereo_cpu, m) {
  m.def("norm(Tensor x, Tensor scale, Tensor shift, Tensor? residual, bool relu, float eps) -> (Tensor, Tensor)");
  m.def(
      "norm_backward(Tensor grad, Tensor x, Tensor scale, Tensor y, Tensor statistics, bool residual, bool relu) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stereo_cpu, CPU, m) {
  m.impl("norm", &norm);
  m.impl("norm_backward", &norm_backward);
}
