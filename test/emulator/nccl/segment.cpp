#include "segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace emu {

// A communicator takes 32 MB whatever its size, because containers often limit /dev/shm to 64 MB.
constexpr size_t staging_total = 16 << 20, channels_total = 16 << 20;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

Segment::Segment(const std::string& name, int ranks, int rank) : name(name), ranks(ranks) {
    chunk_bytes   = staging_total / size_t(ranks) / 4096 * 4096;
    channel_bytes = channels_total / size_t(ranks * ranks) / 64 * 64 - round_up(sizeof(Channel), 64);
    staging_at    = round_up(sizeof(Header), 4096);
    channels_at   = staging_at + chunk_bytes * size_t(ranks);
    total         = channels_at + channels_total;
    const int fd  = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
    if (fd < 0) throw std::runtime_error("shared memory " + name + ": " + std::strerror(errno));
    const int error = posix_fallocate(fd, 0, off_t(total));  // filled with zeros by the first rank
    void* memory    = error ? MAP_FAILED : mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED)
        throw std::runtime_error(std::to_string(total >> 20) + " MB of shared memory for " + std::to_string(ranks) +
                                 " ranks: " + std::strerror(error ? error : errno) +
                                 "; /dev/shm must be larger (docker: --shm-size)");
    base          = static_cast<std::byte*>(memory);
    header        = reinterpret_cast<Header*>(base);
    header->ranks = ranks;
    int nobody    = 0;
    if (!header->slots[rank].pid.compare_exchange_strong(nobody, int32_t(getpid()))) {
        munmap(memory, total);
        throw std::runtime_error("rank " + std::to_string(rank) + " has joined this communicator already");
    }
    header->attached++;
}

Segment::~Segment() { munmap(base, total); }

void Segment::unlink() { shm_unlink(name.c_str()); }

Channel& Segment::channel(int from, int to) const {
    const size_t stride = channel_bytes + round_up(sizeof(Channel), 64);
    return *reinterpret_cast<Channel*>(base + channels_at + size_t(from * ranks + to) * stride);
}

}  // namespace emu
