// test_runtime.cpp - streams, events, graphs and memory through the C API, without kernels
#include <cuda_runtime_api.h>
#include <dlfcn.h>

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

TEST_CASE("a stream that is destroyed leaves its capture", "[runtime]") {
    cudaStream_t s, side;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    DeviceArray<int> x(64);
    void* p;
    REQUIRE(cudaEventCreate(&fork) == cudaSuccess);
    REQUIRE(cudaEventCreate(&join) == cudaSuccess);
    for (const bool joins : {false, true}) {
        REQUIRE(cudaStreamCreate(&s) == cudaSuccess);
        REQUIRE(cudaStreamCreate(&side) == cudaSuccess);
        REQUIRE(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
        cudaEventRecord(fork, s);
        cudaStreamWaitEvent(side, fork, 0);
        cudaMemsetAsync(x.data, 0, 256, side);
        cudaEventRecord(join, side);
        if (joins) cudaStreamWaitEvent(s, join, 0);
        REQUIRE(cudaStreamDestroy(side) == cudaSuccess);
        CHECK(cudaStreamEndCapture(s, &graph) == (joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined));
        cudaGetLastError();
        // The stream in which the capture began takes the capture with it.
        REQUIRE(cudaStreamCreate(&side) == cudaSuccess);
        REQUIRE(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
        cudaEventRecord(fork, s);
        cudaStreamWaitEvent(side, fork, 0);
        REQUIRE(cudaStreamDestroy(s) == cudaSuccess);
        CHECK(cudaMalloc(&p, 4) == cudaSuccess);
        CHECK(cudaFree(p) == cudaSuccess);
        CHECK(cudaMemsetAsync(x.data, 0, 256, side) == cudaSuccess);
        CHECK(cudaStreamSynchronize(side) == cudaSuccess);
        REQUIRE(cudaStreamDestroy(side) == cudaSuccess);
    }
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
}

TEST_CASE("every function of the toolkit's runtime header can be linked", "[runtime]") {
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
