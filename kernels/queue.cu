// queue.cu - the CUDA stream behind a Device: launches looked at, ids checked, bytes brought to the GPU
#ifdef __CUDACC__
#include "gpu.cuh"

namespace gpu {

constexpr int64_t slot_bytes = 1 << 20;
constexpr size_t slot_count  = 8;  // the host runs at most so many copies ahead of the GPU

Queue::Queue(int index, bool sync_each) : index_(index), sync_each_(sync_each) {
    CUDA_RUN(cudaSetDevice(index_));
    CUDA_RUN(cudaGetDeviceProperties(&limits, index_));
    CUDA_RUN(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_RUN(cudaMalloc(&bad, sizeof(BadId)));
    CUDA_RUN(cudaMemsetAsync(bad, 0, sizeof(BadId), stream));
    CUDA_RUN(cudaMallocHost(&heard_, sizeof(Heard)));
    slots_.resize(slot_count);
    for (Slot& s : slots_) {
        CUDA_RUN(cudaMallocHost(&s.memory, slot_bytes));
        CUDA_RUN(cudaEventCreateWithFlags(&s.gone, cudaEventDisableTiming));
    }
}

// Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
Queue::~Queue() {
    cudaStreamSynchronize(stream);
    products.reset();
    for (Slot& s : slots_) {
        cudaEventDestroy(s.gone);
        cudaFreeHost(s.memory);
    }
    cudaFree(scratch_);
    cudaFree(bad);
    cudaFreeHost(heard_);
    cudaStreamDestroy(stream);
}

void* Queue::scratch(int64_t bytes) {
    if (bytes <= scratch_bytes_) return scratch_;
    wait();
    CUDA_RUN(cudaFree(scratch_));
    scratch_       = nullptr;
    scratch_bytes_ = 0;
    CUDA_RUN(cudaMalloc(&scratch_, size_t(bytes)));
    scratch_bytes_ = bytes;
    return scratch_;
}

cudaError_t Queue::fault() {
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess && sync_each_ ? cudaStreamSynchronize(stream) : status;
}

void Queue::launched(const Grid& g) {
    const cudaError_t status = fault();
    if (status == cudaSuccess) return;
    throw_at<RunError>(g.file, g.line,
                       "{}: CUDA: {} ({}) in a kernel of {} blocks × {} threads, {} bytes of shared memory", op,
                       cudaGetErrorName(status), cudaGetErrorString(status), g.blocks, g.threads, g.shared);
}

void Queue::upload(void* dst, const void* src, int64_t bytes) {
    for (int64_t done = 0; done < bytes; done += slot_bytes) {
        const int64_t part = std::min(slot_bytes, bytes - done);
        Slot& slot         = slots_[next_slot_++ % slot_count];
        CUDA_RUN(cudaEventSynchronize(slot.gone));
        std::memcpy(slot.memory, static_cast<const char*>(src) + done, part);
        CUDA_RUN(cudaMemcpyAsync(static_cast<char*>(dst) + done, slot.memory, part, cudaMemcpyHostToDevice, stream));
        CUDA_RUN(cudaEventRecord(slot.gone, stream));
    }
}

void Queue::download(void* dst, const void* src, int64_t bytes) {
    const bool few = bytes <= int64_t(sizeof heard_->bytes);
    CUDA_RUN(cudaMemcpyAsync(few ? heard_->bytes : dst, src, size_t(bytes), cudaMemcpyDeviceToHost, stream));
    wait();
    if (few) std::memcpy(dst, heard_->bytes, size_t(bytes));
}

void Queue::wait() {
    CUDA_RUN(cudaMemcpyAsync(&heard_->bad, bad, sizeof(BadId), cudaMemcpyDeviceToHost, stream));
    const cudaError_t status = cudaStreamSynchronize(stream);
    if (status != cudaSuccess)
        throw_at<RunError>(__FILE__, __LINE__,
                           "CUDA: {} ({}) in one of the ops up to {}; run again with --sync to learn in which",
                           cudaGetErrorName(status), cudaGetErrorString(status), op);
    if (ready(&heard_->bad)) return;
    const BadId found  = heard_->bad;
    const IdRule& rule = rules_[found.rule - 1];
    CUDA_RUN(cudaMemsetAsync(bad, 0, sizeof(BadId), stream));
    throw_at<InputError>(rule.file, rule.line, "{}", rule.text(rule.op, found.at, rule.columns, found.id, rule.limit));
}

// One block: a few tens of thousands of ids are read in microseconds, and the first bad one is found without atomics.
static __global__ void check_ids_kernel(BadId* bad, int rule, const int32_t* ids, int64_t n, int64_t low,
                                        int64_t limit) {
    __shared__ int64_t firsts[32];
    int64_t first    = n;
    const bool asked = ready(bad);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        if ((ids[i] < low || ids[i] >= limit) && i < first) first = i;
    for (int w = 16; w; w /= 2) first = min(first, __shfl_xor_sync(~0u, first, w));
    if (threadIdx.x % 32 == 0) firsts[threadIdx.x / 32] = first;
    __syncthreads();
    if (threadIdx.x != 0 || !asked) return;
    for (int warp = 1; warp < int(blockDim.x / 32); warp++) first = min(first, firsts[warp]);
    if (first < n) *bad = {rule, ids[first], first};
}

void Queue::expect_ids(Tensor ids, int64_t low, const IdRule& rule) {
    size_t known = 0;
    for (; known < rules_.size(); known++) {
        const IdRule& r = rules_[known];
        if (r.text == rule.text && r.op == rule.op && r.columns == rule.columns && r.limit == rule.limit) break;
    }
    if (known == rules_.size()) rules_.push_back(rule);
    launch(check_ids_kernel, {1, 1024, 0, rule.file, rule.line}, *this, bad, int(known + 1), ids.data<int32_t>(),
           ids.numel(), low, rule.limit);
    if (sync_each_) wait();
}

// ---- bytes sent ahead -----------------------------------------------------------------------------------------------

Feed::Feed(Queue& q, int64_t bytes) : queue_(q), bytes_(size_t(bytes)) {
    CUDA_RUN(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Buffer& b : buffers_) {
        CUDA_RUN(cudaMallocHost(&b.memory, bytes_));
        CUDA_RUN(cudaEventCreateWithFlags(&b.gone, cudaEventDisableTiming));
    }
    CUDA_RUN(cudaMalloc(&landed_, bytes_));
    CUDA_RUN(cudaEventCreateWithFlags(&taken_, cudaEventDisableTiming));
}

Feed::~Feed() {
    cudaStreamSynchronize(stream_);
    cudaStreamSynchronize(queue_.stream);
    for (Buffer& b : buffers_) {
        cudaEventDestroy(b.gone);
        cudaFreeHost(b.memory);
    }
    cudaFree(landed_);
    cudaEventDestroy(taken_);
    cudaStreamDestroy(stream_);
}

// In a training loop the buffer's last copy ended with the step before last, so nothing is waited for.
void* Feed::outgoing() {
    const Buffer& b          = buffers_[turn_];
    const cudaError_t status = cudaEventQuery(b.gone);
    if (status != cudaErrorNotReady)
        CUDA_RUN(status);
    else {
        cudaGetLastError();  // it is no error
        CUDA_RUN(cudaEventSynchronize(b.gone));
    }
    return b.memory;
}

void Feed::send() {
    const Buffer& b = buffers_[turn_];
    CUDA_RUN(cudaStreamWaitEvent(stream_, taken_, 0));
    CUDA_RUN(cudaMemcpyAsync(landed_, b.memory, bytes_, cudaMemcpyHostToDevice, stream_));
    CUDA_RUN(cudaEventRecord(b.gone, stream_));
    turn_ ^= 1;
}

void Feed::arrive(void* to) {
    CUDA_RUN(cudaStreamWaitEvent(queue_.stream, buffers_[turn_ ^ 1].gone, 0));
    CUDA_RUN(cudaMemcpyAsync(to, landed_, bytes_, cudaMemcpyDeviceToDevice, queue_.stream));
    CUDA_RUN(cudaEventRecord(taken_, queue_.stream));
}

// ---- work recorded once ---------------------------------------------------------------------------------------------

// The first time finds out how much scratch memory the work needs and which products it has, and neither can be done
// while recording. A graph holds addresses, so it is recorded again when other work made the scratch memory move.
void Recording::run(const std::function<void()>& work) {
    if (!ran_) {
        work();
        ran_ = true;
        return;
    }
    if (!graph_ || scratch_ != queue_.scratch_now()) record(work);
    CUDA_RUN(cudaGraphLaunch(graph_, queue_.stream));
}

void Recording::record(const std::function<void()>& work) {
    if (graph_) CUDA_RUN(cudaGraphExecDestroy(graph_));
    graph_            = nullptr;
    cudaGraph_t graph = nullptr;
    CUDA_RUN(cudaStreamBeginCapture(queue_.stream, cudaStreamCaptureModeThreadLocal));
    try {
        work();
    } catch (...) {
        cudaStreamEndCapture(queue_.stream, &graph);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();  // of an end without a whole graph: what was thrown says more
        throw;
    }
    CUDA_RUN(cudaStreamEndCapture(queue_.stream, &graph));
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    CUDA_RUN(cudaGraphDestroy(graph));
    CUDA_RUN(status);
    scratch_ = queue_.scratch_now();
}

}  // namespace gpu
#endif
