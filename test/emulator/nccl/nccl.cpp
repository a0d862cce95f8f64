// nccl.cpp - libnccl: the calls of the program, which make communicators and queue operations in streams
//
// An operation is Work in its stream like any other. Each time it runs, it goes as far as the other ranks allow, and it
// is run again until its part is complete. The ranks compare their calls before a byte is moved. A mismatch is an error
// that names both calls, where the real library hangs.
#include <nccl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>

#include "reduce.h"
#include "transfer.h"

namespace emu {
using namespace nccl;
namespace {

std::mutex communicators_lock;
std::map<ncclComm_t, CommPtr>& communicators() {
    static auto* all = new std::map<ncclComm_t, CommPtr>;
    return *all;
}
CommPtr find(ncclComm_t comm) {
    std::lock_guard guard(communicators_lock);
    const auto row = communicators().find(comm);
    return row == communicators().end() ? nullptr : row->second;
}

struct Group {
    int depth = 0;
    std::vector<Batch> batches;
    std::vector<CommPtr> joining;      // made in this group; its end waits for the other ranks
    ncclResult_t error = ncclSuccess;  // of the first call of the group that failed
};
thread_local Group group;

// When a call of a group fails, the end of the group returns the error, too, and none of its operations is queued.
ncclResult_t failed(ncclResult_t result) {
    if (group.depth && !group.error) group.error = result;
    return result;
}
ncclResult_t complain(ncclResult_t result, const std::string& text) {
    last_error_text = text;
    std::fprintf(stderr, "emulate: %s: %s\n", resolve_sites(call_site()).c_str(), text.c_str());
    return failed(result);
}

void count_operations(const Batch& batch) {
    for (const Operation& o : batch.operations) {
        Counters counters;
        counters.launches     = 1;
        counters.global_bytes = o.call.count * element(o);
        count(o.call.function, counters);
    }
}

ncclResult_t submit_batch(Batch batch) {
    const CommPtr comm = batch.comm;
    auto shared        = std::make_shared<Batch>(std::move(batch));
    Work work{cudaGraphNodeTypeKernel, call_site()};
    work.run = [shared](uint32_t op) {
        if (!advance(*shared, op)) return cudaErrorNotReady;
        if (!options().profile.empty()) count_operations(*shared);
        for (Operation& o : shared->operations) {  // are reset, because a graph may run them again
            const Operation fresh{o.kind, o.call, o.send, o.receive, o.peer, o.scale};
            o = fresh;
        }
        return cudaSuccess;
    };
    const cudaError_t error = submit(shared->stream, std::move(work));
    return error ? ncclUnhandledCudaError : comm->error;
}

ncclResult_t wait_complete(const CommPtr& comm) {
    const double start = now();
    while (!comm->segment->complete()) {
        for (int rank = 0; rank < comm->ranks; rank++) {
            const int pid = comm->segment->header->slots[rank].pid;
            if (pid && kill(pid, 0) != 0 && errno == ESRCH)
                return complain(ncclRemoteError,
                                "rank " + std::to_string(rank) + " ended before the communicator was complete");
        }
        if (now() - start > patience()) {
            std::string missing;
            for (int rank = 0; rank < comm->ranks; rank++)
                if (!comm->segment->header->slots[rank].pid)
                    missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
            comm->segment->unlink();
            return complain(ncclSystemError,
                            "still waiting for rank " + missing + " of " + std::to_string(comm->ranks));
        }
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    if (comm->rank == 0) comm->segment->unlink();
    return ncclSuccess;
}

ncclResult_t join(ncclComm_t* out, const std::string& name, int ranks, int rank) {
    if (!out || ranks < 1 || ranks > max_ranks || rank < 0 || rank >= ranks)
        return complain(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(ranks) +
                                                 " (the emulator has up to " + std::to_string(max_ranks) + ")");
    auto comm    = std::make_shared<ncclComm>();
    comm->name   = name;
    comm->ranks  = ranks;
    comm->rank   = rank;
    comm->device = current_device();
    try {
        comm->segment = std::make_unique<Segment>(name, ranks, rank);
    } catch (const std::exception& e) { return complain(ncclSystemError, e.what()); }
    {
        std::lock_guard guard(communicators_lock);
        communicators()[comm.get()] = comm;
    }
    *out = comm.get();
    if (group.depth) {
        group.joining.push_back(comm);
        return ncclSuccess;
    }
    return wait_complete(comm);
}

std::string name_in(const ncclUniqueId& id) {
    const std::string name(id.internal, strnlen(id.internal, sizeof id.internal));
    return name.rfind("/emulate-nccl-", 0) == 0 ? name : std::string();
}

ncclResult_t end_group() {
    Group done;
    std::swap(done, group);
    if (done.error) return done.error;
    for (const CommPtr& comm : done.joining)
        if (const ncclResult_t result = wait_complete(comm)) return result;
    std::lock_guard guard(runtime_lock());
    ncclResult_t worst = ncclSuccess;
    for (Batch& batch : done.batches)
        if (const ncclResult_t result = submit_batch(std::move(batch))) worst = result;
    return worst;
}

ncclResult_t enqueue(Collective kind, const char* function, const void* send, void* receive, size_t count,
                     ncclDataType_t type, int op, int root, int peer, ncclComm_t handle, cudaStream_t stream) {
    const CommPtr comm = find(handle);
    if (!comm) return complain(ncclInvalidArgument, "the handle is not a communicator");
    if (comm->error != ncclSuccess) return failed(comm->error);
    if (comm->finalized) return complain(ncclInvalidUsage, "the communicator was finalized");
    if (!size_of(type)) return complain(ncclInvalidArgument, "unknown data type " + std::to_string(type));
    if (op >= ncclNumOps && size_t(op - ncclNumOps) >= comm->scales.size())
        return complain(ncclInvalidArgument, "unknown reduction " + std::to_string(op));
    const bool message = kind == Collective::Send || kind == Collective::Recv;
    const bool rooted  = kind == Collective::Reduce || kind == Collective::Broadcast || kind == Collective::Gather ||
                        kind == Collective::Scatter;
    if (root >= comm->ranks || peer >= comm->ranks || (root < 0 && rooted) || (peer < 0 && message))
        return complain(ncclInvalidArgument, "root or peer beyond the " + std::to_string(comm->ranks) + " ranks");
    Operation o{kind};
    std::snprintf(o.call.function, sizeof o.call.function, "%s", function);
    o.call.count = count;
    o.call.type  = type;
    o.call.op    = op;
    o.call.root  = root;
    o.send       = reinterpret_cast<Address>(send);
    o.receive    = reinterpret_cast<Address>(receive);
    o.peer       = peer;
    o.scale      = op >= ncclNumOps ? comm->scales[size_t(op - ncclNumOps)] : 0;
    if (message)
        o.call.sequence =
            ++comm->messages[kind == Collective::Send ? std::pair(comm->rank, peer) : std::pair(peer, comm->rank)];
    else o.call.sequence = ++comm->sequence;
    if (options().trace)
        trace_line(function,
                   "rank " + std::to_string(comm->rank) + ", count " + std::to_string(count) + ", " + name_of(type),
                   group.depth ? "grouped" : "queued");
    const bool alone = group.depth == 0;
    Batch* batch     = nullptr;
    for (Batch& candidate : group.batches)
        if (candidate.comm == comm && candidate.stream == stream) batch = &candidate;
    if (!batch) batch = &group.batches.emplace_back(Batch{comm, stream, {}});
    batch->operations.push_back(o);
    return alone ? end_group() : ncclSuccess;
}

}  // namespace
}  // namespace emu

using namespace emu;

// --- communicators --------------------------------------------------------------------------------------------------

ncclResult_t ncclGetVersion(int* version) {
    if (!version) return ncclInvalidArgument;
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    if (!id) return ncclInvalidArgument;
    std::random_device random;
    std::memset(id, 0, sizeof *id);
    std::snprintf(id->internal, sizeof id->internal, "/emulate-nccl-%d-%08x%08x", int(getpid()), random(), random());
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
    SITE;
    if (name_in(id).empty())
        return complain(ncclInvalidArgument,
                        "the id does not come from ncclGetUniqueId; was it broadcast to every rank?");
    return join(comm, name_in(id), ranks, rank);
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
    SITE;
    return ncclCommInitRank(comm, ranks, id, rank);
}
ncclResult_t ncclCommInitAll(ncclComm_t* comms, int ranks, const int* devices) {
    SITE;
    if (!comms || ranks < 1) return complain(ncclInvalidArgument, "the array is null, or there are no ranks");
    int available = 0, before = 0;
    cudaGetDeviceCount(&available);
    cudaGetDevice(&before);
    std::set<int> used;
    for (int i = 0; i < ranks; i++) {
        const int device = devices ? devices[i] : i;
        if (device < 0 || device >= available)
            return complain(ncclInvalidArgument, "device " + std::to_string(device) + ", but there are " +
                                                     std::to_string(available) + " (scripts/emulate --devices N)");
        if (!used.insert(device).second)
            return complain(ncclInvalidUsage, "device " + std::to_string(device) + " is given twice");
    }
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclGroupStart();
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < ranks && !result; i++) {
        cudaSetDevice(devices ? devices[i] : i);
        result = join(&comms[i], name_in(id), ranks, i);
    }
    cudaSetDevice(before);
    const ncclResult_t end = ncclGroupEnd();
    return result ? result : end;
}

static ncclResult_t leave(ncclComm_t handle, bool abort) {
    const CommPtr comm = find(handle);
    if (!comm) return ncclInvalidArgument;
    if (abort && !comm->segment->header->aborted) comm->segment->header->aborted = 1 + comm->rank;
    if (abort) comm->error = ncclRemoteError;  // ends the operations that are queued
    comm->segment->header->slots[comm->rank].left = abort;
    std::lock_guard guard(communicators_lock);
    communicators().erase(handle);
    return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t handle) {
    const CommPtr comm = find(handle);
    if (!comm) return ncclInvalidArgument;
    comm->finalized = true;
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return leave(comm, false); }
ncclResult_t ncclCommAbort(ncclComm_t comm) { return leave(comm, true); }

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* out, ncclConfig_t*) {
    SITE;
    const CommPtr comm = find(handle);
    if (!comm || !out || (color < 0 && color != NCCL_SPLIT_NOCOLOR))
        return complain(ncclInvalidArgument, "the communicator, the color or the result pointer is invalid");
    *out = nullptr;
    CallRecord call{};
    std::snprintf(call.function, sizeof call.function, "ncclCommSplit");
    call.sequence = ++comm->split;
    call.root = call.op = -1;
    Slot& own           = comm->segment->header->slots[comm->rank];
    // A split has two steps: a rank has written its color (odd), and has read all colors (even). A rank writes the next
    // color after all ranks have read this one.
    auto wait_for_all   = [&](uint64_t step) {
        double since = 0;
        for (;;) {
            const auto absent = ranks_behind(*comm, &Slot::split_step, step);
            if (absent.empty()) return true;
            if (check_peers(*comm, call, since, absent)) return false;
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
    };
    if (!wait_for_all(2 * comm->split - 2)) return comm->error;
    own.split_color = color;
    own.split_key   = key;
    own.split_step.store(2 * comm->split - 1, std::memory_order_release);
    if (!wait_for_all(2 * comm->split - 1)) return comm->error;
    std::vector<std::pair<int, int>> members;  // (key, old rank)
    for (int rank = 0; rank < comm->ranks; rank++)
        if (comm->segment->header->slots[rank].split_color == color)
            members.push_back({comm->segment->header->slots[rank].split_key, rank});
    std::sort(members.begin(), members.end());
    const auto place = std::find(members.begin(), members.end(), std::pair(key, comm->rank));
    own.split_step.store(2 * comm->split, std::memory_order_release);
    if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
    return join(out, comm->name + "-" + std::to_string(comm->split) + "-" + std::to_string(color), int(members.size()),
                int(place - members.begin()));
}

static ncclResult_t get(ncclComm_t handle, int ncclComm::*member, int* out) {
    const CommPtr comm = find(handle);
    if (!comm || !out) return ncclInvalidArgument;
    *out = (*comm).*member;
    return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) { return get(comm, &ncclComm::ranks, count); }
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) { return get(comm, &ncclComm::device, device); }
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) { return get(comm, &ncclComm::rank, rank); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
    const CommPtr comm = find(handle);
    if (!comm || !error) return ncclInvalidArgument;
    if (comm->error == ncclSuccess && comm->segment->header->aborted)
        fail(*comm, ncclRemoteError,
             "rank " + std::to_string(comm->segment->header->aborted - 1) + " aborted the communicator", false);
    *error = comm->error;
    return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess: return "no error";
        case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case ncclInternalError: return "internal error - please report this issue to the NCCL developers";
        case ncclInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case ncclRemoteError: return "remote process exited or there was a network error";
        case ncclInProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}
const char* ncclGetLastError(ncclComm_t) { return last_error_text.c_str(); }

ncclResult_t ncclCommRegister(const ncclComm_t, void* buffer, size_t, void** handle) {
    *handle = buffer;
    return ncclSuccess;
}
ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }
ncclResult_t ncclMemAlloc(void** pointer, size_t bytes) {
    return cudaMalloc(pointer, bytes) ? ncclUnhandledCudaError : ncclSuccess;
}
ncclResult_t ncclMemFree(void* pointer) { return cudaFree(pointer) ? ncclUnhandledCudaError : ncclSuccess; }

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                      ncclScalarResidence_t residence, ncclComm_t handle) {
    SITE;
    const CommPtr comm = find(handle);
    if (!comm || !op || !scalar || !size_of(type))
        return complain(ncclInvalidArgument, "the communicator, a pointer or the data type is invalid");
    const void* value = scalar;
    if (residence == ncclScalarDevice) {
        cudaDeviceSynchronize();  // the scalar is read now, and the program must not change it before the collective
        value = Memory::get().host(reinterpret_cast<Address>(scalar));
    }
    comm->scales.push_back(scalar_of(value, type));
    *op = ncclRedOp_t(ncclNumOps + int(comm->scales.size()) - 1);
    return ncclSuccess;
}
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t) {
    return op >= ncclNumOps ? ncclSuccess : ncclInvalidArgument;
}

// --- groups ---------------------------------------------------------------------------------------------------------

ncclResult_t ncclGroupStart() {
    group.depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
    SITE;
    if (group.depth == 0) return complain(ncclInvalidUsage, "there was no ncclGroupStart before it");
    if (--group.depth) return ncclSuccess;
    return end_group();
}

// --- operations -----------------------------------------------------------------------------------------------------

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    SITE;
    return enqueue(Collective::AllReduce, __func__, send, receive, count, type, op, -1, -1, comm, stream);
}
ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Reduce, __func__, send, receive, count, type, op, root, -1, comm, stream);
}
ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Broadcast, __func__, send, receive, count, type, -1, root, -1, comm, stream);
}
ncclResult_t ncclBcast(void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Broadcast, "ncclBroadcast", buffer, buffer, count, type, -1, root, -1, comm, stream);
}
ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
    SITE;
    return enqueue(Collective::ReduceScatter, __func__, send, receive, count, type, op, -1, -1, comm, stream);
}
ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    SITE;
    return enqueue(Collective::AllGather, __func__, send, receive, count, type, -1, -1, -1, comm, stream);
}
#if NCCL_VERSION_CODE >= 22800
ncclResult_t ncclAlltoAll(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
    SITE;
    return enqueue(Collective::AllToAll, __func__, send, receive, count, type, -1, -1, -1, comm, stream);
}
ncclResult_t ncclGather(const void* send, void* receive, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                        cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Gather, __func__, send, receive, count, type, -1, root, -1, comm, stream);
}
ncclResult_t ncclScatter(const void* send, void* receive, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                         cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Scatter, __func__, send, receive, count, type, -1, root, -1, comm, stream);
}
#endif
ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Send, __func__, send, nullptr, count, type, -1, -1, peer, comm, stream);
}
ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    SITE;
    return enqueue(Collective::Recv, __func__, nullptr, receive, count, type, -1, -1, peer, comm, stream);
}
