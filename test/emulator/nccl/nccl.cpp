// nccl.cpp - libnccl: communicators over shared memory, collectives, groups, send and receive
//
// An operation is Work in its stream like any other: it starts when what comes before it in the stream is done, moves
// as far as the other ranks allow each time it is asked, and ends when its part is complete. All ranks compare what
// they called first, so a mismatch is an error that names both calls, where the real library hangs.
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
#include "runtime.h"
#include "segment.h"

struct ncclComm {
    std::string name;  // of the segment
    int ranks = 1, rank = 0, device = 0;
    std::unique_ptr<emu::Segment> segment;
    uint64_t round     = 0;  // the last one this rank has finished
    uint64_t sequence  = 0;  // collectives called so far
    uint64_t split     = 0;
    ncclResult_t error = ncclSuccess;
    bool finalized     = false;
    std::string message;
    std::vector<double> scales;                        // of the pre-multiplied sums, by op - ncclNumOps
    std::map<std::pair<int, int>, uint64_t> messages;  // point-to-point calls so far, by (from, to)
};
// Operations under way keep their communicator when the program destroys it.
using CommPtr = std::shared_ptr<ncclComm>;

namespace emu {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double patience() { return options().timeout > 0 ? options().timeout : 600; }

std::mutex table_lock;
std::map<ncclComm_t, CommPtr>& table() {
    static auto* all = new std::map<ncclComm_t, CommPtr>;
    return *all;
}
CommPtr find(ncclComm_t comm) {
    std::lock_guard guard(table_lock);
    const auto row = table().find(comm);
    return row == table().end() ? nullptr : row->second;
}

auto& last_error_text = *new std::string("no error");

ncclResult_t complain(ncclResult_t result, const std::string& text) {
    last_error_text = text;
    std::fprintf(stderr, "emulate: %s: %s\n", resolve_sites(call_site()).c_str(), text.c_str());
    return result;
}

std::string describe(const CallRecord& call) {
    std::string text =
        std::string(call.function) + "(count " + std::to_string(call.count) + ", " + name_of(ncclDataType_t(call.type));
    if (call.op >= 0) text += std::string(", ") + name_of(ncclRedOp_t(call.op));
    if (call.root >= 0) text += ", root " + std::to_string(call.root);
    return text + "), its call number " + std::to_string(call.sequence);
}
bool same(const CallRecord& a, const CallRecord& b) {
    return !std::strcmp(a.function, b.function) && a.count == b.count && a.type == b.type && a.op == b.op &&
           a.root == b.root;
}

// The communicator is broken from here on: its operations end at once, the program learns it from the next call or
// from ncclCommGetAsyncError.
void fail(ncclComm& comm, ncclResult_t result, const std::string& text, bool finding) {
    if (comm.error != ncclSuccess) return;
    comm.error   = result;
    comm.message = last_error_text = text;
    if (finding) {
        Finding f{};
        f.kind   = Kind::Collective;
        f.what   = text;
        f.kernel = "NCCL, rank " + std::to_string(comm.rank) + " of " + std::to_string(comm.ranks);
        report(f);
    } else {
        std::fprintf(stderr, "emulate: NCCL, rank %d of %d: %s\n", comm.rank, comm.ranks, text.c_str());
    }
}

// A peer that has gone, or a wait that lasts too long. True: the communicator has failed.
bool check_peers(ncclComm& comm, const CallRecord& mine, double& since, const std::vector<int>& awaited) {
    Header& header = *comm.segment->header;
    if (comm.error != ncclSuccess) return true;
    if (const int who = header.aborted) {
        fail(comm, ncclRemoteError, "rank " + std::to_string(who - 1) + " aborted the communicator", false);
        return true;
    }
    if (since == 0) since = now();
    for (const int rank : awaited) {
        const int pid   = header.slots[rank].pid;
        const bool gone = (pid && kill(pid, 0) != 0 && errno == ESRCH) || header.slots[rank].left;
        if (!gone && now() - since < patience()) continue;
        const CallRecord& theirs = header.slots[rank].call;
        const std::string last =
            theirs.sequence ? "; the last call of that rank was " + describe(theirs) : std::string();
        fail(comm, ncclRemoteError,
             "waits in " + describe(mine) + " for rank " + std::to_string(rank) +
                 (gone ? ", which has ended" : ", which has not come for " + std::to_string(int(patience())) + " s") +
                 last,
             true);
        return true;
    }
    return false;
}

enum class Collective { AllReduce, Reduce, Broadcast, AllGather, ReduceScatter, AllToAll, Gather, Scatter, Send, Recv };

struct Operation {
    Collective kind;
    CallRecord call{};
    Address send = 0, receive = 0;
    int peer     = -1;
    double scale = 0;  // pre-multiplied sum
    // progress
    bool started = false, done = false;
    bool posted          = false;  // this round's share is published
    size_t offset        = 0;      // bytes of the contribution already moved
    double waiting_since = 0;
};

size_t element(const Operation& o) { return size_of(ncclDataType_t(o.call.type)); }

// Bytes this rank contributes in all, and receives in all.
size_t contribution(const Operation& o, const ncclComm& comm) {
    const size_t bytes = o.call.count * element(o);
    const bool wide =
        o.kind == Collective::ReduceScatter || o.kind == Collective::AllToAll || o.kind == Collective::Scatter;
    return wide ? bytes * size_t(comm.ranks) : bytes;
}
bool contributes(const Operation& o, const ncclComm& comm) {
    return (o.kind != Collective::Broadcast && o.kind != Collective::Scatter) || comm.rank == o.call.root;
}
size_t received(const Operation& o, const ncclComm& comm) {
    const size_t bytes = o.call.count * element(o);
    const bool rooted  = o.kind == Collective::Reduce || o.kind == Collective::Gather;
    if (rooted && comm.rank != o.call.root) return 0;
    const bool wide = o.kind == Collective::AllGather || o.kind == Collective::AllToAll || o.kind == Collective::Gather;
    return wide ? bytes * size_t(comm.ranks) : bytes;
}

bool device_range(Address a, size_t bytes, Access access, const Operation& o, uint32_t op) {
    if (bytes == 0) return true;
    const std::string what = std::string(o.call.function) + (access == Access::Read ? ": sendbuff" : ": recvbuff");
    if (Memory::get().in_arena(a) || Memory::get().find(a)) {
        if (!Memory::get().check(a, bytes, access, what.c_str(), op)) return false;
        if (access == Access::Write) Memory::get().mark_written(a, bytes);
        return true;
    }
    Finding f{};
    f.kind    = Kind::OutOfBounds;
    f.what    = "a host pointer where device memory is wanted";
    f.kernel  = what;
    f.address = a;
    report(f);
    return false;
}

// The part of this rank's result that lies in bytes [from, from + n) of every contribution.
void take_round(const Operation& o, ncclComm& comm, size_t from, size_t n) {
    const Segment& s   = *comm.segment;
    const size_t bytes = o.call.count * element(o);
    std::byte* out     = Memory::get().host(o.receive);
    const size_t mine  = size_t(comm.rank) * bytes;
    // Overlap of the round with this rank's own part of a wide contribution.
    const size_t low = std::max(from, mine), high = std::min(from + n, mine + bytes);
    std::vector<const void*> inputs;
    std::vector<double> scale;
    auto sum = [&](size_t begin, size_t end, std::byte* to) {
        for (int rank = 0; rank < comm.ranks; rank++) inputs.push_back(s.staging(rank) + (begin - from));
        reduce(to, inputs, (end - begin) / element(o), ncclDataType_t(o.call.type), ncclRedOp_t(o.call.op), scale);
    };
    switch (o.kind) {
        case Collective::AllReduce: sum(from, from + n, out + from); break;
        case Collective::Reduce:
            if (comm.rank == o.call.root) sum(from, from + n, out + from);
            break;
        case Collective::Broadcast: std::memcpy(out + from, s.staging(o.call.root), n); break;
        case Collective::AllGather:
        case Collective::Gather:
            if (o.kind == Collective::AllGather || comm.rank == o.call.root)
                for (int rank = 0; rank < comm.ranks; rank++)
                    std::memcpy(out + size_t(rank) * bytes + from, s.staging(rank), n);
            break;
        case Collective::ReduceScatter:
            if (low < high) sum(low, high, out + (low - mine));
            break;
        case Collective::AllToAll:
            if (low < high)
                for (int rank = 0; rank < comm.ranks; rank++)
                    std::memcpy(out + size_t(rank) * bytes + (low - mine), s.staging(rank) + (low - from), high - low);
            break;
        case Collective::Scatter:
            if (low < high) std::memcpy(out + (low - mine), s.staging(o.call.root) + (low - from), high - low);
            break;
        default: break;
    }
}

// Multiplies one rank's share by its own factor, for ncclRedOpCreatePreMulSum.
void apply_scale(std::byte* data, size_t bytes, const Operation& o) {
    reduce(data, {data}, bytes / element(o), ncclDataType_t(o.call.type), ncclSum, {o.scale});
}

std::vector<int> behind(const ncclComm& comm, std::atomic<uint64_t> Slot::*counter, uint64_t round) {
    std::vector<int> ranks;
    for (int rank = 0; rank < comm.ranks; rank++)
        if (comm.segment->header->slots[rank].*counter < round) ranks.push_back(rank);
    return ranks;
}

// As far as the others allow. True: finished (or failed).
bool advance_collective(Operation& o, ncclComm& comm, uint32_t op) {
    Segment& s         = *comm.segment;
    Slot& own          = s.header->slots[comm.rank];
    const size_t total = contribution(o, comm);
    if (!o.started) {
        o.started       = true;
        const bool fine = (!contributes(o, comm) || device_range(o.send, total, Access::Read, o, op)) &&
                          device_range(o.receive, received(o, comm), Access::Write, o, op);
        if (!fine) {
            fail(comm, ncclInvalidArgument, std::string(o.call.function) + " on memory that is not there", false);
            return true;
        }
    }
    const size_t chunk = s.chunk_bytes / element(o) * element(o);
    for (;;) {
        const uint64_t round = comm.round + 1;
        const size_t n       = std::min(chunk, total - o.offset);
        if (!o.posted) {
            const auto slow = behind(comm, &Slot::consumed, round - 1);
            if (!slow.empty()) {
                if (check_peers(comm, o.call, o.waiting_since, slow)) return true;
                return false;
            }
            if (contributes(o, comm) && n) {
                std::memcpy(s.staging(comm.rank), Memory::get().host(o.send) + o.offset, n);
                if (o.call.op >= ncclNumOps) apply_scale(s.staging(comm.rank), n, o);
            }
            own.call = o.call;
            own.published.store(round, std::memory_order_release);
            o.posted        = true;
            o.waiting_since = 0;
        }
        const auto absent = behind(comm, &Slot::published, round);
        if (!absent.empty()) {
            if (check_peers(comm, o.call, o.waiting_since, absent)) return true;
            return false;
        }
        for (int rank = 0; rank < comm.ranks; rank++)
            if (!same(o.call, s.header->slots[rank].call)) {
                fail(comm, ncclInvalidUsage,
                     "the ranks disagree: rank " + std::to_string(comm.rank) + " called " + describe(o.call) +
                         ", rank " + std::to_string(rank) + " called " + describe(s.header->slots[rank].call),
                     true);
                s.header->aborted = 1 + comm.rank;
                return true;
            }
        if (n) take_round(o, comm, o.offset, n);
        o.offset += n;
        o.posted        = false;
        o.waiting_since = 0;
        comm.round      = round;
        own.consumed.store(round, std::memory_order_release);
        if (o.offset == total) return true;
    }
}

bool advance_send(Operation& o, ncclComm& comm, uint32_t op) {
    Channel& c         = comm.segment->channel(comm.rank, o.peer);
    const size_t total = o.call.count * element(o);
    if (!o.started) {
        o.started = true;
        if (!device_range(o.send, total, Access::Read, o, op))
            return fail(comm, ncclInvalidArgument, "ncclSend", false), true;
    }
    while (c.written == c.taken) {
        const size_t n = std::min(comm.segment->channel_bytes, total - o.offset);
        if (n) std::memcpy(comm.segment->channel_data(comm.rank, o.peer), Memory::get().host(o.send) + o.offset, n);
        c.call        = o.call;
        c.chunk_bytes = n;
        c.written.fetch_add(1, std::memory_order_release);
        o.offset += n;
        o.waiting_since = 0;
        if (o.offset == total) return true;
    }
    return check_peers(comm, o.call, o.waiting_since, {o.peer});
}

bool advance_recv(Operation& o, ncclComm& comm, uint32_t op) {
    Channel& c         = comm.segment->channel(o.peer, comm.rank);
    const size_t total = o.call.count * element(o);
    if (!o.started) {
        o.started = true;
        if (!device_range(o.receive, total, Access::Write, o, op))
            return fail(comm, ncclInvalidArgument, "ncclRecv", false), true;
    }
    while (c.written.load(std::memory_order_acquire) > c.taken) {
        if (c.call.count != o.call.count || c.call.type != o.call.type) {
            fail(comm, ncclInvalidUsage,
                 "rank " + std::to_string(comm.rank) + " called " + describe(o.call) + ", but rank " +
                     std::to_string(o.peer) + " sent with " + describe(c.call),
                 true);
            comm.segment->header->aborted = 1 + comm.rank;
            return true;
        }
        std::memcpy(Memory::get().host(o.receive) + o.offset, comm.segment->channel_data(o.peer, comm.rank),
                    c.chunk_bytes);
        o.offset += c.chunk_bytes;
        o.waiting_since = 0;
        c.taken.fetch_add(1, std::memory_order_release);
        if (o.offset == total) return true;
    }
    return check_peers(comm, o.call, o.waiting_since, {o.peer});
}

// One group's operations on one communicator: collectives in order, messages all at once.
struct Batch {
    CommPtr comm;
    cudaStream_t stream;
    std::vector<Operation> operations;
};

bool advance(Batch& batch, uint32_t op) {
    ncclComm& comm        = *batch.comm;
    bool collective_ahead = false, all = true;
    std::set<std::pair<Collective, int>> busy;  // messages between the same two ranks keep their order
    for (Operation& o : batch.operations) {
        if (comm.error != ncclSuccess) return true;
        if (o.done) continue;
        const bool message = o.kind == Collective::Send || o.kind == Collective::Recv;
        const std::pair<Collective, int> lane{o.kind, o.peer};
        if (message && !busy.count(lane))
            o.done = o.kind == Collective::Send ? advance_send(o, comm, op) : advance_recv(o, comm, op);
        else if (!message && !collective_ahead) o.done = advance_collective(o, comm, op);
        if (!o.done) {
            all = false;
            if (message) busy.insert(lane);
            else collective_ahead = true;
        }
    }
    return all || comm.error != ncclSuccess;
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
    Work work;
    work.type = cudaGraphNodeTypeKernel;
    work.what = call_site();
    work.run  = [shared](uint32_t op) {
        if (!advance(*shared, op)) return cudaErrorNotReady;
        if (!options().profile.empty()) count_operations(*shared);
        for (Operation& o : shared->operations) {  // a graph may run it again
            const Operation fresh{o.kind, o.call, o.send, o.receive, o.peer, o.scale};
            o = fresh;
        }
        return cudaSuccess;
    };
    const cudaError_t error = submit(shared->stream, std::move(work));
    return error ? ncclUnhandledCudaError : comm->error;
}

struct Group {
    int depth = 0;
    std::vector<Batch> batches;
    std::vector<CommPtr> joining;  // made by ncclCommInitRank in this group: wait for the others at its end
};
thread_local Group group;

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
        std::lock_guard guard(table_lock);
        table()[comm.get()] = comm;
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
    if (!comm) return complain(ncclInvalidArgument, "this is no communicator");
    if (comm->error != ncclSuccess) return comm->error;
    if (comm->finalized) return complain(ncclInvalidUsage, "the communicator was finalized");
    if (!size_of(type)) return complain(ncclInvalidArgument, "data type " + std::to_string(type));
    if (op >= ncclNumOps && size_t(op - ncclNumOps) >= comm->scales.size())
        return complain(ncclInvalidArgument, "reduction " + std::to_string(op));
    if (root >= comm->ranks || peer >= comm->ranks ||
        (peer < 0 && (kind == Collective::Send || kind == Collective::Recv)))
        return complain(ncclInvalidArgument, "root or peer beyond the " + std::to_string(comm->ranks) + " ranks");
    Operation o{kind};
    std::snprintf(o.call.function, sizeof o.call.function, "%s", function);
    o.call.count       = count;
    o.call.type        = type;
    o.call.op          = op;
    o.call.root        = root;
    o.send             = reinterpret_cast<Address>(send);
    o.receive          = reinterpret_cast<Address>(receive);
    o.peer             = peer;
    o.scale            = op >= ncclNumOps ? comm->scales[size_t(op - ncclNumOps)] : 0;
    const bool message = kind == Collective::Send || kind == Collective::Recv;
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
#define SITE ::emu::Call site_(__func__, __builtin_return_address(0))

// --- communicators --------------------------------------------------------------------------------------------------

ncclResult_t ncclGetVersion(int* version) {
    if (!version) return ncclInvalidArgument;
    return *version = NCCL_VERSION_CODE, ncclSuccess;
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
    if (name_in(id).empty())
        return complain(ncclInvalidArgument,
                        "the id does not come from ncclGetUniqueId; was it broadcast to every rank?");
    return join(comm, name_in(id), ranks, rank);
}
ncclResult_t ncclCommInitAll(ncclComm_t* comms, int ranks, const int* devices) {
    SITE;
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
            return complain(ncclInvalidUsage, "device " + std::to_string(device) + " given twice");
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
    if (abort) comm->error = ncclRemoteError;  // what is queued ends
    comm->segment->header->slots[comm->rank].left = abort;
    std::lock_guard guard(table_lock);
    table().erase(handle);
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
        return complain(ncclInvalidArgument, "bad argument");
    *out = nullptr;
    CallRecord call{};
    std::snprintf(call.function, sizeof call.function, "ncclCommSplit");
    call.sequence = ++comm->split;
    call.root = call.op = -1;
    Slot& own           = comm->segment->header->slots[comm->rank];
    // Two steps per split: posted (odd), read (even). Nobody posts the next one before all have read this one.
    auto wait_for_all   = [&](uint64_t step) {
        double since = 0;
        for (;;) {
            const auto absent = behind(*comm, &Slot::split_step, step);
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

ncclResult_t ncclCommCount(const ncclComm_t handle, int* count) {
    const CommPtr comm = find(handle);
    return comm && count ? (*count = comm->ranks, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t handle, int* device) {
    const CommPtr comm = find(handle);
    return comm && device ? (*device = comm->device, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommUserRank(const ncclComm_t handle, int* rank) {
    const CommPtr comm = find(handle);
    return comm && rank ? (*rank = comm->rank, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
    const CommPtr comm = find(handle);
    if (!comm || !error) return ncclInvalidArgument;
    if (comm->error == ncclSuccess && comm->segment->header->aborted)
        fail(*comm, ncclRemoteError,
             "rank " + std::to_string(comm->segment->header->aborted - 1) + " aborted the communicator", false);
    return *error = comm->error, ncclSuccess;
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
    return *handle = buffer, ncclSuccess;
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
    if (!comm || !op || !scalar || !size_of(type)) return complain(ncclInvalidArgument, "bad argument");
    const void* value = scalar;
    if (residence == ncclScalarDevice) {
        cudaDeviceSynchronize();  // read now; the program may not change it between here and the collective
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

ncclResult_t ncclGroupStart() { return group.depth++, ncclSuccess; }
ncclResult_t ncclGroupEnd() {
    SITE;
    if (group.depth == 0) return complain(ncclInvalidUsage, "no ncclGroupStart before it");
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
