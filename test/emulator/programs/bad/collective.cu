// Two ranks, which are threads of one process, disagree about the size of a reduction.
// finding: collective mismatch
// options: --devices 2
// libraries: -lnccl
#include <nccl.h>

#include <thread>

#include "../check.h"

int main(int argc, char**) {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    auto rank = [&](int r) {
        CUDA(cudaSetDevice(r));
        ncclComm_t comm;
        EXPECT(ncclCommInitRank(&comm, 2, id, r) == ncclSuccess);
        Device<float> x(whole_numbers(100));
        ncclAllReduce(x, x, argc > 1 || r == 0 ? 100 : 99, ncclFloat, ncclSum, comm, nullptr);
        CUDA(cudaStreamSynchronize(nullptr));
        ncclCommDestroy(comm);
    };
    std::thread other(rank, 1);
    rank(0);
    other.join();
}
