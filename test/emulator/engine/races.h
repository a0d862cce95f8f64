// races.h - the checks for races between threads, blocks, streams and the host
#pragma once
#include <map>
#include <string>

#include "access.h"
#include "memory.h"

namespace emu {

// The state of a cluster's race checks: records of its shared memory, and what orders its warps. A record is
// time (28 bits) | how much earlier the other reader was (10) | other reader (12) | flags (2) | thread (12). Warps and
// threads are numbered through the cluster: Warp::actor.
struct SharedRaces {
    std::vector<uint64_t> writer, reader;  // of the granules, those of one block after those of another
    uint64_t pitch = 0;                    // the bytes from one block to the next
    uint64_t time = 1, all_since = 1;      // now, and the last barrier of all threads of the cluster
    uint64_t start = 0;                    // of this cluster; the time goes on from one cluster to the next
    std::vector<uint64_t> knows;           // [w * stride + v]: the last barrier at which warps w and v met
    size_t stride = 0;                     // the number of warps, or that of columns twice
    // Per block:
    std::vector<uint64_t> block_since;  // the last barrier of all threads of the block or of the cluster
    std::vector<uint64_t> visited;      // when another block last touched its memory
    // Per warp:
    std::vector<uint64_t> warp_since;  // its last __syncwarp or barrier
    std::vector<uint64_t> fenced;      // its last fence
    std::vector<uint64_t> released;    // its last fence, also of the initialisation of mbarriers
    std::vector<uint64_t> agreed;      // its last fence that was followed by an atomic or volatile access
    std::vector<uint64_t> exchanged;   // its last exchange (shuffle, vote …) after a read
    std::vector<uint32_t> exchangers;  // the lanes that took part in it
    std::vector<uint8_t> has_read;     // 1 when it has read since then
    std::vector<uint8_t> listens;      // 1 after an atomic or volatile access, or a fence
    std::vector<uint8_t> turn;         // its number, and 3 bits that change when it synchronises
    bool partial = false;              // there was a fence, or a barrier of some of the warps
    int shift    = 2;                  // log2 of the bytes of a granule

    // When a block first uses an mbarrier or the async proxy, its rows of `knows` get more columns. Behind the warps
    // are those of the mbarriers by which bulk copies end: what such a copy has written is recorded as the write of a
    // thread of that column. The last columns are those of the warpgroups: what wgmma reads is recorded as their read.
    // The other half of a row says up to which time a warp's generic writes lie before a fence.proxy.async that the
    // row's warp knows of. The rows of a cluster of several blocks are so from the start.
    static constexpr size_t kMostColumns = 128;  // a thread has 12 bits in a record
    size_t columns                       = 32;
    struct Clock {
        std::vector<uint64_t> arrived, over;  // rows: what arrivals of this phase know, and those of completed phases
        size_t column;                        // of the copies that end by it; 0: no column is left
        uint64_t init = 0;                    // when it was initialised and not fenced since, and by which thread
        uint32_t by   = 0;
    };
    std::map<uint64_t, Clock> clocks;  // of the mbarriers, by their place among the granules' bytes
    Clock barrier;                     // of the cluster; its phase is over when all have arrived
    bool relaxed = false;              // a thread has arrived there in this phase by barrier.cluster.arrive.relaxed
    // By the number of a barrier: what those know who have arrived there without waiting (bar.arrive).
    std::map<uint64_t, std::vector<uint64_t>> passed;
    // A warp's last access to the shared memory of each other block: [block * warps + warp].
    struct Visit {
        uint64_t time    = 0;  // 0: none
        const Instr* at  = nullptr;
        Function* in     = nullptr;
        int lane         = 0;
        uint64_t address = 0;
    };
    std::vector<Visit> visits;
    void widen();
    bool wide() const { return stride == 2 * columns; }
    size_t warps() const { return warp_since.size(); }
    // The number of columns for warpgroups, or 0 when they would leave none for mbarriers.
    size_t warpgroup_columns() const { return warps() + warps() / 4 < columns ? warps() / 4 : 0; }
    size_t column_of(const Block& b, uint32_t warpgroup) const {  // warpgroups are numbered within their block
        return columns - 1 - (b.records * (b.warps.size() / 4) + warpgroup);
    }
    uint64_t place(const Block& b, uint64_t at) const { return b.records * pitch + at; }
    // Before this time every access to the block's memory is ordered before one that this warp makes now. Those of
    // other blocks are not ordered by a barrier of this block.
    uint64_t since(const Warp& w, const Block& of) const {
        return w.block == &of && visited[of.records] < all_since ? block_since[of.records] : all_since;
    }

    void synchronised(const Warp& w) { turn[w.actor] = uint8_t((w.index & 31) | time << 5); }
    void uses_flag(size_t warp) { listens[warp] = 1, agreed[warp] = fenced[warp]; }
    // Returns whether an access by warp v at the time `when` is ordered before one that warp w makes now.
    bool ordered(size_t w, size_t v, uint64_t when) const {
        if (when < all_since) return true;
        if (w == v) return when < warp_since[w] || when < agreed[w];
        return when < knows[w * stride + v] || (v < fenced.size() && fenced[v] > when && listens[w]);
    }
};

// These return true when the last access to each lane's bytes was the same one, so that nothing has to be checked.
bool known_shared(const Warp& w, uint32_t size, Touch touch, const Reach& r);
bool known_global(const Warp& w, uint32_t size, Touch touch, const Reach& r);

inline uint64_t actor_thread(const Warp& w, int lane) { return w.actor * kLanes + uint64_t(lane); }

// shared_races.cpp
void start_shared_races(Cluster& c);
// The block ends: no other block's access to its shared memory may be open.
void end_shared_races(Block& b);
void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// Reports bytes that threads wrote with no fence.proxy.async before the async proxy reads them now.
void check_proxy(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader);
void check_proxy_of_barrier(Warp& w, const Instr* i, int lane, Block& b, uint64_t barrier);
void record_copy(const BulkCopy& c, size_t column);  // records its bytes as written by that column's thread
// What wgmma reads: chunks of 16 bytes at these places. When a warp comes to a product, it must be ordered after those
// who wrote them. When the product is made, its reads are recorded with a time, which a wait makes known to its warp.
void check_wgmma_reads(Warp& w, const Instr* i, const uint32_t* at, size_t n);
uint64_t record_wgmma_reads(Warp& w, uint32_t warpgroup, const uint32_t* at, size_t n);

// race_clocks.cpp
// Returns the clock of an mbarrier, which is made at its first use.
SharedRaces::Clock& clock_of(Block& b, uint64_t barrier);
// An mbarrier orders those who arrive, and the copies that end by it, before those who wait for the phase.
void clock_arrival(Warp& w, Block& b, uint64_t barrier);  // at a barrier of block b
void clock_copy(const BulkCopy& c);                       // the copy has written its bytes
void clock_start_copy(Warp& w, BulkCopy& c);              // the warp starts a copy to another block
void clock_phase(Block& b, uint64_t barrier);             // the phase is over
void clock_wait(Warp& w, uint64_t barrier);
void clock_init(Warp& w, int lane, uint64_t barrier);
// The barrier of a cluster does the same.
void clock_cluster_arrival(Warp& w, bool relaxed);
void clock_cluster_barrier(Cluster& c);  // its phase is over
void clock_cluster_wait(Warp& w);
// A fence.proxy.async; or, with `of_init`, fence.mbarrier_init.
void proxy_fence(Warp& w, bool of_init);
void learn_wgmma_reads(Warp& w, uint32_t warpgroup, uint64_t time);

// global_races.cpp
void start_global_races(Block& b);
void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op);
void forget_races(Address a, size_t bytes);  // called when the memory is freed

// host_guard.cpp: memory that the host must not touch; see Memory::own.
struct HostOwner {
    Address begin;
    size_t bytes;
    Access access;
    std::string what;
};
void install_fault_handler();

// A write that is not ordered with another write to the same place. It is a race unless both store the same value,
// which is known only after the store.
struct Suspect {
    Warp* warp;
    const Instr* at;
    int lane;
    uint64_t address, other;  // `other` identifies the other access
    Finding (*finding)(const Suspect&);
    uint32_t bytes;
    const std::byte* place;
    std::byte before[16];
    const Block* of = nullptr;  // of shared memory: whose it is
};
inline void suspect(Suspect s) {
    std::memcpy(s.before, s.place, s.bytes);
    s.warp->worker->suspects.push_back(s);
}
void settle_suspects(Worker& worker);
// Called after every store.
inline void settle(Warp& w) {
    if (!w.worker->suspects.empty()) [[unlikely]]
        settle_suspects(*w.worker);
}

// Returns true when this store only adds to the count of an info that has been reported for the instruction:
// overlapping stores of the same value.
bool overlaps_again(Warp& w, const Instr* i, uint32_t size, const Reach& r);

}  // namespace emu
