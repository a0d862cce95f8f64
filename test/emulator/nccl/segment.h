// segment.h - the shared memory in which the ranks of one communicator meet
//
// Every collective moves in rounds of one chunk: each rank puts its share of the round into its staging area and
// publishes the round; when all have, each takes what it needs and says so; the next round overwrites. Point-to-point
// messages have a channel of their own per ordered pair. Ranks may be processes, threads, or one thread's several
// communicators: nobody ever blocks here, a rank that must wait is asked again.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace emu {

// What a rank called: compared before a byte is moved.
struct CallRecord {
    char function[24];
    uint64_t count, sequence;
    int32_t type, op, root;
};

struct Slot {
    std::atomic<uint64_t> published, consumed;  // rounds, counted over the communicator's life
    std::atomic<int32_t> pid;                   // 0: not here yet
    std::atomic<int32_t> left;                  // destroyed its communicator
    CallRecord call;
    std::atomic<uint64_t> split_step;
    int32_t split_color, split_key;
};

struct Channel {
    std::atomic<uint64_t> written, taken;  // chunks
    CallRecord call;                       // of the message under way
    uint64_t chunk_bytes;
};

constexpr int max_ranks = 64;

struct Header {
    std::atomic<uint32_t> attached;
    std::atomic<int32_t> aborted;  // 1 + the rank that gave up
    int32_t ranks;
    Slot slots[max_ranks];
};

class Segment {
  public:
    // Creates or joins. Throws std::runtime_error with a sentence.
    Segment(const std::string& name, int ranks, int rank);
    ~Segment();
    bool complete() const { return header->attached == uint32_t(header->ranks); }
    void unlink();  // the name; the memory lives as long as somebody maps it

    Header* header;
    size_t chunk_bytes, channel_bytes;
    std::byte* staging(int rank) const { return base + staging_at + size_t(rank) * chunk_bytes; }
    Channel& channel(int from, int to) const;
    std::byte* channel_data(int from, int to) const {
        return reinterpret_cast<std::byte*>(&channel(from, to)) + (sizeof(Channel) + 63) / 64 * 64;
    }

  private:
    std::string name;
    int ranks;
    std::byte* base;
    size_t total, staging_at, channels_at;
};

}  // namespace emu
