// rendezvous.h - how the processes of a run find each other: what the launcher says, and a TCP connection to rank 0
//
// torchrun, Slurm and Open MPI start the processes, and say in the environment which is which. Each connects to rank 0
// at MASTER_ADDR and MASTER_PORT, and proves with a Hello that it belongs to the same run.
#pragma once
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/check.h"

struct Ranks {
    int rank = 0, world = 1;                            // the rank of this process, and the number of processes
    int local           = 0;                            // its rank on its machine, which is the index of its GPU
    int neighbours      = 1;                            // the processes on its machine, itself included
    std::string address = "127.0.0.1", port = "29500";  // rank 0 waits here for the others
};

// Reads what the launcher says. A value that is no number, or a rank outside the world, is an InputError.
inline Ranks ranks_from_environment() {
    const auto text   = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
    const auto number = [&](const char* name, int absent) {
        const std::string value = text(name);
        int n                   = absent;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
        CHECK(value.empty() || (error == std::errc() && end == value.data() + value.size() && n >= 0),
              "{} is '{}' in the environment, expected a number, 0 or more", name, value);
        return n;
    };
    // The rows belong to torchrun, Open MPI and Slurm. Slurm sets SLURM_STEP_NUM_TASKS only for tasks that srun
    // starts, so a batch script is a single process.
    static const char* const launchers[][4] = {
        {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
        {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"}};
    Ranks r;
    for (const auto& [world, rank, local, neighbours] : launchers) {
        r.world = number(world, 1);
        if (r.world <= 1) continue;
        r.rank = number(rank, -1), r.local = number(local, -1);
        CHECK(r.rank >= 0 && r.rank < r.world, "{} is {}, but {} is '{}', expected 0 to {}", world, r.world, rank,
              text(rank), r.world - 1);
        CHECK(r.local >= 0, "{} is {}, but {} is not set; it is the number of this process on its machine", world,
              r.world, local);
        r.neighbours = std::max(number(neighbours, 1), r.local + 1);
        break;
    }
    if (r.world <= 1) return {};
    // When a launcher shows each process a single GPU, as Slurm's --gpus-per-task=1 does, that GPU is number 0.
    const std::string visible = text("CUDA_VISIBLE_DEVICES");
    if (!visible.empty() && visible.find(',') == visible.npos) r.local = 0;
    if (!text("MASTER_ADDR").empty()) r.address = text("MASTER_ADDR");
    // torchrun itself listens on MASTER_PORT, so we use the next port.
    const int port = number("MASTER_PORT", 29500) + (text("TORCHELASTIC_USE_AGENT_STORE") == "True");
    CHECK(port > 0 && port < 65536, "MASTER_PORT is {} in the environment, expected 1 to 65535", port);
    r.port = std::to_string(port);
    return r;
}

// Names the launch that this process belongs to, as the launcher does; "" when it does not. Two launches on one machine
// have two names.
inline std::string launch_from_environment() {
    std::string name;
    for (const char* part : {"PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID"})
        if (const char* value = std::getenv(part)) name += fmt::format("{}={} ", part, value);
    return name;
}

// Only rank 0 prints: the output of the other processes goes to /dev/null.
inline void silence_unless_first(const Ranks& ranks) {
    if (ranks.rank > 0) CHECK_RUN(std::freopen("/dev/null", "w", stdout), "/dev/null: {}", os_error());
}

// A TCP connection to another process. When that process has ended, sending and receiving are RunErrors that name it.
class Connection {
  public:
    Connection(int socket, int rank) : socket_(socket), rank_(rank) {
        // A machine that no longer answers counts as gone after two minutes: 60 s of silence, then 3 tries of 20 s.
        const int on = 1, idle = 60, every = 20, times = 3;
        setsockopt(socket_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        setsockopt(socket_, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        setsockopt(socket_, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
        setsockopt(socket_, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    Connection(Connection&& o) noexcept : socket_(std::exchange(o.socket_, -1)), rank_(o.rank_) {}
    Connection& operator=(Connection&&) = delete;
    ~Connection() {
        if (socket_ >= 0) close(socket_);
    }
    int socket() const { return socket_; }
    int rank() const { return rank_; }
    void set_rank(int rank) { rank_ = rank; }  // called when the other end has told its rank

    void send(const void* data, size_t bytes) const {
        for (size_t done = 0; done < bytes;)
            done += moved(::send(socket_, static_cast<const char*>(data) + done, bytes - done, MSG_NOSIGNAL));
    }
    void receive(void* data, size_t bytes) const {
        for (size_t done = 0; done < bytes;)
            done += moved(recv(socket_, static_cast<char*>(data) + done, bytes - done, 0));
    }
    void send(const std::string& text) const {
        const uint64_t bytes = text.size();
        send(&bytes, sizeof bytes);
        send(text.data(), bytes);
    }
    // Says what has become of the other process, when the connection ended with this number of an error, or with 0.
    std::string lost(int error) const {
        if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH)
            return fmt::format("rank {} cannot be reached any more ({}): its machine is cut off", rank_,
                               std::strerror(error));
        return fmt::format("rank {} has ended, so this process cannot go on", rank_);
    }
    std::string receive() const {
        uint64_t bytes = 0;
        receive(&bytes, sizeof bytes);
        CHECK_RUN(bytes <= 1 << 20, "rank {} sends {} bytes at once, so it is not a process of this run", rank_, bytes);
        std::string text(bytes, '\0');
        receive(text.data(), bytes);
        return text;
    }

  private:
    // Returns how many bytes a call of send() or recv() has moved. n is what that call returned.
    size_t moved(ssize_t n) const {
        if (n < 0 && errno == EINTR) return 0;
        const int error = n < 0 ? errno : 0;
        CHECK_RUN(n > 0, "{}", lost(error));
        return size_t(n);
    }
    int socket_, rank_;
};

// Both ends of a new connection send a Hello first. `run` is the same in all processes of a run.
struct Hello {
    uint64_t magic = 0x7570672e636f6d6d, run = 0;
    int32_t rank = 0, world = 1;
};

// Finds the other processes of a run. Rank 0 gets a connection to every other rank, in their order; every other rank
// gets one, to rank 0. It waits up to `seconds` for processes that have not started yet.
class Rendezvous {
  public:
    Rendezvous(const Ranks& ranks, uint64_t run, int seconds)
        : ranks_(ranks), us_{Hello{}.magic, run, ranks.rank, ranks.world}, seconds_(seconds) {
        addrinfo wanted{}, *found = nullptr;
        wanted.ai_family   = AF_INET;
        wanted.ai_socktype = SOCK_STREAM;
        const int status   = getaddrinfo(ranks.address.c_str(), ranks.port.c_str(), &wanted, &found);
        CHECK_RUN(status == 0, "MASTER_ADDR {}: {}", ranks.address, gai_strerror(status));
        address_ = *reinterpret_cast<const sockaddr_in*>(found->ai_addr);
        freeaddrinfo(found);
    }
    std::vector<Connection> connections() { return ranks_.rank == 0 ? accept_all() : connect_to_first(); }

  private:
    using Clock = std::chrono::steady_clock;
    static int new_socket() {
        const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_RUN(s >= 0, "cannot open a socket: {}", os_error());
        return s;
    }
    bool in_time() const { return Clock::now() < start_ + std::chrono::seconds(seconds_); }
    // Receives the other end's Hello. Returns false when none comes in time or it is not ours: another program may have
    // connected.
    static bool receive_hello(const Connection& c, Hello& theirs, int seconds) {
        timeval limit{seconds, 0};
        setsockopt(c.socket(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        const bool complete = recv(c.socket(), &theirs, sizeof theirs, MSG_WAITALL) == ssize_t(sizeof theirs);
        limit               = {};
        setsockopt(c.socket(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        return complete && theirs.magic == Hello{}.magic;
    }
    bool same_run(const Hello& theirs) const { return theirs.run == us_.run && theirs.world == us_.world; }

    std::vector<Connection> accept_all() {
        const Connection listener(new_socket(), 0);
        const int on = 1;
        setsockopt(listener.socket(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const bool loopback = ntohl(address_.sin_addr.s_addr) >> 24 == 127;
        if (!loopback) address_.sin_addr.s_addr = htonl(INADDR_ANY);
        CHECK_RUN(bind(listener.socket(), reinterpret_cast<sockaddr*>(&address_), sizeof address_) == 0 &&
                      listen(listener.socket(), 128) == 0,
                  "rank 0 cannot listen on port {}: {}; MASTER_PORT in the environment chooses another", ranks_.port,
                  os_error());
        std::map<int, Connection> found;
        while (int(found.size()) < ranks_.world - 1) {
            pollfd incoming{listener.socket(), POLLIN, 0};
            if (poll(&incoming, 1, 100) > 0) {
                Connection c(accept4(listener.socket(), nullptr, nullptr, SOCK_CLOEXEC), 0);
                Hello theirs;
                if (c.socket() < 0 || !receive_hello(c, theirs, 5)) continue;
                ::send(c.socket(), &us_, sizeof us_, MSG_NOSIGNAL);
                if (same_run(theirs) && theirs.rank > 0 && theirs.rank < ranks_.world)
                    found.emplace(theirs.rank, std::move(c)).first->second.set_rank(theirs.rank);
            }
            std::string missing;
            for (int rank = 1; rank < ranks_.world; rank++)
                if (!found.count(rank)) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", rank);
            CHECK_RUN(in_time(), "rank 0 of {} waited {} s for rank {}; every process needs the same command",
                      ranks_.world, seconds_, missing);
        }
        std::vector<Connection> all;
        for (auto& [rank, connection] : found) all.push_back(std::move(connection));
        return all;
    }

    std::vector<Connection> connect_to_first() {
        for (;; std::this_thread::sleep_for(std::chrono::milliseconds(100))) {
            Connection c(new_socket(), 0);
            if (connect(c.socket(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) == 0) {
                // connect() to a loopback port that nobody listens on can connect a socket to itself, and then the
                // Hello is our own.
                Hello theirs;
                ::send(c.socket(), &us_, sizeof us_, MSG_NOSIGNAL);
                if (receive_hello(c, theirs, seconds_) && theirs.rank == 0) {
                    CHECK_RUN(same_run(theirs),
                              "port {} of {} is rank 0 of another run: every process needs the same command, and "
                              "MASTER_PORT in the environment chooses another port",
                              ranks_.port, ranks_.address);
                    std::vector<Connection> one;
                    one.push_back(std::move(c));
                    return one;
                }
            }
            CHECK_RUN(in_time(),
                      "rank {} of {} waited {} s for rank 0 at {} port {}; MASTER_ADDR in the environment "
                      "says on which machine it runs",
                      ranks_.rank, ranks_.world, seconds_, ranks_.address, ranks_.port);
        }
    }

    Ranks ranks_;
    Hello us_;
    int seconds_;
    sockaddr_in address_{};
    Clock::time_point start_ = Clock::now();
};
