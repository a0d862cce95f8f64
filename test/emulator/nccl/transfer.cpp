// transfer.cpp - how the operations of a group move data between the ranks
#include "transfer.h"

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>

#include "reduce.h"

namespace emu::nccl {

std::string& last_error_text = *new std::string("no error");

static std::string describe(const CallRecord& call) {
    std::string text =
        std::string(call.function) + "(count " + std::to_string(call.count) + ", " + name_of(ncclDataType_t(call.type));
    if (call.op >= 0) text += std::string(", ") + name_of(ncclRedOp_t(call.op));
    if (call.root >= 0) text += ", root " + std::to_string(call.root);
    return text + "), its call number " + std::to_string(call.sequence);
}
static bool same(const CallRecord& a, const CallRecord& b) {
    return !std::strcmp(a.function, b.function) && a.count == b.count && a.type == b.type && a.op == b.op &&
           a.root == b.root;
}

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

bool check_peers(ncclComm& comm, const CallRecord& mine, double& since, const std::vector<int>& awaited) {
    Header& header = *comm.segment->header;
    if (comm.error != ncclSuccess) return true;
    const auto was_aborted = [&] {
        const int who = header.aborted;
        if (who) fail(comm, ncclRemoteError, "rank " + std::to_string(who - 1) + " aborted the communicator", false);
        return who != 0;
    };
    if (was_aborted()) return true;
    if (since == 0) since = now();
    for (const int rank : awaited) {
        const int pid   = header.slots[rank].pid;
        const bool gone = (pid && kill(pid, 0) != 0 && errno == ESRCH) || header.slots[rank].left;
        if (!gone && now() - since < patience()) continue;
        if (gone && was_aborted()) return true;  // a rank that aborts says so before it leaves
        const CallRecord& theirs = header.slots[rank].call;
        const std::string last =
            theirs.sequence ? "; the last call of that rank was " + describe(theirs) : std::string();
        fail(
            comm, ncclRemoteError,
            "this rank waits in " + describe(mine) + " for rank " + std::to_string(rank) +
                (gone ? ", which has ended" : ", which has not arrived for " + std::to_string(int(patience())) + " s") +
                last,
            true);
        return true;
    }
    return false;
}

size_t element(const Operation& o) { return size_of(ncclDataType_t(o.call.type)); }

// Returns how many bytes this rank contributes in all, if it contributes. received() does the same for the result.
static size_t contribution(const Operation& o, const ncclComm& comm) {
    const size_t bytes = o.call.count * element(o);
    const bool wide =
        o.kind == Collective::ReduceScatter || o.kind == Collective::AllToAll || o.kind == Collective::Scatter;
    return wide ? bytes * size_t(comm.ranks) : bytes;
}
static bool contributes(const Operation& o, const ncclComm& comm) {
    return (o.kind != Collective::Broadcast && o.kind != Collective::Scatter) || comm.rank == o.call.root;
}
static size_t received(const Operation& o, const ncclComm& comm) {
    const size_t bytes = o.call.count * element(o);
    const bool rooted  = o.kind == Collective::Reduce || o.kind == Collective::Gather;
    if (rooted && comm.rank != o.call.root) return 0;
    const bool wide = o.kind == Collective::AllGather || o.kind == Collective::AllToAll || o.kind == Collective::Gather;
    return wide ? bytes * size_t(comm.ranks) : bytes;
}

static bool device_range(Address a, size_t bytes, Access access, const Operation& o, uint32_t op, int device) {
    if (bytes == 0) return true;
    const std::string what = std::string(o.call.function) + (access == Access::Read ? ": sendbuff" : ": recvbuff");
    if (!Memory::get().check_device(a, bytes, access, what.c_str(), op, device)) return false;
    if (access == Access::Write) Memory::get().mark_written(a, bytes);
    return true;
}

// Writes the part of this rank's result that comes from bytes [from, from + n) of every contribution.
static void take_round(const Operation& o, ncclComm& comm, size_t from, size_t n) {
    const Segment& s   = *comm.segment;
    const size_t bytes = o.call.count * element(o);
    std::byte* out     = Memory::get().host(o.receive);
    const size_t mine  = size_t(comm.rank) * bytes;
    // The overlap of the round with this rank's part of contributions that have a part for each rank.
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
static void apply_scale(std::byte* data, size_t bytes, const Operation& o) {
    reduce(data, {data}, bytes / element(o), ncclDataType_t(o.call.type), ncclSum, {o.scale});
}

std::vector<int> ranks_behind(const ncclComm& comm, std::atomic<uint64_t> Slot::*counter, uint64_t round) {
    std::vector<int> ranks;
    for (int rank = 0; rank < comm.ranks; rank++)
        if (comm.segment->header->slots[rank].*counter < round) ranks.push_back(rank);
    return ranks;
}

// Goes as far as the other ranks allow. Returns true when the operation has finished or failed.
static bool advance_collective(Operation& o, ncclComm& comm, uint32_t op) {
    Segment& s         = *comm.segment;
    Slot& own          = s.header->slots[comm.rank];
    const size_t total = contribution(o, comm);
    if (!o.started) {
        o.started       = true;
        const bool fine = (!contributes(o, comm) || device_range(o.send, total, Access::Read, o, op, comm.device)) &&
                          device_range(o.receive, received(o, comm), Access::Write, o, op, comm.device);
        if (!fine) {
            fail(comm, ncclInvalidArgument, std::string(o.call.function) + " was given memory that it cannot use",
                 false);
            return true;
        }
    }
    const size_t chunk = s.chunk_bytes / element(o) * element(o);
    for (;;) {
        const uint64_t round = comm.round + 1;
        const size_t n       = std::min(chunk, total - o.offset);
        if (!o.posted) {
            const auto slow = ranks_behind(comm, &Slot::consumed, round - 1);
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
        const auto absent = ranks_behind(comm, &Slot::published, round);
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

static bool advance_send(Operation& o, ncclComm& comm, uint32_t op) {
    Channel& c         = comm.segment->channel(comm.rank, o.peer);
    const size_t total = o.call.count * element(o);
    if (!o.started) {
        o.started = true;
        if (!device_range(o.send, total, Access::Read, o, op, comm.device)) {
            fail(comm, ncclInvalidArgument, "ncclSend was given memory that it cannot use", false);
            return true;
        }
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

static bool advance_recv(Operation& o, ncclComm& comm, uint32_t op) {
    Channel& c         = comm.segment->channel(o.peer, comm.rank);
    const size_t total = o.call.count * element(o);
    if (!o.started) {
        o.started = true;
        if (!device_range(o.receive, total, Access::Write, o, op, comm.device)) {
            fail(comm, ncclInvalidArgument, "ncclRecv was given memory that it cannot use", false);
            return true;
        }
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

}  // namespace emu::nccl
