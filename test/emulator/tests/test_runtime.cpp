// test_runtime.cpp - streams, events, graphs and memory through the C API, without kernels; NCCL between threads
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <thread>

#include "catch.h"
#include "device.h"

TEST_CASE("copies in all directions move the bytes they should", "[runtime]") {
    std::vector<int> x(1000);
    for (int i = 0; i < 1000; i++) x[size_t(i)] = i;
    DeviceArray<int> a(x), b(1000);
    REQUIRE(cudaMemcpy(b.data, a.data, 4000, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(b.host() == x);
    REQUIRE(cudaMemset(b.data + 10, 0xff, 40) == cudaSuccess);
    const auto y = b.host();
    CHECK((y[9] == 9 && y[10] == -1 && y[19] == -1 && y[20] == 20));
    int* pinned;
    REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&pinned), 4000) == cudaSuccess);
    REQUIRE(cudaMemcpyAsync(pinned, a.data, 4000, cudaMemcpyDefault, nullptr) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(pinned[999] == 999);
    REQUIRE(cudaFreeHost(pinned) == cudaSuccess);
    CHECK(cudaMemcpy2D(b.data, 4, a.data, 8, 8, 10, cudaMemcpyDeviceToDevice) == cudaErrorInvalidPitchValue);
}

TEST_CASE("an event orders two streams, and its time is not negative", "[runtime]") {
    cudaStream_t first, second;
    cudaEvent_t begin, end;
    REQUIRE(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudaEventCreate(&begin) == cudaSuccess);
    REQUIRE(cudaEventCreate(&end) == cudaSuccess);
    DeviceArray<int> x(100), y(100);
    cudaEventRecord(begin, first);
    cudaMemsetAsync(x.data, 1, 400, first);
    cudaEventRecord(end, first);
    cudaStreamWaitEvent(second, end, 0);
    cudaMemcpyAsync(y.data, x.data, 400, cudaMemcpyDeviceToDevice, second);
    REQUIRE(cudaStreamSynchronize(second) == cudaSuccess);
    CHECK(y.host() == std::vector<int>(100, 0x01010101));
    CHECK(cudaEventQuery(end) == cudaSuccess);
    float ms = -1;
    CHECK(cudaEventElapsedTime(&ms, begin, end) == cudaSuccess);
    CHECK(ms >= 0);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    CHECK(cudaStreamSynchronize(first) == cudaErrorInvalidResourceHandle);
    cudaGetLastError();
}

TEST_CASE("a captured graph repeats its copies; an unjoined capture is refused", "[runtime]") {
    cudaStream_t s, side;
    cudaEvent_t fork;
    cudaStreamCreate(&s);
    cudaStreamCreate(&side);
    cudaEventCreate(&fork);
    DeviceArray<int> x(std::vector<int>(64, 3)), y(64);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    REQUIRE(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    cudaMemcpyAsync(y.data, x.data, 256, cudaMemcpyDeviceToDevice, s);
    REQUIRE(cudaStreamEndCapture(s, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    for (int round = 0; round < 3; round++) {
        cudaMemset(y.data, 0, 256);
        REQUIRE(cudaGraphLaunch(exec, s) == cudaSuccess);
        REQUIRE(cudaStreamSynchronize(s) == cudaSuccess);
        CHECK(y.host() == std::vector<int>(64, 3));
    }
    REQUIRE(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    cudaMemsetAsync(y.data, 0, 256, side);
    CHECK(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureUnjoined);
    cudaGetLastError();
    cudaGraphExecDestroy(exec);
    cudaStreamDestroy(s);
    cudaStreamDestroy(side);
}

TEST_CASE("NCCL between threads: sums in rank order, every type, abort", "[nccl]") {
    const int ranks = GENERATE(1, 2, 5);
    CAPTURE(ranks);
    ncclUniqueId id;
    REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    std::vector<std::string> wrong(static_cast<size_t>(ranks));
    auto rank = [&](int r) {
        auto expect = [&](bool fine, const char* what) {
            if (!fine) wrong[size_t(r)] += std::string(what) + "; ";
        };
        ncclComm_t comm;
        cudaStream_t s;
        cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
        expect(ncclCommInitRank(&comm, ranks, id, r) == ncclSuccess, "init");
        const int n = 1000;
        std::vector<int64_t> x(n);
        for (int i = 0; i < n; i++) x[size_t(i)] = i * (r + 1);
        DeviceArray<int64_t> in(x), sum(n), all(size_t(n * ranks)), mine(n);
        ncclAllReduce(in.data, sum.data, n, ncclInt64, ncclSum, comm, s);
        ncclAllGather(in.data, all.data, n, ncclInt64, comm, s);
        ncclReduceScatter(all.data, mine.data, n, ncclInt64, ncclMax, comm, s);
        expect(cudaStreamSynchronize(s) == cudaSuccess, "synchronize");
        const auto a = sum.host(), b = all.host(), c = mine.host();
        for (int i = 0; i < n; i++) {
            expect(a[size_t(i)] == i * ranks * (ranks + 1) / 2, "sum");
            for (int q = 0; q < ranks; q++) expect(b[size_t(q * n + i)] == i * (q + 1), "gather");
            expect(c[size_t(i)] == i * (r + 1), "scatter");
        }
        ncclGroupStart();  // everybody to everybody
        for (int q = 0; q < ranks; q++) {
            ncclSend(in.data + q, 1, ncclInt64, q, comm, s);
            ncclRecv(all.data + q, 1, ncclInt64, q, comm, s);
        }
        expect(ncclGroupEnd() == ncclSuccess, "group");
        cudaStreamSynchronize(s);
        const auto d = all.host();
        for (int q = 0; q < ranks; q++) expect(d[size_t(q)] == r * (q + 1), "exchange");

        ncclComm_t half;
        expect(ncclCommSplit(comm, r % 2, -r, &half, nullptr) == ncclSuccess, "split");
        int size = 0, place = -1;
        ncclCommCount(half, &size);
        ncclCommUserRank(half, &place);
        expect(size == (ranks + 1 - r % 2) / 2 && place == size - 1 - r / 2, "ranks of the split");
        ncclCommDestroy(half);
        ncclCommDestroy(comm);
        cudaStreamDestroy(s);
    };
    std::vector<std::thread> threads;
    for (int r = 1; r < ranks; r++) threads.emplace_back(rank, r);
    rank(0);
    for (auto& t : threads) t.join();
    for (const std::string& w : wrong) CHECK(w.empty());
}

TEST_CASE("an aborted communicator ends the others' operations with an error", "[nccl]") {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclResult_t seen = ncclSuccess;
    std::thread waits([&] {
        ncclComm_t comm;
        ncclCommInitRank(&comm, 2, id, 0);
        DeviceArray<float> x(std::vector<float>(10, 1.f));
        ncclAllReduce(x.data, x.data, 10, ncclFloat, ncclSum, comm, nullptr);
        cudaStreamSynchronize(nullptr);
        ncclCommGetAsyncError(comm, &seen);
        ncclCommAbort(comm);
    });
    ncclComm_t comm;
    ncclCommInitRank(&comm, 2, id, 1);
    ncclCommAbort(comm);
    waits.join();
    CHECK(seen == ncclRemoteError);
}

TEST_CASE("every function of the toolkit's runtime header is there, if only to say that it is missing", "[runtime]") {
    std::ifstream header(CUDA_INCLUDE "/cuda_runtime_api.h");
    REQUIRE(header);
    const std::string text{std::istreambuf_iterator<char>(header), {}};
    const std::regex declaration("^extern .*\\b(cuda[A-Z][A-Za-z0-9]*)\\(");
    std::string missing;
    int found = 0;
    for (size_t line = 0, end; line < text.size(); line = end + 1) {
        end = std::min(text.find('\n', line), text.size());
        std::cmatch name;
        const std::string one = text.substr(line, end - line);
        if (one.find("__cudart_builtin__") != std::string::npos && one.find("__device__") != std::string::npos &&
            one.find("__host__") == std::string::npos)
            continue;
        if (!std::regex_search(one.c_str(), name, declaration)) continue;
        found++;
        if (!dlsym(RTLD_DEFAULT, name[1].str().c_str())) missing += name[1].str() + " ";
    }
    CHECK(found > 250);
    CHECK(missing == "");
}
