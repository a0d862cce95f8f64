// comm.h - how the processes of a run work together: they sum tensors, exchange short messages, and end together
//
// NCCL moves tensors between GPUs, and MPI those of CPUs. For short messages, every process keeps a TCP connection to
// rank 0. However a process ends, its connections close. A thread in every other process sees that and ends its own
// process, where NCCL and MPI would wait for ever. A process that hangs or is cut off closes nothing. So over a second
// connection rank 0 and every other process tell each other each second how far they have come.
#pragma once
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <functional>
#include <future>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gpt/rendezvous.h"
#include "kernels/collective.h"

// Connects this process with the others. Every process makes the same calls in the same order. In a world of one, each
// call returns at once what it was given, so callers need not ask how many processes there are.
class Comm {
  public:
    // Waits up to `seconds` until all processes have connected. `run` is a number that all processes of one command
    // share, and no other command has. All processes end when one of them sends nothing for `timeout` seconds, or when
    // no process gets on in a step for that long. With a `timeout` of 0 they wait for ever.
    Comm(const Ranks& ranks, uint64_t run, int seconds = 600, int timeout = 0)
        : ranks_(ranks), run_(run), timeout_(timeout) {
        if (alone()) return;
        others_        = Rendezvous(ranks, run, seconds).connections();
        char host[256] = "";
        gethostname(host, sizeof host - 1);
        if (!first()) others_[0].send(std::string(host));
        if (first())
            for (const Connection& c : others_) hosts_.push_back(c.receive());
        const std::string of_first = share(host);  // once this has come, rank 0 no longer listens for the first ones
        if (!first()) hosts_.push_back(of_first);
        beats_ = Rendezvous(ranks, ~run, seconds).connections();
        CHECK_RUN(pipe2(end_, O_CLOEXEC) == 0, "cannot open a pipe: {}", os_error());
        watcher_ = std::thread([this] { watch(); });
    }
    // Connects the same processes once more, for messages of another thread. This object goes on watching over them.
    std::unique_ptr<Comm> beside() const {
        std::unique_ptr<Comm> comm(new Comm(ranks_));
        barrier();  // rank 0 no longer listens for the connections before
        if (!alone()) comm->others_ = Rendezvous(ranks_, run_ + 1, 600).connections();
        return comm;
    }
    ~Comm() { stop_watching(); }
    Comm(const Comm&)            = delete;
    Comm& operator=(const Comm&) = delete;

    int rank() const { return ranks_.rank; }
    int world() const { return ranks_.world; }
    bool alone() const { return ranks_.world == 1; }
    bool first() const { return ranks_.rank == 0; }

    // Returns in every process the text that rank 0 gave, of at most a mebibyte.
    std::string share(const std::string& text) const {
        if (!first()) return others_[0].receive();
        for (const Connection& c : others_) c.send(text);
        return text;
    }
    // Copies rank 0's bytes, however many, over those of every other process.
    void share(void* data, size_t bytes) const {
        if (!first()) return others_[0].receive(data, bytes);
        for (const Connection& c : others_) c.send(data, bytes);
    }
    // Returns in every process the mean of all values, summed in the order of the ranks.
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
    // Throws a RunError in rank 0 unless all processes give the same text. `what` names it, in the plural.
    void expect_same(const std::string& text, const char* what) const {
        if (!first()) return others_[0].send(text);
        for (const Connection& c : others_) {
            const std::string theirs = c.receive();
            CHECK_RUN(theirs == text,
                      "{} of rank {} are {}, but those of rank 0 are {}; they must be the same to the bit", what,
                      c.rank(), theirs, text);
        }
    }
    // Compares likewise a text that costs time to make. A process that is alone does not make it.
    void expect_same(const std::function<std::string()>& text, const char* what) const {
        if (!alone()) expect_same(text(), what);
    }
    // Ends all processes with an error, in the same words, unless all give the same facts. The error names the first
    // rank that differs from rank 0 and the fact. Where the fact is a command, the error shows its options that differ.
    using Facts = std::vector<std::pair<std::string, std::string>>;  // what, and its value
    void agree(const Facts& facts) const {
        if (alone()) return;
        std::string refusal;
        if (first()) {
            for (const Connection& c : others_)
                for (const auto& [what, value] : facts)
                    if (const std::string theirs = c.receive(); theirs != value && refusal.empty())
                        refusal =
                            fmt::format("rank {} has another {} than rank 0\n    rank {}: {}\n    rank 0: {}", c.rank(),
                                        what, c.rank(), apart_from(value, theirs), apart_from(theirs, value));
        } else {
            for (const auto& [what, value] : facts) others_[0].send(value);
        }
        throw_in_all(refusal, 1);
    }
    // Waits until all processes have called it. A process that has failed gives its reason and its exit code, the
    // others "". When there is a reason, throws in every process an error that names the first rank with one and has
    // its exit code. All have the same code, because a launcher returns that of whichever process ends first. Rank 0
    // alone prints the error.
    void fail_together(const std::string& reason, int exit_code = 1) const {
        if (alone()) return throw_in_all(reason, exit_code);
        if (!first()) {
            others_[0].send(with_code(reason, exit_code));
            return throw_in_all("", 0);
        }
        std::string of_all = reason.empty() ? "" : "rank 0: " + reason;
        for (const Connection& c : others_)
            if (const std::string theirs = c.receive(); !theirs.empty() && of_all.empty()) {
                of_all    = fmt::format("rank {}: {}", c.rank(), theirs.substr(1));
                exit_code = code_in(theirs);
            }
        throw_in_all(of_all, exit_code);
    }
    // Does work() in every process. When it fails in one of them, all end, and rank 0 says why.
    template <class Work>
    void attempt(Work work) const {
        std::string reason;
        int exit_code = 1;
        std::exception_ptr failure;
        try {
            work();
        } catch (const std::exception& e) {
            reason    = message_of(e);
            exit_code = exit_code_of(e);
            failure   = std::current_exception();
        }
        try {
            fail_together(reason, exit_code);
        } catch (const Error&) {
            if (first() && failure) std::rethrow_exception(failure);  // rank 0 need not name itself
            throw;
        }
    }
    // Called by every process but rank 0, for an error that all have in common and that rank 0 prints. It waits for the
    // end of rank 0, because a launcher ends all processes when the first of them has ended. If rank 0 does not get so
    // far, this process prints the error.
    [[noreturn]] void leave_it_to_first(const std::string& reason, int exit_code = 1) const {
        pollfd end{others_[0].socket(), POLLRDHUP, 0};
        if (poll(&end, 1, 5000) > 0) throw ToldError(exit_code, reason);
        throw_with(exit_code, reason);
    }
    // Before a step: writes whether this process was asked to stop to `vote` (1), fp32, which the step adds up over all
    // processes. A process that is alone needs no vote, and its GPU is spared the copy.
    void vote(Tensor vote, bool asked, Stream s) const {
        if (!alone()) from_host(vote, std::vector<float>{asked ? 1.f : 0.f}, s);
    }
    // After a step: returns whether the run should stop. `votes` is the sum, so all processes stop after the same step.
    // A process that is alone goes by `asked`, which may have been set during the step.
    bool any(float votes, bool asked) const { return alone() ? asked : votes > 0; }
    // Returns in every process whether any of them was asked to stop. It costs a message to and from each.
    bool any(bool asked) const { return alone() ? asked : mean(asked ? 1 : 0) > 0; }

    // Where a process is in its work, in the order in which it gets there.
    enum class Phase : uint8_t { between_steps, queueing, reading_data, waiting };
    // Notes how far this process has come. The step and the phase are told to the others, who name the process that
    // lags behind when nobody gets on.
    void reach(int64_t step, Phase phase) const {
        place_.store(step * phases + int64_t(phase));
        moves_++;
    }
    void move() const { moves_++; }  // a part of the same phase is done

    // Connects the processes by NCCL or MPI, for the tensors of this stream's machine. group() needs it.
    void join(Stream s) {
        if (alone()) return;
        const std::string id = share(first() ? Collective::new_id(s.where) : "");
        group_               = std::make_unique<Collective>(id, rank(), world(), s);
    }
    // What all processes compute together (collective.h). Null in a process that is alone.
    Collective* group() const { return group_.get(); }

    // Returns in every process when all have called it.
    void barrier() const {
        if (!alone()) mean(0);
    }

    // Ends a run: waits until all processes have called it. A process that ends without calling it ends the others,
    // too.
    void finish() {
        if (alone()) return;
        if (group_) group_->finish();
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
    explicit Comm(const Ranks& ranks) : ranks_(ranks) {}

    static constexpr int64_t phases = 4;
    static constexpr int64_t parted = -1;  // the place of a process that has called finish()
    using Clock                     = std::chrono::steady_clock;
    // What a process tells each second: where it is, and a number that changes whenever it gets on.
    struct Beat {
        int64_t place = 0, moves = 0;
    };
    // What is known of the process at the other end of a connection.
    struct Peer {
        Beat beat;
        std::array<char, sizeof(Beat)> bytes{};  // of the beat that is being received
        size_t received         = 0;
        Clock::time_point heard = Clock::now();
    };

    // Throws rank 0's reason in every process, unless it is "". A reason and its exit code are one message, so that a
    // process has both or learns that rank 0 has ended.
    void throw_in_all(const std::string& reason, int exit_code) const {
        const std::string shared = share(with_code(reason, exit_code));
        if (shared.empty()) return;
        if (!first()) leave_it_to_first(shared.substr(1), code_in(shared));
        throw_with(exit_code, reason);
    }
    static std::string with_code(const std::string& reason, int exit_code) {
        return reason.empty() ? "" : char('0' + exit_code) + reason;
    }
    static int code_in(const std::string& message) { return message[0] - '0'; }
    // Returns the options of a command from the first to the last that `other` has differently, and "…" in place of the
    // words before and behind them. A text without options is returned whole.
    static std::string apart_from(const std::string& other, const std::string& text) {
        const size_t shared =
            size_t(std::mismatch(text.begin(), text.end(), other.begin(), other.end()).first - text.begin());
        const size_t begin = text.substr(0, shared).rfind(" --");
        if (begin == text.npos) return text;
        size_t behind = 0;
        while (behind < std::min(text.size(), other.size()) - shared &&
               text[text.size() - behind - 1] == other[other.size() - behind - 1])
            behind++;
        const size_t end = text.find(" --", text.size() - behind);
        return "…" + text.substr(begin, end - begin) + (end == text.npos ? "" : " …");
    }
    static std::string words_for(int64_t place) {
        const int64_t step = place / phases + 1;
        switch (Phase(place % phases)) {
            case Phase::between_steps: return fmt::format("before step {}", step);
            case Phase::queueing: return fmt::format("in step {}", step);
            case Phase::reading_data: return fmt::format("in step {}, reading the data of the next one", step);
            case Phase::waiting: return fmt::format("in step {}, waiting for its result", step);
        }
        return "";
    }
    std::string name(size_t peer) const { return fmt::format("rank {} on {}", others_[peer].rank(), hosts_[peer]); }

    // Runs in a thread: when a connection closes without finish(), its process has died, and this one ends as well.
    void watch() const {
        std::vector<pollfd> all = {{end_[0], POLLIN, 0}};
        for (const Connection& c : others_) all.push_back({c.socket(), POLLRDHUP, 0});
        std::vector<Peer> peers(others_.size());
        int64_t moves_seen         = -1;
        Clock::time_point moved_at = Clock::now(), woken = moved_at;
        const int period = timeout_ ? std::min(1000, timeout_ * 250) : -1;  // ms
        while (poll(all.data(), all.size(), period) <= 0) {
            if (!timeout_) continue;
            if (too_long_since(woken)) {  // this process was stopped, as Slurm suspends a job: the others may have been
                moved_at = Clock::now();
                for (Peer& p : peers) p.heard = moved_at;
            }
            woken = Clock::now();
            const Beat own{place_, moves_};
            tell(own);
            hear(peers);
            refuse_silence(peers);
            if (!first()) continue;
            int64_t moves = own.moves;
            for (const Peer& p : peers) moves += p.beat.moves;
            if (moves != moves_seen) moves_seen = moves, moved_at = Clock::now();
            if (too_long_since(moved_at)) refuse_standstill(own, peers);
        }
        if (all[0].revents) return tell({parted, 0});
        // When all processes fail for one reason, each ends by itself. Two seconds are enough for that.
        if (poll(all.data(), 1, 2000) > 0) return tell({parted, 0});
        for (size_t i = 1; i < all.size(); i++)
            if (all[i].revents) {
                int error       = 0;
                socklen_t bytes = sizeof error;
                getsockopt(all[i].fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
                fmt::print(stderr, "error: {}\n", others_[i - 1].lost(error));
            }
        std::_Exit(1);
    }
    bool too_long_since(Clock::time_point t) const { return Clock::now() > t + std::chrono::seconds(timeout_); }

    // A connection that takes no more bytes belongs to a process that does not read, which is found by its silence.
    void tell(const Beat& beat) const {
        for (const Connection& c : beats_) ::send(c.socket(), &beat, sizeof beat, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    void hear(std::vector<Peer>& peers) const {
        for (size_t i = 0; i < peers.size(); i++) {
            Peer& p = peers[i];
            for (ssize_t n; (n = recv(beats_[i].socket(), p.bytes.data() + p.received, sizeof(Beat) - p.received,
                                      MSG_DONTWAIT)) > 0;) {
                p.heard = Clock::now();
                if ((p.received += size_t(n)) < sizeof(Beat)) continue;
                std::memcpy(&p.beat, p.bytes.data(), sizeof(Beat));
                p.received = 0;
            }
        }
    }
    void refuse_silence(const std::vector<Peer>& peers) const {
        bool silent = false;
        for (size_t i = 0; i < peers.size(); i++) {
            if (peers[i].beat.place == parted || !too_long_since(peers[i].heard)) continue;
            fmt::print(
                stderr,
                "error: {} has not answered for {} s (--timeout): it hangs, or its machine is cut off; it was {} "
                "when it was last heard of\n",
                name(i), timeout_, words_for(peers[i].beat.place));
            silent = true;
        }
        if (silent) std::_Exit(1);
    }
    // All processes answer, but none gets on. Between steps that may be so: one works while the others wait for it.
    void refuse_standstill(const Beat& own, const std::vector<Peer>& peers) const {
        const auto in_step = [](const Beat& b) { return b.place > 0 && b.place % phases != 0; };
        bool any           = in_step(own);
        int64_t least      = own.place;
        for (const Peer& p : peers) {
            any |= in_step(p.beat);
            if (p.beat.place != parted) least = std::min(least, p.beat.place);
        }
        if (!any) return;
        std::string behind = own.place == least ? fmt::format("rank {}", rank()) : "";
        for (size_t i = 0; i < peers.size(); i++)
            if (peers[i].beat.place == least) behind += (behind.empty() ? "" : ", ") + name(i);
        fmt::print(stderr,
                   "error: no process has got on for {} s (--timeout); these are the furthest behind, {}: {}\n"
                   "    a larger --timeout allows for longer steps\n",
                   timeout_, words_for(least), behind);
        std::_Exit(1);
    }
    void stop_watching() {
        if (!watcher_.joinable()) return;
        close(end_[1]);
        watcher_.join();
        close(end_[0]);
    }

    Ranks ranks_;
    uint64_t run_ = 0;
    int timeout_  = 0;  // seconds; 0: none
    std::unique_ptr<Collective> group_;
    std::vector<Connection> others_;  // rank 0 holds one per peer; every peer holds one, to rank 0
    std::vector<Connection> beats_;   // likewise, for beats
    std::vector<std::string> hosts_;  // where the processes at their other ends run
    mutable std::atomic<int64_t> place_{0}, moves_{0};
    int end_[2] = {-1, -1};  // a pipe: closing its second end ends the watcher
    std::thread watcher_;
};

// Ends a process that fails before it has met the others. All fail alike when their command is wrong, and then rank 0
// alone says why. Where only some fail, rank 0 names the first of them, and all end. A process that rank 0 does not
// answer within `seconds` says by itself why it fails. `run` is that of Comm.
[[noreturn]] inline void end_before_meeting(const Ranks& ranks, uint64_t run, const std::exception& e,
                                            int seconds = 5) {
    if (ranks.rank == 0) complain(e);
    std::promise<int> told;  // the exit code that all have in common; 0 where rank 0 has not told it
    auto answer = told.get_future();
    std::thread([&] {
        try {
            Comm(ranks, run, seconds).fail_together(message_of(e), exit_code_of(e));
        } catch (const ToldError& of_all) { return told.set_value(of_all.exit_code); } catch (const std::exception&) {
        }
        told.set_value(0);
    }).detach();
    const bool answered = answer.wait_for(std::chrono::seconds(seconds)) == std::future_status::ready;
    const int exit_code = answered ? answer.get() : 0;
    if (ranks.rank > 0 && !exit_code) complain(e);
    std::_Exit(exit_code ? exit_code : exit_code_of(e));
}
