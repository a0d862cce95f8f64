// comm.h - the processes of a run: who is who, what their hosts tell each other, and sums over their GPUs
//
// torchrun, Slurm and Open MPI start the processes and say in the environment which is which; a world of one needs none
// of this. Tensors are added up by NCCL. Beside it every process keeps a TCP connection to rank 0, for the little that
// hosts have to tell each other. When a process ends, however it ends, its connections close; a thread in each of the
// others sees that and ends them too, where NCCL would wait for ever.
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
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/collective.h"
#include "kernels/random.h"

struct Ranks {
    int rank = 0, world = 1;  // of all processes
    int local           = 0;  // of those on this machine: the number of its GPU
    // Where rank 0 waits for the others.
    std::string address = "127.0.0.1", port = "29500";
};

// What the launcher says. A value that is no number, or a rank outside the world, is an InputError.
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
    // The second row is Open MPI's, the third Slurm's: of srun's tasks, not of a batch script, which is one process.
    static const char* const launchers[][3] = {
        {"WORLD_SIZE", "RANK", "LOCAL_RANK"},
        {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"},
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"}};
    Ranks r;
    for (const auto& [world, rank, local] : launchers) {
        r.world = number(world, 1);
        if (r.world <= 1) continue;
        r.rank = number(rank, -1), r.local = number(local, -1);
        CHECK(r.rank >= 0 && r.rank < r.world, "{} is {}, but {} is '{}', expected 0 to {}", world, r.world, rank,
              text(rank), r.world - 1);
        CHECK(r.local >= 0, "{} is {}, but {} is not set: the number of this process on its machine", world, r.world,
              local);
        break;
    }
    if (r.world <= 1) return {};
    // A launcher that shows every process its own GPU and no other: Slurm's --gpus-per-task=1.
    const std::string visible = text("CUDA_VISIBLE_DEVICES");
    if (!visible.empty() && visible.find(',') == visible.npos) r.local = 0;
    if (!text("MASTER_ADDR").empty()) r.address = text("MASTER_ADDR");
    // torchrun listens on MASTER_PORT itself, so ours is the next one.
    const int port = number("MASTER_PORT", 29500) + (text("TORCHELASTIC_USE_AGENT_STORE") == "True");
    CHECK(port > 0 && port < 65536, "MASTER_PORT is {} in the environment, expected 1 to 65535", port);
    r.port = std::to_string(port);
    return r;
}

// A connection to another process. Its errors are RunErrors that name the process at the other end.
class Connection {
  public:
    Connection(int socket, int rank) : socket_(socket), rank_(rank) {
        const int on = 1, idle = 60, every = 20, times = 3;  // a machine that fell silent is gone after two minutes
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
    void belongs_to(int rank) { rank_ = rank; }

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
    std::string receive() const {
        uint64_t bytes = 0;
        receive(&bytes, sizeof bytes);
        CHECK_RUN(bytes <= 1 << 20, "rank {} sends {} bytes at once: not a process of this run", rank_, bytes);
        std::string text(bytes, '\0');
        receive(text.data(), bytes);
        return text;
    }

  private:
    size_t moved(ssize_t n) const {
        if (n < 0 && errno == EINTR) return 0;
        CHECK_RUN(n > 0, "rank {} has ended, so this process cannot go on", rank_);
        return size_t(n);
    }
    int socket_, rank_;
};

// What both ends of a new connection say first.
struct Hello {
    uint64_t magic = 0x7570672e636f6d6d, run = 0;  // run: the same in all processes of a run and in no other
    int32_t rank = 0, world = 1;
};

// Finds the other processes: rank 0 gets a connection to each, in order; each of them one to rank 0. Waits for those
// that are not there yet, for so many seconds.
class Meeting {
  public:
    Meeting(const Ranks& ranks, uint64_t run, int seconds)
        : ranks_(ranks), us_{Hello{}.magic, run, ranks.rank, ranks.world}, seconds_(seconds) {
        addrinfo wanted{}, *found = nullptr;
        wanted.ai_family   = AF_INET;
        wanted.ai_socktype = SOCK_STREAM;
        const int status   = getaddrinfo(ranks.address.c_str(), ranks.port.c_str(), &wanted, &found);
        CHECK_RUN(status == 0, "MASTER_ADDR {}: {}", ranks.address, gai_strerror(status));
        address_ = *reinterpret_cast<const sockaddr_in*>(found->ai_addr);
        freeaddrinfo(found);
    }
    std::vector<Connection> connections() { return ranks_.rank == 0 ? wait_for_all() : to_first(); }

  private:
    using Clock = std::chrono::steady_clock;
    static int new_socket() {
        const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_RUN(s >= 0, "cannot open a socket: {}", os_error());
        return s;
    }
    bool in_time() const { return Clock::now() < start_ + std::chrono::seconds(seconds_); }
    // A stranger may never say anything.
    static bool hear(const Connection& c, Hello& theirs, int seconds) {
        timeval limit{seconds, 0};
        setsockopt(c.socket(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        const bool heard = recv(c.socket(), &theirs, sizeof theirs, MSG_WAITALL) == ssize_t(sizeof theirs);
        limit            = {};
        setsockopt(c.socket(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        return heard && theirs.magic == Hello{}.magic;
    }
    bool same_run(const Hello& theirs) const { return theirs.run == us_.run && theirs.world == us_.world; }

    std::vector<Connection> wait_for_all() {
        const Connection door(new_socket(), 0);
        const int on = 1;
        setsockopt(door.socket(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const bool only_here = ntohl(address_.sin_addr.s_addr) >> 24 == 127;
        if (!only_here) address_.sin_addr.s_addr = htonl(INADDR_ANY);
        CHECK_RUN(bind(door.socket(), reinterpret_cast<sockaddr*>(&address_), sizeof address_) == 0 &&
                      listen(door.socket(), 128) == 0,
                  "rank 0 cannot listen on port {}: {}; MASTER_PORT in the environment chooses another", ranks_.port,
                  os_error());
        std::map<int, Connection> found;
        while (int(found.size()) < ranks_.world - 1) {
            pollfd knock{door.socket(), POLLIN, 0};
            if (poll(&knock, 1, 100) > 0) {
                Connection c(accept4(door.socket(), nullptr, nullptr, SOCK_CLOEXEC), 0);
                Hello theirs;
                if (c.socket() < 0 || !hear(c, theirs, 5)) continue;
                ::send(c.socket(), &us_, sizeof us_, MSG_NOSIGNAL);
                if (same_run(theirs) && theirs.rank > 0 && theirs.rank < ranks_.world)
                    found.emplace(theirs.rank, std::move(c)).first->second.belongs_to(theirs.rank);
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

    std::vector<Connection> to_first() {
        for (;; std::this_thread::sleep_for(std::chrono::milliseconds(100))) {
            Connection c(new_socket(), 0);
            if (connect(c.socket(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) == 0) {
                Hello theirs;  // not of rank 0: while nobody listens yet, a socket can get a connection to itself
                ::send(c.socket(), &us_, sizeof us_, MSG_NOSIGNAL);
                if (hear(c, theirs, seconds_) && theirs.rank == 0) {
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

// This process among the others. In a world of one, every call returns what it was given.
class Comm {
  public:
    // run: a number that all processes of this run have in common, and those of no other.
    Comm(const Ranks& ranks, uint64_t run, int seconds = 600) : ranks_(ranks) {
        if (alone()) return;
        others_ = Meeting(ranks, run, seconds).connections();
        CHECK_RUN(pipe2(end_, O_CLOEXEC) == 0, "cannot open a pipe: {}", os_error());
        watcher_ = std::thread([this] { watch(); });
    }
    ~Comm() { stop_watching(); }
    Comm(const Comm&)            = delete;
    Comm& operator=(const Comm&) = delete;

    int rank() const { return ranks_.rank; }
    int world() const { return ranks_.world; }
    bool alone() const { return ranks_.world == 1; }
    bool first() const { return ranks_.rank == 0; }

    // What rank 0 gave.
    std::string share(const std::string& text) const {
        if (!first()) return others_[0].receive();
        for (const Connection& c : others_) c.send(text);
        return text;
    }
    // The mean of what they gave, added up in the order of the ranks.
    double mean(double value) const {
        if (!first()) {
            others_[0].send(&value, sizeof value);
            others_[0].receive(&value, sizeof value);
            return value;
        }
        for (const Connection& c : others_) {
            double theirs = 0;
            c.receive(&theirs, sizeof theirs);
            value += theirs;
        }
        value /= world();
        for (const Connection& c : others_) c.send(&value, sizeof value);
        return value;
    }
    // A RunError of rank 0 unless they all give the same.
    void expect_same(const std::string& text, const char* what) const {
        if (!first()) return others_[0].send(text);
        for (const Connection& c : others_) {
            const std::string theirs = c.receive();
            CHECK_RUN(theirs == text, "{} of rank {} are {}, and of rank 0 {}: they must be the same to the bit", what,
                      c.rank(), theirs, text);
        }
    }

    // The same for a text that costs something to make: a lone process does not make it.
    void expect_same(const std::function<std::string()>& text, const char* what) const {
        if (!alone()) expect_same(text(), what);
    }
    // Whether any process was asked to stop. `votes` is how many had been when the step began, summed over the
    // processes, so that all of them decide alike; a lone process is heard at once.
    bool any(float votes, bool asked) const { return alone() ? asked : votes > 0; }

    // From here on their GPUs can add up.
    void join_gpus(Stream s) {
        if (alone()) return;
        const std::string id = share(first() ? Collective::new_id() : "");
        gpus_                = std::make_unique<Collective>(id, rank(), world(), s);
    }
    // Each tensor, in fp32, becomes its sum over the processes; queued like an op.
    void sum(std::initializer_list<Tensor> tensors) const {
        if (!alone()) gpus_->sum(tensors);
    }

    // At the end of a run: waits until all have come here, so that nobody takes an end for an accident.
    void finish() {
        if (alone()) return;
        if (gpus_) gpus_->finish();
        char done = 0;
        if (first()) {
            for (const Connection& c : others_) c.receive(&done, 1);
            stop_watching();
            for (const Connection& c : others_) c.send(&done, 1);
        } else {
            stop_watching();
            others_[0].send(&done, 1);
            others_[0].receive(&done, 1);
        }
    }

  private:
    void watch() const {
        std::vector<pollfd> all = {{end_[0], POLLIN, 0}};
        for (const Connection& c : others_) all.push_back({c.socket(), POLLRDHUP, 0});
        while (poll(all.data(), all.size(), -1) <= 0) {}
        if (all[0].revents) return;
        // When all fail for one reason, each says so itself within two seconds.
        if (poll(all.data(), 1, 2000) > 0) return;
        for (size_t i = 1; i < all.size(); i++)
            if (all[i].revents)
                fmt::print(stderr, "error: rank {} has ended, so this process cannot go on\n", others_[i - 1].rank());
        std::_Exit(1);
    }
    void stop_watching() {
        if (!watcher_.joinable()) return;
        close(end_[1]);
        watcher_.join();
        close(end_[0]);
    }

    Ranks ranks_;
    std::unique_ptr<Collective> gpus_;
    std::vector<Connection> others_;  // of rank 0: all the others; of the others: rank 0
    int end_[2] = {-1, -1};
    std::thread watcher_;
};
