// logistic.h - L2-regularised logistic regression of two classes, by Newton's method
//
//   f(w, b) = 1/n Σ log(1 + exp(-s_i z_i)) + l2/2 |w|²,   z = X w + b,   s_i = +1 for label 1, -1 for label 0
//
// This is scikit-learn's LogisticRegression with C = 1 / (n l2). Each step solves H p = -g by conjugate gradients,
// which need only products with H = 1/n Xᵀ D X + l2, and halves p until f falls. All sums are in double and in an order
// that does not depend on the number of threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/host.h"

// A dense matrix (n,d), row by row.
struct DenseMatrix {
    int64_t n = 0, d = 0;
    std::vector<float> x;

    std::vector<double> times(const std::vector<double>& w) const {
        std::vector<double> z(size_t(n), 0.);
        host::parallel_ranges(n, 64, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                double lane[8] = {};  // eight partial sums, which become vectors
                int64_t c      = 0;
                for (; c + 8 <= d; c += 8)
#pragma omp simd
                    for (int64_t k = 0; k < 8; k++) lane[k] += double(x[size_t(i * d + c + k)]) * w[size_t(c + k)];
                for (; c < d; c++) lane[0] += double(x[size_t(i * d + c)]) * w[size_t(c)];
                z[size_t(i)] =
                    ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
            }
        });
        return z;
    }
    // Threads own columns, and each adds all rows in order.
    std::vector<double> transposed_times(const std::vector<double>& r) const {
        std::vector<double> g(size_t(d), 0.);
        host::parallel_ranges(d, 32, [&](int64_t begin, int64_t end) {
            for (int64_t i = 0; i < n; i++)
#pragma omp simd
                for (int64_t c = begin; c < end; c++) g[size_t(c)] += r[size_t(i)] * double(x[size_t(i * d + c)]);
        });
        return g;
    }
};

// A matrix (n,d) of zeros and ones. Row i has ones in columns[first[i]] to columns[first[i + 1] - 1].
struct SparseMatrix {
    int64_t n = 0, d = 0;
    std::vector<int64_t> first = {0};
    std::vector<int32_t> columns;

    std::vector<double> times(const std::vector<double>& w) const {
        std::vector<double> z(size_t(n), 0.);
        for (size_t i = 0; i < size_t(n); i++)
            for (int64_t k = first[i]; k < first[i + 1]; k++) z[i] += w[size_t(columns[size_t(k)])];
        return z;
    }
    std::vector<double> transposed_times(const std::vector<double>& r) const {
        std::vector<double> g(size_t(d), 0.);
        for (size_t i = 0; i < size_t(n); i++)
            for (int64_t k = first[i]; k < first[i + 1]; k++) g[size_t(columns[size_t(k)])] += r[i];
        return g;
    }
};

struct LogisticModel {
    std::vector<double> w;
    double b       = 0;
    bool converged = true;
};

namespace logistic {

inline double log1p_exp(double z) { return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)); }
inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
    return sum;
}

}  // namespace logistic

// Returns the mean of -log p(label) over the rows.
template <class Matrix>
double log_loss(const LogisticModel& m, const Matrix& x, const std::vector<int32_t>& labels) {
    const auto z = x.times(m.w);
    double sum   = 0;
    for (size_t i = 0; i < z.size(); i++) sum += logistic::log1p_exp(labels[i] ? -(z[i] + m.b) : z[i] + m.b);
    return sum / double(z.size());
}

// Returns how many rows have z > 0 exactly when their label is 1.
template <class Matrix>
int64_t count_right(const LogisticModel& m, const Matrix& x, const std::vector<int32_t>& labels) {
    const auto z  = x.times(m.w);
    int64_t right = 0;
    for (size_t i = 0; i < z.size(); i++) right += (z[i] + m.b > 0) == (labels[i] == 1);
    return right;
}

// Fits a model, beginning at `m`. It has converged when no entry of the gradient is larger than `tolerance`. An entry
// divided by l2 bounds how far off its weight is, so weak regularisation needs a smaller one.
template <class Matrix>
LogisticModel fit_logistic(const Matrix& x, const std::vector<int32_t>& labels, double l2, LogisticModel m = {},
                           double tolerance = 0) {
    using Vector   = std::vector<double>;
    const size_t n = size_t(x.n), d = size_t(x.d);
    if (tolerance == 0) tolerance = 1e-3 * std::min(l2, 1e-3);
    m.w.resize(d, 0.);
    // Vectors below have d + 1 entries. The last one belongs to b, which is not regularised.
    const auto z_of = [&](const Vector& v) {
        Vector z = x.times(Vector(v.begin(), v.end() - 1));
        for (double& zi : z) zi += v[d];
        return z;
    };
    const auto back = [&](const Vector& r, const Vector& v) {  // 1/n Xᵀ r + l2 v
        Vector g   = x.transposed_times(r);
        double sum = 0;
        for (const double ri : r) sum += ri;
        for (size_t c = 0; c < d; c++) g[c] = g[c] / double(n) + l2 * v[c];
        g.push_back(sum / double(n));
        return g;
    };
    const auto value = [&](const Vector& z, const Vector& v) {
        double sum = 0, square = 0;
        for (size_t i = 0; i < n; i++) sum += logistic::log1p_exp(labels[i] ? -z[i] : z[i]);
        for (size_t c = 0; c < d; c++) square += v[c] * v[c];
        return sum / double(n) + l2 / 2 * square;
    };

    Vector at = m.w;
    at.push_back(m.b);
    Vector z    = z_of(at), residual(n), curvature(n);
    double f    = value(z, at);
    m.converged = false;
    for (int step = 0; step < 100 && !m.converged; step++) {
        for (size_t i = 0; i < n; i++) {
            const double p = 1 / (1 + std::exp(-z[i]));
            residual[i]    = p - double(labels[i]);
            curvature[i]   = p * (1 - p);
        }
        const Vector g = back(residual, at);
        double largest = 0;
        for (const double gi : g) largest = std::max(largest, std::fabs(gi));
        if ((m.converged = largest <= tolerance)) break;

        Vector p(d + 1, 0.), left = g, direction(d + 1), zp;
        for (size_t c = 0; c <= d; c++) left[c] = direction[c] = -g[c];
        double left2      = logistic::dot(left, left);
        const double stop = left2 * std::min(0.01, largest);  // the squared norm; it shrinks with the gradient
        for (int k = 0; k < 250 && left2 > stop; k++) {
            Vector zd = z_of(direction);
            for (size_t i = 0; i < n; i++) zd[i] *= curvature[i];
            const Vector h     = back(zd, direction);
            const double along = logistic::dot(direction, h);
            if (along <= 0) break;  // rounding; H is positive
            const double a = left2 / along;
            for (size_t c = 0; c <= d; c++) p[c] += a * direction[c], left[c] -= a * h[c];
            const double next2 = logistic::dot(left, left);
            for (size_t c = 0; c <= d; c++) direction[c] = left[c] + next2 / left2 * direction[c];
            left2 = next2;
        }
        zp                = z_of(p);
        const double rate = logistic::dot(g, p);
        bool fell         = false;
        Vector to(d + 1), z_to(n);
        for (double size = 1; size > 1e-6 && !fell; size /= 2) {
            for (size_t c = 0; c <= d; c++) to[c] = at[c] + size * p[c];
            for (size_t i = 0; i < n; i++) z_to[i] = z[i] + size * zp[i];
            const double f_to = value(z_to, to);
            if ((fell = f_to <= f + 1e-4 * size * rate)) f = f_to, at = to, z = z_to;
        }
        if (!fell) break;  // f is as low as rounding lets it be
    }
    m.w.assign(at.begin(), at.end() - 1);
    m.b = at[d];
    return m;
}
