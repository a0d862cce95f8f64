// device.cu - see device.h
#include "device.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "cpu.h"
#include "threads.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// ---- the machine ----------------------------------------------------------------------------------------------------

static std::string cpu_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
        if (line.rfind("model name", 0) == 0 && line.find(": ") != line.npos) return line.substr(line.find(": ") + 2);
    return "CPU";
}

// Returns the memory that may still be taken: what Linux says, or less where the control groups allow less.
static int64_t available_memory() {
    int64_t available = int64_t(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    std::ifstream info("/proc/meminfo");
    for (std::string key, rest; info >> key && std::getline(info, rest);)
        if (key == "MemAvailable:") available = std::stoll(rest) * 1024;
    return std::min(available, host::memory_of_control_group());
}

#ifdef __CUDACC__
namespace gpu {

// Returns why GPU number `index` cannot be used, or nothing when it can.
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

static void* allocate(int64_t bytes, Memory memory) {  // null when there is no such memory
    void* p = nullptr;
    const cudaError_t status =
        memory == Memory::host ? cudaMallocHost(&p, size_t(bytes)) : cudaMalloc(&p, size_t(bytes));
    if (status != cudaErrorMemoryAllocation) CUDA_RUN(status);
    cudaGetLastError();  // clears the error, which the caller handles
    return p;
}

// Statuses are not looked at: after an error this may fail as well, which is harmless.
static void release(void* p) {
    cudaPointerAttributes place{};
    cudaPointerGetAttributes(&place, p);
    place.type == cudaMemoryTypeHost ? cudaFreeHost(p) : cudaFree(p);
}

}  // namespace gpu
// ON_GPU(s, call): returns call when s is a stream of a GPU.
#define ON_GPU(s, ...) \
    if ((s).where == Machine::cuda) return __VA_ARGS__
#else
#define ON_GPU(s, ...) (void)(s)
#endif

Device::Device(const std::string& kind, int index, int threads, bool sync_each) {
    CHECK(kind == "auto" || kind == "cpu" || kind == "cuda", "the device is {}, expected auto, cpu or cuda", kind);
    CHECK(threads >= 0 && threads <= most_cpu_threads, "{} CPU threads, expected 1 to {}, or 0 for one per core",
          threads, most_cpu_threads);
    threads_ = threads ? threads : host::usable_cores();
    omp_set_num_threads(threads_);
    name_ = cpu_name();
    if (host::cpu_level()) name_ += fmt::format(", x86-64-v{} kernels", host::cpu_level());
    if (kind != "cpu") use_gpu(index, sync_each, kind == "cuda");
    CHECK(where() == Machine::cuda || index == 0 || kind == "auto", "there is one CPU device, number 0, not {}", index);
}

#ifdef __CUDACC__
void Device::use_gpu(int index, bool sync_each, bool insist) {
    const std::string obstacle = gpu::obstacle(index);
    CHECK_RUN(obstacle.empty() || !insist, "no GPU can be used: {}", obstacle);
    if (!obstacle.empty()) return void(no_gpu_ = "no GPU is used: " + obstacle + "; running on the CPU");
    const auto queue = std::make_shared<gpu::Queue>(index, sync_each);
    queue_           = queue;
    stream_          = {Machine::cuda, queue.get()};
    name_            = queue->limits.name;
}
#else
void Device::use_gpu(int, bool, bool insist) {
    const std::string obstacle = host::use_cuda_half();
    CHECK(!insist, "no GPU can be used: {}", obstacle);
    if (host::has_nvidia_driver()) no_gpu_ = "no GPU is used: " + obstacle + "; running on the CPU";
}
#endif

Device::~Device() = default;

void Device::use_tf32() const {
    CHECK(where() == Machine::cuda, "--tf32: TF32 is a format of GPUs, and {} is none", name_);
#ifdef __CUDACC__
    gpu::queue_of(stream_).tf32 = true;
#endif
}

bool Device::has_hopper_attention() const {
    ON_GPU(stream_, gpu::has_hopper_attention(gpu::queue_of(stream_)));
    return false;
}
void Device::use_attention(AttentionKernels which) const {
    CHECK(which != AttentionKernels::hopper || has_hopper_attention(),
          "--attention hopper is for GPUs of compute capability 9.0, such as the H100, and a build for them (make "
          "ARCH=90); {} cannot run it",
          name_);
#ifdef __CUDACC__
    if (where() == Machine::cuda) gpu::queue_of(stream_).attention = which;
#endif
}

void Device::allow_early_launches([[maybe_unused]] bool allowed) const {
#ifdef __CUDACC__
    if (where() == Machine::cuda) gpu::queue_of(stream_).may_launch_early = allowed;
#endif
}

bool Device::fast_bf16() const {
    ON_GPU(stream_, true);
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16") && (host::cpu_level() == 0 || host::cpu_level() == 4);
#else
    return false;
#endif
}

bool Device::has_graphs() const {
    ON_GPU(stream_, !gpu::queue_of(stream_).sync_each());
    return false;
}

int64_t Device::free_bytes() const {
    ON_GPU(stream_, gpu::free_bytes());
    return available_memory();
}

// ---- memory ---------------------------------------------------------------------------------------------------------

// On the CPU memory comes from mmap(), in huge pages where that is possible. The first page holds the size for
// release().
static constexpr int64_t page = 4096;

void* Device::allocate(int64_t bytes, [[maybe_unused]] Memory memory) const {
    const int64_t available = memory == Memory::host ? available_memory() : free_bytes();
#ifdef __CUDACC__
    if (where() == Machine::cuda) {
        void* p = memory == Memory::host && bytes >= available ? nullptr : gpu::allocate(bytes, memory);
        CHECK_RUN(p, "out of memory on {}: {} wanted, {} free; a smaller batch or context takes less",
                  memory == Memory::host ? "the host" : name_, gibibytes(bytes), gibibytes(available));
        return p;
    }
#endif
    CHECK_RUN(bytes < available, "out of memory: {} wanted, {} free; a smaller batch or context takes less",
              gibibytes(bytes), gibibytes(available));
    void* base = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_RUN(base != MAP_FAILED, "out of memory: {} wanted, {} free: {}", gibibytes(bytes), gibibytes(available),
              os_error());
    madvise(base, bytes + page, MADV_HUGEPAGE);
    *static_cast<int64_t*>(base) = bytes + page;
    return static_cast<char*>(base) + page;
}

void Device::release(void* p) const {
    if (!p) return;
    ON_GPU(stream_, gpu::release(p));
    char* base = static_cast<char*>(p) - page;
    munmap(base, *reinterpret_cast<int64_t*>(base));
}

void Device::reserve_scratch(int64_t bytes) const {
    ON_GPU(stream_, void(gpu::queue_of(stream_).reserve_scratch(bytes)));
    (void)bytes;
}

// ---- copies ---------------------------------------------------------------------------------------------------------

// Calls f with the types of two different dtypes that ops compute in.
template <class F>
static void for_conversion(DType to, DType from, F f) {
    for_dtype(to, [&](auto to_tag) {
        for_dtype(from, [&](auto from_tag) {
            if constexpr (!std::is_same_v<decltype(to_tag), decltype(from_tag)>) f(to_tag, from_tag);
        });
    });
}

namespace cpu {
template <class To, class From>
static void convert(Tensor dst, Tensor src) {
    To* out        = dst.data<To>();
    const From* in = src.data<From>();
    parallel_lanes(dst.numel(), [=](int64_t i, auto n) { store(out + i, load(in + i, n), n); });
}
static void copy(Tensor dst, Tensor src) {
    if (dst.dtype == src.dtype)
        return parallel_ranges(src.bytes(), 1 << 16, [=](int64_t begin, int64_t end) {
            std::memcpy(static_cast<char*>(dst.ptr) + begin, static_cast<const char*>(src.ptr) + begin, end - begin);
        });
    for_conversion(dst.dtype, src.dtype, [&](auto to, auto from) {
        convert<typename decltype(to)::type, typename decltype(from)::type>(dst, src);
    });
}
static void zero(Tensor t) {
    parallel_ranges(t.bytes(), 1 << 20, [=](int64_t begin, int64_t end) {
        std::memset(static_cast<char*>(t.ptr) + begin, 0, end - begin);
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
    for_width<float>(aligned(out, in), [&](auto width) {  // 4 elements: 16 bytes on the fp32 side
        launch(convert_kernel<width, To, From>, grid_over(src.numel(), width), q, out, in, src.numel());
    });
}
static void copy(Tensor dst, Tensor src, Queue& q) {
    if (dst.dtype == src.dtype)
        return CUDA_RUN(cudaMemcpyAsync(dst.ptr, src.ptr, size_t(src.bytes()), cudaMemcpyDefault, q.stream));
    for_conversion(dst.dtype, src.dtype, [&](auto to, auto from) {
        convert<typename decltype(to)::type, typename decltype(from)::type>(dst, src, q);
    });
}
static void zero(Tensor t, Queue& q) { CUDA_RUN(cudaMemsetAsync(t.ptr, 0, size_t(t.bytes()), q.stream)); }
}  // namespace gpu
#endif

void copy(Tensor dst, Tensor src, Stream s) {
    CHECK_CALL(dst && src && dst.shape == src.shape, "copy: {} into {}", src.str(), dst.str());
    RUN_UNTYPED(s, copy, dst, src);
}

void zero(Tensor t, Stream s) { RUN_UNTYPED(s, zero, t); }

void sync(Stream s) { ON_GPU(s, gpu::queue_of(s).wait()); }

void wait_for(Event e, Stream s) {
    if (e) ON_GPU(s, CUDA_RUN(cudaStreamWaitEvent(gpu::queue_of(s).stream, static_cast<cudaEvent_t>(e.handle), 0)));
}

void to_host(void* dst, Tensor src, Stream s) {
    ON_GPU(s, gpu::queue_of(s).download(dst, src.ptr, src.bytes()));
    std::memcpy(dst, src.ptr, src.bytes());
}

void from_host(Tensor dst, const Fill& fill, Stream s) {
    ON_GPU(s, gpu::queue_of(s).upload(dst, fill));
    if (dst.numel()) fill(dst.ptr, 0, dst.numel());
}

// Fills with a part of a tensor in host memory, rounded to the dtype of the result.
static Fill part_of(Tensor src, DType dtype) {
    return [=](void* out, int64_t first, int64_t count) {
        const Tensor part{static_cast<char*>(src.ptr) + first * size_of(src.dtype), src.dtype, {count}};
        cpu::copy(Tensor{out, dtype, {count}}, part);
    };
}

void from_host(Tensor dst, const void* src, Stream s) {
    from_host(dst, part_of(Tensor{const_cast<void*>(src), dst.dtype, dst.shape}, dst.dtype), s);
}

void from_host(Tensor dst, const std::vector<float>& src, Stream s) {
    CHECK_CALL(int64_t(src.size()) == dst.numel(), "from_host: {} values for {}", src.size(), dst.str());
    from_host(dst, part_of(Tensor{const_cast<float*>(src.data()), DType::F32, dst.shape}, dst.dtype), s);
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
