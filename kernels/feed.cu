// feed.cu - see feed.h
#include "feed.h"

#include <algorithm>

#ifdef __CUDACC__
#include "queue.cuh"

namespace gpu {

// The GPU's side of a Feed. The host writes into pinned memory, and a stream of its own copies that to `landed_`.
// arrive() copies it on to its fixed address once the step before has stopped reading there. There are two pinned
// buffers, so that the host may write the next bytes while a copy is under way.
class Upload {
  public:
    Upload(Queue& q, int64_t bytes) : queue_(q), bytes_(size_t(bytes)) {
        CUDA_RUN(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        for (Buffer& b : buffers_) {
            CUDA_RUN(cudaMallocHost(&b.memory, bytes_));
            CUDA_RUN(cudaEventCreateWithFlags(&b.copied, cudaEventDisableTiming));
        }
        CUDA_RUN(cudaMalloc(&landed_, bytes_));
        CUDA_RUN(cudaEventCreateWithFlags(&taken_, cudaEventDisableTiming));
    }
    // Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
    ~Upload() {
        cudaStreamSynchronize(stream_);
        cudaStreamSynchronize(queue_.stream);
        for (Buffer& b : buffers_) {
            cudaEventDestroy(b.copied);
            cudaFreeHost(b.memory);
        }
        cudaFree(landed_);
        cudaEventDestroy(taken_);
        cudaStreamDestroy(stream_);
    }
    Upload(const Upload&)            = delete;
    Upload& operator=(const Upload&) = delete;

    // The buffer was sent two send()s ago. In a training loop that copy has ended, so this does not wait. It asks
    // first, so that a trace shows whether it had to wait.
    void* outgoing() {
        const Buffer& b          = buffers_[turn_];
        const cudaError_t status = cudaEventQuery(b.copied);
        if (status == cudaErrorNotReady) {
            cudaGetLastError();  // clears it, because a copy under way is no error
            CUDA_RUN(cudaEventSynchronize(b.copied));
        } else {
            CUDA_RUN(status);
        }
        return b.memory;
    }

    void send() {
        const Buffer& b = buffers_[turn_];
        CUDA_RUN(cudaStreamWaitEvent(stream_, taken_, 0));
        CUDA_RUN(cudaMemcpyAsync(landed_, b.memory, bytes_, cudaMemcpyHostToDevice, stream_));
        CUDA_RUN(cudaEventRecord(b.copied, stream_));
        turn_ ^= 1;
    }

    void arrive(void* to) {
        CUDA_RUN(cudaStreamWaitEvent(queue_.stream, buffers_[turn_ ^ 1].copied, 0));
        CUDA_RUN(cudaMemcpyAsync(to, landed_, bytes_, cudaMemcpyDeviceToDevice, queue_.stream));
        CUDA_RUN(cudaEventRecord(taken_, queue_.stream));
    }

  private:
    struct Buffer {
        void* memory       = nullptr;
        cudaEvent_t copied = nullptr;  // the buffer may be written again
    };
    Queue& queue_;
    size_t bytes_;
    cudaStream_t stream_ = nullptr;
    Buffer buffers_[2];
    int turn_          = 0;
    void* landed_      = nullptr;
    cudaEvent_t taken_ = nullptr;  // landed_ may be written again
};

// The GPU's side of Answers: two buffers of pinned memory, each with what the queue then knew of bad ids.
class Downloads {
  public:
    Downloads(Queue& q, int64_t bytes) : queue_(q), bytes_(size_t(bytes)) {
        for (Buffer& b : buffers_) {
            CUDA_RUN(cudaMallocHost(&b.memory, bytes_));
            CUDA_RUN(cudaMallocHost(&b.bad, sizeof(BadId)));
            CUDA_RUN(cudaEventCreateWithFlags(&b.copied, cudaEventDisableTiming));
        }
    }
    // Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
    ~Downloads() {
        cudaStreamSynchronize(queue_.stream);
        for (Buffer& b : buffers_) {
            cudaEventDestroy(b.copied);
            cudaFreeHost(b.memory);
            cudaFreeHost(b.bad);
        }
    }
    Downloads(const Downloads&)            = delete;
    Downloads& operator=(const Downloads&) = delete;

    void ask(int which, const void* src) {
        const Buffer& b = buffers_[which];
        CUDA_RUN(cudaMemcpyAsync(b.memory, src, bytes_, cudaMemcpyDeviceToHost, queue_.stream));
        CUDA_RUN(cudaMemcpyAsync(b.bad, queue_.bad, sizeof(BadId), cudaMemcpyDeviceToHost, queue_.stream));
        CUDA_RUN(cudaEventRecord(b.copied, queue_.stream));
    }
    const void* answer(int which) {
        const Buffer& b = buffers_[which];
        queue_.expect_success(cudaEventSynchronize(b.copied), *b.bad);
        return b.memory;
    }

  private:
    struct Buffer {
        void* memory       = nullptr;
        BadId* bad         = nullptr;
        cudaEvent_t copied = nullptr;
    };
    Queue& queue_;
    size_t bytes_;
    Buffer buffers_[2];
};

// Graphs take early launches from CUDA 12.3 on.
static bool has_early_launches(const Queue& q) {
    int driver = 0, runtime = 0;
    CUDA_RUN(cudaDriverGetVersion(&driver));
    CUDA_RUN(cudaRuntimeGetVersion(&runtime));
    return q.may_launch_early && q.limits.major >= 9 && std::min(driver, runtime) >= 12030;
}

// The CUDA graph behind a Graph. The first run finds out how much scratch memory the work needs and which algorithms
// its products take, and neither can be done while recording. A graph holds addresses, so it is recorded again when
// other work has moved the scratch memory.
class Recording {
  public:
    Recording(Queue& q, bool early) : queue_(q), early_(early && has_early_launches(q)) {}
    ~Recording() {
        if (graph_) cudaGraphExecDestroy(graph_);  // With null it fails, and the next launch would report the error.
    }
    Recording(const Recording&)            = delete;
    Recording& operator=(const Recording&) = delete;

    void run(const std::function<void()>& work) {
        if (!ran_) {
            work();
            ran_ = true;
            return;
        }
        if (!graph_ || scratch_ != queue_.scratch_now()) record(work);
        CUDA_RUN(cudaGraphLaunch(graph_, queue_.stream));
    }

  private:
    void record(const std::function<void()>& work) {
        if (graph_) CUDA_RUN(cudaGraphExecDestroy(graph_));
        graph_            = nullptr;
        cudaGraph_t graph = nullptr;
        CUDA_RUN(cudaStreamBeginCapture(queue_.stream, cudaStreamCaptureModeThreadLocal));
        queue_.launches_early = early_;
        try {
            work();
        } catch (...) {
            queue_.launches_early = false;
            cudaStreamEndCapture(queue_.stream, &graph);
            if (graph) cudaGraphDestroy(graph);
            cudaGetLastError();  // clears the error of the aborted capture
            throw;
        }
        queue_.launches_early = false;
        CUDA_RUN(cudaStreamEndCapture(queue_.stream, &graph));
        const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
        CUDA_RUN(cudaGraphDestroy(graph));
        CUDA_RUN(status);
        scratch_ = queue_.scratch_now();
    }

    Queue& queue_;
    bool early_;
    cudaGraphExec_t graph_ = nullptr;
    const void* scratch_   = nullptr;  // the address of the scratch memory when the graph was recorded
    bool ran_              = false;
};

}  // namespace gpu
#endif

Feed::Feed(const Device& device, int64_t bytes) : device_(device), bytes_(bytes), arrived_(device.allocate(bytes)) {
#ifdef __CUDACC__
    if (device.where() == Machine::cuda) {
        upload_ = std::make_shared<gpu::Upload>(gpu::queue_of(device.stream()), bytes);
        return;
    }
#endif
    outgoing_.resize(size_t(bytes));
}
Feed::~Feed() {
    upload_.reset();
    device_.release(arrived_);
}
void* Feed::outgoing() {
#ifdef __CUDACC__
    if (upload_) return upload_->outgoing();
#endif
    return outgoing_.data();
}
void Feed::send() {
#ifdef __CUDACC__
    if (upload_) upload_->send();
#endif
}
void Feed::arrive() {
#ifdef __CUDACC__
    if (upload_) return upload_->arrive(arrived_);
#endif
    std::memcpy(arrived_, outgoing_.data(), size_t(bytes_));
}

Answers::Answers([[maybe_unused]] const Device& device, int64_t bytes) : bytes_(bytes) {
#ifdef __CUDACC__
    if (device.where() == Machine::cuda)
        downloads_ = std::make_shared<gpu::Downloads>(gpu::queue_of(device.stream()), bytes);
#endif
}
Answers::~Answers() = default;
void Answers::ask(Tensor src) {
    CHECK_CALL(int64_t(src.bytes()) == bytes_ && asked_ - answered_ < 2,
               "Answers: {} bytes are asked for, expected {}; {} asks are open, expected at most 1", src.bytes(),
               bytes_, asked_ - answered_);
    const int which = asked_++ % 2;
#ifdef __CUDACC__
    if (downloads_) return downloads_->ask(which, src.ptr);
#endif
    answers_[which].assign(static_cast<char*>(src.ptr), static_cast<char*>(src.ptr) + bytes_);
}
const void* Answers::answer() {
    CHECK_CALL(asked_ > answered_, "Answers: an answer without an ask");
    const int which = answered_++ % 2;
#ifdef __CUDACC__
    if (downloads_) return downloads_->answer(which);
#endif
    return answers_[which].data();
}

Graph::Graph(const Device& device, bool record, [[maybe_unused]] bool early) {
    if (!record) return;
    CHECK(device.where() == Machine::cuda, "a CUDA graph needs a GPU, and this device is {}", device.name());
#ifdef __CUDACC__
    gpu::Queue& queue = gpu::queue_of(device.stream());
    CHECK(!queue.sync_each(),
          "a CUDA graph is one launch, so this device cannot wait after every kernel in it: choose one of the two");
    recording_ = std::make_shared<gpu::Recording>(queue, early);
#endif
}
Graph::~Graph() = default;
void Graph::run(const std::function<void()>& work) {
#ifdef __CUDACC__
    if (recording_) return recording_->run(work);
#endif
    work();
}
