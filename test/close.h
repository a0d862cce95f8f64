// close.h - how tests make the inputs of ops and judge their results: devices(), Buffer, CHECK_CLOSE
//
// Every result exists three times: the reference in double, `plain`, which is the same formula in float, and ours. The
// tolerance follows from the first two, so nobody tunes constants:
//
//   CHECK_CLOSE(ours, reference, plain)    |ours - reference| <= 2 · plain's error + 1 ulp
//
// Plain's error is the largest in the whole case, after rounding plain to the dtype of ours. On a single element plain
// may be exact by luck, and then ours would have to be exact too. Therefore all values of a case should have one scale,
// and other scales should be other cases. The ulp is one step of the dtype at the magnitude of the reference. Where the
// rounded reference is NaN or infinite, ours must be the same. An element where only plain overflows does not widen the
// tolerance.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "test/catch.h"

using Values = std::vector<double>;

// The machines to test: the CPU, and a GPU if the binary and this computer have one. The GPU may be emulated. A build
// without products on the CPU (ONEDNN=0) tests the GPU alone.
inline const std::vector<const Device*>& devices() {
    static const Device cpu("cpu");
    static const std::unique_ptr<Device> gpu = []() -> std::unique_ptr<Device> {
        try {
            return std::make_unique<Device>("cuda");
        } catch (const Error& e) {
            fmt::print(stderr, "tests run on the CPU alone: {}\n", e.what());
            return nullptr;
        }
    }();
    static const std::vector<const Device*> all = !gpu                 ? std::vector<const Device*>{&cpu}
                                                  : has_cpu_products() ? std::vector<const Device*>{&cpu, gpu.get()}
                                                                       : std::vector<const Device*>{gpu.get()};
    return all;
}

// The GPU that runs the kernels for Hopper, or null.
inline const Device* hopper() {
    for (const Device* d : devices())
        if (d->has_hopper_attention()) return d;
    return nullptr;
}

// Runs f with the given number of CPU threads.
template <class F>
void with_threads(int threads, F f) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    f();
    omp_set_num_threads(before);
}

// run() makes its buffers, calls the op and returns the bytes of its results.
using Bytes = std::vector<std::vector<unsigned char>>;
template <class Run>
Bytes bytes_with(int threads, Run run) {
    Bytes b;
    with_threads(threads, [&] { b = run(); });
    return b;
}
#define CHECK_SAME_FOR_ANY_THREADS(run)        \
    do {                                       \
        const Bytes one_ = bytes_with(1, run); \
        CHECK(one_ == bytes_with(2, run));     \
        CHECK(one_ == bytes_with(5, run));     \
    } while (0)

namespace Catch {
template <>
struct StringMaker<const Device*> {
    static std::string convert(const Device* d) { return d->where() == Machine::cpu ? "cpu" : "cuda"; }
};
template <>
struct StringMaker<DType> {
    static std::string convert(DType t) { return name_of(t); }
};
}  // namespace Catch

// What an input holds. A row is along the last dimension.
enum class Kind {
    ordinary,       // normal(0, 1)
    large_mean,     // 1000 + normal(0, 1): variance by subtraction loses everything
    constant_rows,  // one value per row: variance 0
    huge,           // 1e15 · normal(0, 1): squares still fit into a float
    tiny,           // 1e-39 · normal(0, 1): denormal floats
    zeros,
    garbage,  // NaN in every element, as in an output that an op must write completely
};
namespace Catch {
template <>
struct StringMaker<Kind> {
    static std::string convert(Kind k) {
        const char* names[] = {"ordinary", "large_mean", "constant_rows", "huge", "tiny", "zeros", "garbage"};
        return names[int(k)];
    }
};
}  // namespace Catch

// Random numbers that depend on the seed alone, on every machine: splitmix64 (Steele, Lea, Flood 2014).
struct Dice {
    uint64_t state;
    explicit Dice(uint64_t seed) : state(seed * 0x2545f4914f6cdd1dull + 1) {}
    uint64_t bits() {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z          = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z          = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    double uniform() { return double(bits() >> 11) * 0x1p-53; }  // [0, 1)
    int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
    double normal() {
        const double u = 1.0 - uniform(), v = uniform();
        return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
    }
};

inline double rounded(double x, DType t) {  // x as an element of dtype t holds it
    return t == DType::F32 ? double(float(x)) : t == DType::BF16 ? double(float(bf16(float(x)))) : std::nearbyint(x);
}
inline Values rounded(Values v, DType t) {
    for (double& x : v) x = rounded(x, t);
    return v;
}

// A tensor in a device's memory with canaries on both sides. A canary is bytes of 0xff, which are NaN in every floating
// dtype: reading past an end makes the result NaN, and writing past an end fails the test when the buffer is destroyed.
class Buffer {
  public:
    Buffer(const Device* dev, Shape shape, DType dtype, Kind kind = Kind::garbage, uint64_t seed = 1, double scale = 1)
        : dev_(dev), shape_(shape), dtype_(dtype) {
        const int64_t bytes = shape.numel() * size_of(dtype);
        base_               = static_cast<char*>(dev->allocate(bytes + 2 * guard));
        std::vector<unsigned char> all(bytes + 2 * guard, 0xff);
        from_host(memory(), all.data(), dev->stream());
        if (kind == Kind::garbage) return;
        Dice random(seed);
        Values v(shape.numel());
        const int64_t C = shape.dims ? std::max<int64_t>(shape[-1], 1) : 1;
        for (size_t i = 0; i < v.size(); i++) {
            const double z = random.normal();
            switch (kind) {
                case Kind::large_mean: v[i] = scale * (1000 + z); break;
                case Kind::constant_rows: v[i] = i % C ? v[i - 1] : scale * z; break;
                case Kind::huge: v[i] = scale * 1e15 * z; break;
                case Kind::tiny: v[i] = scale * 1e-39 * z; break;
                case Kind::zeros: v[i] = 0; break;
                default: v[i] = scale * z;
            }
        }
        set(v);
    }
    Buffer(const Device* dev, Shape shape, DType dtype, const Values& v) : Buffer(dev, shape, dtype) { set(v); }
    Buffer(const Buffer&)            = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& o) noexcept : dev_(o.dev_), base_(o.base_), shape_(o.shape_), dtype_(o.dtype_) {
        o.base_ = nullptr;
    }
    ~Buffer() noexcept(false) {
        if (!base_) return;
        const bool unharmed = intact();
        dev_->release(base_);
        if (!unharmed && !std::uncaught_exceptions())
            FAIL_CHECK("canaries of " << tensor().str() << " were overwritten");
    }

    Tensor tensor() const { return Tensor{base_ + guard, dtype_, shape_}; }
    operator Tensor() const { return tensor(); }

    void set(const Values& v) {
        std::vector<char> bytes(v.size() * size_of(dtype_));
        for (size_t i = 0; i < v.size(); i++) {
            const float f   = float(v[i]);
            const bf16 h    = bf16(f);
            const int32_t k = dtype_ == DType::I32 ? int32_t(v[i]) : 0;
            const void* p   = dtype_ == DType::F32 ? (const void*)&f : dtype_ == DType::BF16 ? (const void*)&h : &k;
            std::memcpy(bytes.data() + i * size_of(dtype_), p, size_of(dtype_));
        }
        REQUIRE(int64_t(v.size()) == shape_.numel());
        from_host(tensor(), bytes.data(), dev_->stream());
    }
    Values values() const {
        const std::vector<unsigned char> b = bytes();
        Values v(shape_.numel());
        for (size_t i = 0; i < v.size(); i++) {
            float f = 0;
            bf16 h;
            int32_t k = 0;
            void* p   = dtype_ == DType::F32 ? (void*)&f : dtype_ == DType::BF16 ? (void*)&h : &k;
            std::memcpy(p, b.data() + i * size_of(dtype_), size_of(dtype_));
            v[i] = dtype_ == DType::F32 ? f : dtype_ == DType::BF16 ? float(h) : k;
        }
        return v;
    }
    // The elements as they are in memory, for comparisons to the bit.
    std::vector<unsigned char> bytes() const {
        std::vector<unsigned char> b(shape_.numel() * size_of(dtype_));
        sync(dev_->stream());
        to_host(b.data(), tensor(), dev_->stream());
        return b;
    }
    bool intact() const {
        const int64_t bytes = shape_.numel() * size_of(dtype_);
        std::vector<unsigned char> all(bytes + 2 * guard);
        sync(dev_->stream());
        to_host(all.data(), memory(), dev_->stream());
        const auto canary = [](unsigned char c) { return c == 0xff; };
        return std::all_of(all.begin(), all.begin() + guard, canary) &&
               std::all_of(all.end() - guard, all.end(), canary);
    }

  private:
    static constexpr int64_t guard = 256;  // bytes of a canary; a multiple of every alignment that a device gives
    Tensor memory() const {                // the tensor with its canaries, as words of two bytes
        return Tensor{base_, DType::BF16, {(shape_.numel() * size_of(dtype_) + 2 * guard) / 2}};
    }
    const Device* dev_;
    char* base_;
    Shape shape_;
    DType dtype_;
};

inline double ulp(double x, DType t) {  // one step of t at the magnitude of x
    if (t == DType::I32 || !std::isfinite(x)) return 0;
    const int exponent = std::max(x == 0 ? -126 : std::ilogb(x), -126);
    return std::ldexp(1.0, exponent - (t == DType::F32 ? 23 : 7));
}

// Describes the first element where ours is not close; empty when all are close.
inline std::string difference(const std::string& name, const Values& ours, const Shape& shape, DType dtype,
                              const Values& reference, const Values& plain) {
    if (ours.size() != reference.size() || ours.size() != plain.size())
        return fmt::format("{} has {} elements, reference {}, plain {}", name, ours.size(), reference.size(),
                           plain.size());
    double plain_error = 0;
    for (size_t i = 0; i < plain.size(); i++) {
        const double error = std::fabs(rounded(plain[i], dtype) - reference[i]);
        if (std::isfinite(error)) plain_error = std::max(plain_error, error);
    }
    for (size_t i = 0; i < ours.size(); i++) {
        const double wanted = reference[i], ref = rounded(wanted, dtype),
                     allowed = 2 * plain_error + ulp(wanted, dtype);
        const double error   = std::fabs(ours[i] - wanted);
        const bool close     = std::isnan(ref)   ? std::isnan(ours[i])
                               : std::isinf(ref) ? ours[i] == ref
                                                 : !!(error <= allowed);  // false for a NaN
        if (close) continue;
        std::string at;
        int64_t rest = int64_t(i);
        for (int d = shape.dims - 1; d >= 0; rest /= shape[d], d--)
            at = fmt::format("{}{}{}", rest % shape[d], at.empty() ? "" : ",", at);
        return fmt::format("{}[({})] = {:.9g}, expected {:.9g} (off by {:.3g}, allowed {:.3g})", name, at, ours[i],
                           wanted, error, allowed);
    }
    return "";
}
inline std::string difference(const std::string& name, const Buffer& ours, const Values& reference,
                              const Values& plain) {
    const Tensor t = ours.tensor();
    return difference(name, ours.values(), t.shape, t.dtype, reference, plain);
}

#define CHECK_CLOSE(ours, reference, plain)                                 \
    do {                                                                    \
        const std::string off_ = difference(#ours, ours, reference, plain); \
        if (off_.empty())                                                   \
            SUCCEED(#ours " is close");                                     \
        else                                                                \
            FAIL_CHECK(off_);                                               \
    } while (0)

// Where PyTorch has computed the results of a model in bf16 too, ours are judged by all their errors together. The
// largest error of a tensor is a noisy statistic: on an H100 it was 2.02 times PyTorch's in one tensor of 200, and
// within 2 times on the emulator, by the same kernels. The root mean square of the n errors of a tensor varies by
// 1/√(2n), or by more where they come from one sum, and that of a whole model hardly at all. So the whole model may
// have 1.1 times PyTorch's errors (0.8 to 0.99 were measured), a tensor 2 times, and no element may be off by more than
// 16 times the root mean square of its tensor, where PyTorch's own reach 8.6: an element that is wrong and not rounded
// is off by some 100 times.
class ErrorsBeside {
  public:
    // their_rms: the root mean square of PyTorch's errors.
    void add(const std::string& name, const std::vector<float>& ours, const std::vector<float>& exact,
             double their_rms) {
        REQUIRE(ours.size() == exact.size());
        double squares = 0, largest = 0;
        for (size_t i = 0; i < ours.size(); i++) {
            const double off = std::fabs(double(ours[i]) - exact[i]);
            squares += off * off;
            if (!(off <= largest)) largest = off;  // also true for a NaN
        }
        const double ratio = std::sqrt(squares / double(ours.size())) / their_rms;
        CAPTURE(name, ratio, largest, their_rms);
        CHECK(ratio <= 2);
        CHECK(largest <= 16 * their_rms);
        ratios_ += ratio * ratio;
        count_++;
    }
    void check_all() const {
        REQUIRE(count_ > 0);
        CHECK(std::sqrt(ratios_ / count_) <= 1.1);
    }

  private:
    double ratios_ = 0;
    int count_     = 0;
};
