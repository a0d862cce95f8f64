// device.cu - Device, Arena, and moving bytes
#include "device.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "cpu.h"
#include "ops.h"

// ---- what the machine is
// ----------------------------------------------------------------------------------------------

static std::string cpu_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
        if (line.rfind("model name", 0) == 0 && line.find(": ") != line.npos) return line.substr(line.find(": ") + 2);
    return "CPU";
}

// Memory that may still be taken: the kernel's estimate, or what the control group leaves when that is less.
static int64_t available_memory() {
    int64_t available = int64_t(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    std::ifstream info("/proc/meminfo");
    for (std::string key, rest; info >> key && std::getline(info, rest);)
        if (key == "MemAvailable:") available = std::stoll(rest) * 1024;
    int64_t limit = 0, used = 0;
    std::ifstream max("/sys/fs/cgroup/memory.max"), current("/sys/fs/cgroup/memory.current");
    if (max >> limit && current >> used) available = std::min(available, std::max<int64_t>(limit - used, 0));
    return available;
}

Device::Device(const std::string& kind, int index, int threads) {
    CHECK(kind == "auto" || kind == "cpu" || kind == "cuda", "--device {}: expected auto, cpu or cuda", kind);
    CHECK(kind != "cuda", "--device cuda: this binary was built without its CUDA half; use --device cpu");
    CHECK(index == 0, "there is one CPU device, number 0, not {}", index);
    CHECK(threads >= 0 && threads <= 4096, "--threads {}: expected 0 (one per core) up to 4096", threads);
    threads_ = threads ? threads : int(std::max(1, omp_get_num_procs()));
    omp_set_num_threads(threads_);
    name_ = cpu_name();
}

Device::~Device() = default;

void let_idle_threads_sleep(char** argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);  // returns only where there is no /proc; then threads spin
}

bool Device::fast_bf16() const {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

int64_t Device::free_bytes() const { return available_memory(); }

// The rate of one well-shaped product: 1024 rows against a 1024 × 1024 weight, the best of five.
double Device::peak_flops(DType t) const {
    double& rate = peak_[t];
    if (rate > 0) return rate;
    const int64_t n = 1024;
    Arena arena("peak measurement");
    for (int i = 0; i < 3; i++) arena.plan({n, n}, t);
    arena.allocate(*this);
    const Tensor x = arena.take({n, n}, t), w = arena.take({n, n}, t), y = arena.take({n, n}, t);
    for (int i = 0; i < 6; i++) {
        const auto start = std::chrono::steady_clock::now();
        matmul_forward(y, x, w, Tensor{}, stream_);
        sync(stream_);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        if (i > 0) rate = std::max(rate, 2.0 * n * n * n / seconds.count());  // the first run builds the kernel
    }
    return rate;
}

// ---- memory
// -------------------------------------------------------------------------------------------------------------

static std::string gib(int64_t bytes) { return fmt::format("{:.2f} GiB", double(bytes) / (1 << 30)); }

// Straight from the kernel: zero-filled, in huge pages where it can. The first page holds the size for release().
static constexpr int64_t page = 4096;

void* Device::allocate(int64_t bytes) const {
    const int64_t available = free_bytes();
    CHECK_RUN(bytes < available, "out of memory: {} wanted, {} free; a smaller --batch or --context takes less",
              gib(bytes), gib(available));
    void* base = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_RUN(base != MAP_FAILED, "out of memory: {} wanted, {} free: {}", gib(bytes), gib(available), os_error());
    madvise(base, bytes + page, MADV_HUGEPAGE);
    *static_cast<int64_t*>(base) = bytes + page;
    return static_cast<char*>(base) + page;
}

void Device::release(void* p) const {
    if (!p) return;
    char* base = static_cast<char*>(p) - page;
    munmap(base, *reinterpret_cast<int64_t*>(base));
}

Arena& Arena::operator=(Arena&& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(device_, o.device_);
    std::swap(base_, o.base_);
    std::swap(planned_, o.planned_);
    std::swap(used_, o.used_);
    return *this;
}

Arena::~Arena() {
    if (device_) device_->release(base_);
}

void Arena::allocate(const Device& device) {
    CHECK(!base_, "arena '{}' is allocated already", group_);
    try {
        base_   = static_cast<char*>(device.allocate(std::max<int64_t>(planned_, 64)));
        device_ = &device;
    } catch (const RunError& e) { throw RunError(group_ + ": " + e.what()); }
}

Tensor Arena::take(const Shape& shape, DType dtype) {
    const int64_t bytes = padded(shape, dtype);
    CHECK(base_ && used_ + bytes <= planned_, "arena '{}': {} {} was not planned", group_, shape.str(), name_of(dtype));
    Tensor t{base_ + used_, dtype, shape};
    used_ += bytes;
    return t;
}

Tensor Arena::flat(DType dtype) const { return Tensor{base_, dtype, {used_ / size_of(dtype)}}; }

// ---- moving bytes
// -------------------------------------------------------------------------------------------------------

namespace cpu {
template <class To, class From>
static void convert(Tensor dst, Tensor src) {
    To* out        = dst.data<To>();
    const From* in = src.data<From>();
    parallel_ranges(dst.numel(), 1 << 14, [=](int64_t begin, int64_t end) {
        for_lanes(end - begin, [=](int64_t i, auto n) { store(out + begin + i, load(in + begin + i, n), n); });
    });
}
static void move_bytes(void* dst, const void* src, int64_t bytes) {
    parallel_ranges(bytes, 1 << 20, [=](int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(dst) + begin, static_cast<const char*>(src) + begin, end - begin);
    });
}
}  // namespace cpu

void copy(Tensor dst, Tensor src, Stream) {
    CHECK(dst && src && dst.shape == src.shape, "copy: {} into {}", src.str(), dst.str());
    if (dst.dtype == src.dtype) return cpu::move_bytes(dst.ptr, src.ptr, src.bytes());
    if (dst.dtype == DType::BF16) return cpu::convert<bf16, float>(dst, src);
    return cpu::convert<float, bf16>(dst, src);
}

void zero(Tensor t, Stream) {
    cpu::parallel_ranges(t.bytes(), 1 << 20, [=](int64_t begin, int64_t end) {
        std::memset(static_cast<char*>(t.ptr) + begin, 0, end - begin);
    });
}

void sync(Stream) {}
void to_host(void* dst, Tensor src, Stream) { std::memcpy(dst, src.ptr, src.bytes()); }
void from_host(Tensor dst, const void* src, Stream) { std::memcpy(dst.ptr, src, dst.bytes()); }
