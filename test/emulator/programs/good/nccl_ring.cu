// nccl_ring.cu - collectives, groups, and a ring of send and receive between two processes
// options: --devices 2
// libraries: -lnccl
#include <nccl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

#define NCCL(call) EXPECT((call) == ncclSuccess)

static int run(int rank, int ranks, const ncclUniqueId& id) {
    CUDA(cudaSetDevice(rank));
    ncclComm_t comm;
    cudaStream_t s;
    NCCL(ncclCommInitRank(&comm, ranks, id, rank));
    CUDA(cudaStreamCreate(&s));
    const int n = 3'000'000;  // more than one round of the staging area
    std::vector<float> mine(n);
    for (int i = 0; i < n; i++) mine[i] = float((i + rank * 3) % 7);
    Device<float> x(mine), y(n), wide(n * 2);
    auto value = [&](int r, int i) { return float((i + r * 3) % 7); };

    NCCL(ncclAllReduce(x, y, n, ncclFloat, ncclSum, comm, s));
    CUDA(cudaStreamSynchronize(s));
    auto got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == value(0, i) + value(1, i));
    NCCL(ncclAllReduce(x, y, n, ncclFloat, ncclAvg, comm, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == (value(0, i) + value(1, i)) / 2);
    NCCL(ncclAllReduce(x, y, n, ncclFloat, ncclMax, comm, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i += 997) EXPECT(got[i] == std::fmax(value(0, i), value(1, i)));

    NCCL(ncclBroadcast(x, y, n, ncclFloat, 1, comm, s));
    NCCL(ncclAllGather(x, wide, n, ncclFloat, comm, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i += 101) EXPECT(got[i] == value(1, i));
    got = wide.host();
    for (int i = 0; i < n; i += 101) EXPECT(got[i] == value(0, i) && got[n + i] == value(1, i));

    NCCL(ncclReduceScatter(x, y, n / 2, ncclFloat, ncclSum, comm, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n / 2; i++) {
        const int j = rank * (n / 2) + i;
        EXPECT(got[i] == value(0, j) + value(1, j));
    }
    NCCL(ncclReduce(x, y, n, ncclFloat, ncclSum, 0, comm, s));

    // In a ring each rank sends to the next one and receives from the previous one.
    NCCL(ncclGroupStart());
    NCCL(ncclSend(x, n, ncclFloat, (rank + 1) % ranks, comm, s));
    NCCL(ncclRecv(wide, n, ncclFloat, (rank + ranks - 1) % ranks, comm, s));
    NCCL(ncclGroupEnd());
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    if (rank == 0)
        for (int i = 0; i < n; i += 7) EXPECT(got[i] == value(0, i) + value(1, i));
    got = wide.host();
    for (int i = 0; i < n; i += 13) EXPECT(got[i] == value(1 - rank, i));

    ncclComm_t alone;
    NCCL(ncclCommSplit(comm, rank, 0, &alone, nullptr));
    int count = 0;
    NCCL(ncclCommCount(alone, &count));
    EXPECT(count == 1);
    NCCL(ncclAllReduce(x, y, n, ncclFloat, ncclSum, alone, s));
    CUDA(cudaStreamSynchronize(s));
    ncclResult_t error = ncclInternalError;
    NCCL(ncclCommGetAsyncError(comm, &error));
    EXPECT(error == ncclSuccess);
    NCCL(ncclCommDestroy(alone));
    NCCL(ncclCommDestroy(comm));
    CUDA(cudaStreamDestroy(s));
    return 0;
}

int main() {
    // The id travels through shared memory; each process makes its own CUDA calls.
    auto* id =
        static_cast<ncclUniqueId*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    NCCL(ncclGetUniqueId(id));
    const pid_t child = fork();
    if (child == 0) return run(1, 2, *id);
    const int result = run(0, 2, *id);
    int status       = 1;
    waitpid(child, &status, 0);
    EXPECT(result == 0 && status == 0);
    std::puts("ok");
}
