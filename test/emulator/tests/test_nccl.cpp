// test_nccl.cpp - NCCL between threads; programs/good/nccl_ring.cu tests it between processes
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <thread>

#include "catch.h"
#include "device.h"

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
        ncclGroupStart();  // every rank sends to every rank
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

TEST_CASE("NCCL refuses a root that is no rank, and no communicators at all", "[nccl]") {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclComm_t comm;
    REQUIRE(ncclCommInitRank(&comm, 1, id, 0) == ncclSuccess);
    DeviceArray<float> x(std::vector<float>(10, 1.f));
    for (const int root : {-1, 1}) {
        CHECK(ncclBroadcast(x.data, x.data, 10, ncclFloat, root, comm, nullptr) == ncclInvalidArgument);
        CHECK(ncclReduce(x.data, x.data, 10, ncclFloat, ncclSum, root, comm, nullptr) == ncclInvalidArgument);
    }
    CHECK(ncclCommInitAll(&comm, 0, nullptr) == ncclInvalidArgument);
    CHECK(ncclCommInitAll(nullptr, 1, nullptr) == ncclInvalidArgument);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
}

TEST_CASE("an error in a group is returned by its end, and nothing of the group is queued", "[nccl]") {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclComm_t comm;
    REQUIRE(ncclCommInitRank(&comm, 1, id, 0) == ncclSuccess);
    DeviceArray<float> x(std::vector<float>(10, 1.f)), y(std::vector<float>(10, 0.f));
    ncclGroupStart();
    ncclGroupStart();  // a group inside of a group is a part of it
    CHECK(ncclAllReduce(x.data, y.data, 10, ncclFloat, ncclSum, comm, nullptr) == ncclSuccess);
    CHECK(ncclBroadcast(x.data, y.data, 10, ncclFloat, 7, comm, nullptr) == ncclInvalidArgument);
    CHECK(ncclGroupEnd() == ncclSuccess);
    CHECK(ncclGroupEnd() == ncclInvalidArgument);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(y.host() == std::vector<float>(10, 0.f));
    ncclGroupStart();
    CHECK(ncclAllReduce(x.data, y.data, 10, ncclFloat, ncclSum, comm, nullptr) == ncclSuccess);
    CHECK(ncclGroupEnd() == ncclSuccess);
    CHECK(y.host() == std::vector<float>(10, 1.f));
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
}

TEST_CASE("every function of NCCL's header can be linked, and those that are missing refuse the call", "[nccl]") {
    std::ifstream header(NCCL_HEADER);
    REQUIRE(header);
    const std::string text{std::istreambuf_iterator<char>(header), {}};
    const std::regex declaration("ncclResult_t +(p?nccl[A-Za-z0-9_]+)");
    std::string unknown;
    int found = 0;
    for (std::sregex_iterator name(text.begin(), text.end(), declaration), end; name != end; ++name, found++) {
        void* function = dlsym(RTLD_DEFAULT, (*name)[1].str().c_str());
        if (!function) unknown += (*name)[1].str() + " ";
        else if ((*name)[1] == "ncclGroupSimulateEnd")
            CHECK(reinterpret_cast<ncclResult_t (*)(void*)>(function)(nullptr) == ncclInvalidUsage);
    }
    CHECK(found > 50);
    CHECK(unknown == "");
}
