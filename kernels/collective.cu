// collective.cu - see collective.h
#include "collective.h"

#ifdef GPT_NCCL
#include <nccl.h>

#include "queue.cuh"

namespace gpu {

// NCCL's last error of the communicator, or of any when it is null, says more than the status.
static void check(ncclResult_t status, ncclComm_t communicator, const char* call, const char* file, int line) {
    if (status == ncclSuccess) return;
    throw_at<RunError>(file, line, "NCCL: {} from {}: {}", ncclGetErrorString(status), call,
                       ncclGetLastError(communicator));
}
#define NCCL_RUN(communicator, ...) gpu::check((__VA_ARGS__), communicator, #__VA_ARGS__, __FILE__, __LINE__)

class Communicator {
  public:
    Communicator(const std::string& id, int rank, int world, cudaStream_t stream) : stream_(stream) {
        ncclUniqueId unique;
        CHECK_CALL(id.size() == sizeof unique, "an id of NCCL has {} bytes, this one has {}", sizeof unique, id.size());
        std::memcpy(&unique, id.data(), sizeof unique);
        NCCL_RUN(nullptr, ncclCommInitRank(&nccl_, world, unique, rank));
    }
    // Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
    ~Communicator() {
        if (nccl_) ncclCommAbort(nccl_);
    }

    void sum(std::initializer_list<Tensor> tensors) {
        NCCL_RUN(nccl_, ncclGroupStart());
        for (const Tensor& t : tensors)
            NCCL_RUN(nccl_, ncclAllReduce(t.ptr, t.ptr, size_t(t.numel()), ncclFloat, ncclSum, nccl_, stream_));
        NCCL_RUN(nccl_, ncclGroupEnd());
    }
    void finish() { NCCL_RUN(nullptr, ncclCommDestroy(std::exchange(nccl_, nullptr))); }

  private:
    ncclComm_t nccl_ = nullptr;
    cudaStream_t stream_;
};

}  // namespace gpu

std::string Collective::library() {
    int version = 0;
    NCCL_RUN(nullptr, ncclGetVersion(&version));
    return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::string Collective::new_id() {
    ncclUniqueId id;
    NCCL_RUN(nullptr, ncclGetUniqueId(&id));
    return std::string(reinterpret_cast<const char*>(&id), sizeof id);
}

Collective::Collective(const std::string& id, int rank, int world, Stream s) {
    CHECK_CALL(s.where == Machine::cuda, "NCCL sums on GPUs, and this stream belongs to the CPU");
    communicator_ = std::make_shared<gpu::Communicator>(id, rank, world, gpu::queue_of(s).stream);
}
void Collective::sum(std::initializer_list<Tensor> tensors) const {
    for (const Tensor& t : tensors) expect_dtype(t, DType::F32);
    communicator_->sum(tensors);
}
void Collective::finish() { communicator_->finish(); }

#else

static const char* const without = "this binary was built without NCCL, so its processes cannot work together";
std::string Collective::library() { return ""; }
std::string Collective::new_id() { fail(without); }
Collective::Collective(const std::string&, int, int, Stream) { fail(without); }
void Collective::sum(std::initializer_list<Tensor>) const { fail(without); }
void Collective::finish() { fail(without); }
#endif

Collective::~Collective() = default;
