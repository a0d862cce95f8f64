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
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// ---- what the machine is ------------------------------------------------------------------------------------------

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

#ifdef __CUDACC__
namespace gpu {

// Why GPU number `index` cannot be used; empty when it can.
static std::string obstacle(int index) {
    int count = 0, driver = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    cudaDriverGetVersion(&driver);
    const auto version = [](int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); };
    if (status == cudaErrorInsufficientDriver)
        return driver == 0
                   ? "there is no NVIDIA driver on this machine"
                   : fmt::format(
                         "the NVIDIA driver is for CUDA up to {}, and this program was built with CUDA {}: a newer "
                         "driver or a build with an older toolkit would do",
                         version(driver), version(CUDART_VERSION));
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
        return "there is no NVIDIA GPU on this machine";
    if (status != cudaSuccess)
        return fmt::format("CUDA: {} ({})", cudaGetErrorName(status), cudaGetErrorString(status));
    if (index < 0 || index >= count) return fmt::format("there is no GPU number {}, only 0 to {}", index, count - 1);
    cudaDeviceProp gpu;
    CUDA_RUN(cudaGetDeviceProperties(&gpu, index));
    if (gpu.major < 8)
        return fmt::format("{} has compute capability {}.{}, and the kernels need 8.0 (A100, RTX 30) or newer",
                           gpu.name, gpu.major, gpu.minor);
    return "";
}

static int64_t free_bytes() {
    size_t free = 0, total = 0;
    CUDA_RUN(cudaMemGetInfo(&free, &total));
    return int64_t(free);
}

static void* allocate(int64_t bytes) {  // null when there is no such memory
    void* p                  = nullptr;
    const cudaError_t status = cudaMalloc(&p, size_t(bytes));
    if (status != cudaErrorMemoryAllocation) CUDA_RUN(status);
    cudaGetLastError();  // this one is answered for
    return p;
}

}  // namespace gpu
// ON_GPU(s, call): returns call when s is a stream of a GPU.
#define ON_GPU(s, ...) \
    if ((s).where == Machine::cuda) return __VA_ARGS__
#else
#define ON_GPU(s, ...) (void)(s)
#endif

Device::Device(const std::string& kind, int index, int threads, bool sync_each) {
    CHECK(kind == "auto" || kind == "cpu" || kind == "cuda", "--device {}: expected auto, cpu or cuda", kind);
    CHECK(threads >= 0 && threads <= 4096, "--threads {}: expected 0 (one per core) up to 4096", threads);
    threads_ = threads ? threads : int(std::max(1, omp_get_num_procs()));
    omp_set_num_threads(threads_);
    name_ = cpu_name();
    if (kind != "cpu") use_gpu(index, sync_each, kind == "cuda");
    CHECK(where() == Machine::cuda || index == 0, "there is one CPU device, number 0, not {}", index);
}

#ifdef __CUDACC__
void Device::use_gpu(int index, bool sync_each, bool insist) {
    const std::string obstacle = gpu::obstacle(index);
    CHECK_RUN(obstacle.empty() || !insist, "--device cuda: {}; --device cpu runs on the CPU", obstacle);
    if (!obstacle.empty()) return fmt::print(stderr, "--device auto: {}; running on the CPU\n", obstacle);
    const auto queue = std::make_shared<gpu::Queue>(index, sync_each);
    queue_           = queue;
    stream_          = {Machine::cuda, queue.get()};
    name_            = queue->limits.name;
}
#else
void Device::use_gpu(int, bool, bool insist) {
    CHECK(!insist, "--device cuda: this binary was built without its CUDA half; use --device cpu");
}
#endif

Device::~Device() = default;

void let_idle_threads_sleep(char** argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "3000", 1);
    execv("/proc/self/exe", argv);  // returns only where there is no /proc; then threads spin
}

bool Device::fast_bf16() const {
    ON_GPU(stream_, true);
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

int64_t Device::free_bytes() const {
    ON_GPU(stream_, gpu::free_bytes());
    return available_memory();
}

// The rate of one well-shaped product, a square against a square, the best of five. 1024 keeps a CPU busy for
// milliseconds; on a GPU the squares grow until a product takes a millisecond, so that the time to start it does not
// count. Not of zeros: a GPU takes less power for them and clocks higher.
double Device::peak_flops(DType t) const {
    double& rate = peak_[t];
    if (rate > 0) return rate;
    std::vector<float> tile(1 << 20);
    for (uint32_t i = 0; i < tile.size(); i++) tile[i] = float(int32_t(i * 2654435761u)) * 0x1p-31f;
    const auto fill = [&](Tensor square) {
        const Tensor tiles = square.view({square.numel() >> 20, 1 << 20});
        for (int64_t i = 0; i < tiles.shape[0]; i++) from_host(tiles.rows(i, 1).view({1 << 20}), tile, stream_);
    };
    for (int64_t n = 1024; n <= 8192; n *= 2) {
        Arena arena("peak measurement");
        for (int i = 0; i < 3; i++) arena.plan({n, n}, t);
        arena.allocate(*this);
        const Tensor x = arena.take({n, n}, t), w = arena.take({n, n}, t), y = arena.take({n, n}, t);
        fill(x);
        fill(w);
        double best = 1e30;
        for (int i = 0; i < 6; i++) {
            sync(stream_);
            const auto start = std::chrono::steady_clock::now();
            matmul_forward(y, x, w, Tensor{}, stream_);
            sync(stream_);
            const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
            if (i > 0) best = std::min(best, seconds.count());  // the first run builds the kernel
        }
        rate = 2.0 * n * n * n / best;
        if (where() == Machine::cpu || best > 1e-3) break;
    }
    return rate;
}

// ---- memory -------------------------------------------------------------------------------------------------------

static std::string gib(int64_t bytes) { return fmt::format("{:.2f} GiB", double(bytes) / (1 << 30)); }

// On the CPU straight from the kernel, in huge pages where it can. The first page holds the size for release().
static constexpr int64_t page = 4096;

void* Device::allocate(int64_t bytes) const {
    const int64_t available = free_bytes();
#ifdef __CUDACC__
    if (where() == Machine::cuda) {
        void* p = gpu::allocate(bytes);
        CHECK_RUN(p, "out of memory on {}: {} wanted, {} free; a smaller --batch or --context takes less", name_,
                  gib(bytes), gib(available));
        return p;
    }
#endif
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
    ON_GPU(stream_, void(cudaFree(p)));  // at the end of a program that failed it cannot succeed
    char* base = static_cast<char*>(p) - page;
    munmap(base, *reinterpret_cast<int64_t*>(base));
}

void Device::reserve_scratch(int64_t bytes) const {
    ON_GPU(stream_, void(gpu::queue_of(stream_).scratch(bytes)));
    (void)bytes;
}

// ---- bytes sent ahead, work recorded once -------------------------------------------------------------------------

Feed::Feed(const Device& device, int64_t bytes) : device_(device), bytes_(bytes), arrived_(device.allocate(bytes)) {
#ifdef __CUDACC__
    if (device.where() == Machine::cuda) {
        gpu_ = std::make_shared<gpu::Feed>(gpu::queue_of(device.stream()), bytes);
        return;
    }
#endif
    host_.resize(size_t(bytes));
}
Feed::~Feed() {
    gpu_.reset();
    device_.release(arrived_);
}
void* Feed::outgoing() {
    ON_GPU(device_.stream(), gpu_->outgoing());
    return host_.data();
}
void Feed::send() { ON_GPU(device_.stream(), gpu_->send()); }
void Feed::arrive() {
    ON_GPU(device_.stream(), gpu_->arrive(arrived_));
    std::memcpy(arrived_, host_.data(), size_t(bytes_));
}

Graph::Graph(const Device& device, bool record) {
    if (!record) return;
    CHECK(device.where() == Machine::cuda, "--graph: CUDA graphs are for --device cuda; this run is on {}",
          device.name());
#ifdef __CUDACC__
    gpu::Queue& queue = gpu::queue_of(device.stream());
    CHECK(!queue.sync_each(), "--graph and --sync: a graph is one launch, with nothing to wait for inside; give one");
    recording_ = std::make_shared<gpu::Recording>(queue);
#endif
}
Graph::~Graph() = default;
void Graph::run(const std::function<void()>& work) {
#ifdef __CUDACC__
    if (recording_) return recording_->run(work);
#endif
    work();
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
        if (device.where() == Machine::cuda)  // fresh pages of the CPU are zero already
            zero(Tensor{base_, DType::BF16, {std::max<int64_t>(planned_, 64) / 2}}, device.stream());
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

// ---- moving bytes -------------------------------------------------------------------------------------------------

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

#ifdef __CUDACC__
namespace gpu {
template <int W, class To, class From>
static __global__ void convert_kernel(To* out, const From* in, int64_t n) {
    for_grid<W>(n, [=](int64_t i, auto width) { store<width>(out + i, load<width>(in + i)); });
}
template <class To, class From>
static void convert(Tensor dst, Tensor src, Queue& q) {
    To* const out  = dst.data<To>();
    const From* in = src.data<From>();
    for_width<float>(aligned(out, in), [&](auto width) {  // 4 at a time: 16 bytes of floats on one side, 8 on the other
        launch(convert_kernel<width, To, From>, grid_over(src.numel(), width), q, out, in, src.numel());
    });
}
static void copy(Tensor dst, Tensor src, Queue& q) {
    if (dst.dtype == src.dtype)
        return CUDA_RUN(cudaMemcpyAsync(dst.ptr, src.ptr, size_t(src.bytes()), cudaMemcpyDeviceToDevice, q.stream));
    if (dst.dtype == DType::BF16) return convert<bf16, float>(dst, src, q);
    return convert<float, bf16>(dst, src, q);
}
static void zero(Tensor t, Queue& q) { CUDA_RUN(cudaMemsetAsync(t.ptr, 0, size_t(t.bytes()), q.stream)); }
}  // namespace gpu
#endif

void copy(Tensor dst, Tensor src, Stream s) {
    CHECK(dst && src && dst.shape == src.shape, "copy: {} into {}", src.str(), dst.str());
    ON_GPU(s, gpu::copy(dst, src, gpu::Op(s, "copy")));
    if (dst.dtype == src.dtype) return cpu::move_bytes(dst.ptr, src.ptr, src.bytes());
    if (dst.dtype == DType::BF16) return cpu::convert<bf16, float>(dst, src);
    return cpu::convert<float, bf16>(dst, src);
}

void zero(Tensor t, Stream s) {
    ON_GPU(s, gpu::zero(t, gpu::Op(s, "zero")));
    cpu::parallel_ranges(t.bytes(), 1 << 20, [=](int64_t begin, int64_t end) {
        std::memset(static_cast<char*>(t.ptr) + begin, 0, end - begin);
    });
}

void sync(Stream s) { ON_GPU(s, gpu::queue_of(s).wait()); }

void to_host(void* dst, Tensor src, Stream s) {
    ON_GPU(s, gpu::queue_of(s).download(dst, src.ptr, src.bytes()));
    std::memcpy(dst, src.ptr, src.bytes());
}

void from_host(Tensor dst, const void* src, Stream s) {
    ON_GPU(s, gpu::queue_of(s).upload(dst.ptr, src, dst.bytes()));
    std::memcpy(dst.ptr, src, dst.bytes());
}

void from_host(Tensor dst, const std::vector<float>& src, Stream s) {
    CHECK(int64_t(src.size()) == dst.numel(), "from_host: {} values for {}", src.size(), dst.str());
    const Tensor values{const_cast<float*>(src.data()), DType::F32, dst.shape};
    if (s.where == Machine::cpu) return copy(dst, values, s);
    if (dst.dtype == DType::F32) return from_host(dst, values.ptr, s);
    std::vector<bf16> rounded(src.size());
    copy(Tensor{rounded.data(), DType::BF16, dst.shape}, values, Stream{});
    from_host(dst, rounded.data(), s);
}

std::vector<float> floats_of(Tensor src, Stream s) {
    std::vector<float> values(src.numel());
    const Tensor dst{values.data(), DType::F32, src.shape};
    if (s.where == Machine::cpu) {
        copy(dst, src, s);
    } else if (src.dtype == DType::F32) {
        to_host(values.data(), src, s);
    } else {
        std::vector<char> stored(src.bytes());
        to_host(stored.data(), src, s);
        copy(dst, Tensor{stored.data(), src.dtype, src.shape}, Stream{});
    }
    return values;
}
