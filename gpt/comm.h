// comm.h - how the processes of a run work together: they sum tensors, exchange short messages, and end together
//
// NCCL moves tensors between GPUs, and MPI those of CPUs. For short messages, every process keeps a TCP connection to
// rank 0. However a process ends, its connections close. A thread in every other process sees that and ends its own
// process, where NCCL and MPI would wait for ever.
#pragma once
#include <functional>
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
    // Waits up to `seconds` until all processes have connected. `run` is the same number in all processes of this run,
    // and differs for another command.
    Comm(const Ranks& ranks, uint64_t run, int seconds = 600) : ranks_(ranks) {
        if (alone()) return;
        others_ = Rendezvous(ranks, run, seconds).connections();
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

    // Returns in every process the text that rank 0 gave.
    std::string share(const std::string& text) const {
        if (!first()) return others_[0].receive();
        for (const Connection& c : others_) c.send(text);
        return text;
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
    // Throws a RunError in every process, with the same words, unless all give the same facts. It names the first rank
    // that differs from rank 0, and in what.
    using Facts = std::vector<std::pair<std::string, std::string>>;  // what, and its value
    void agree(const Facts& facts) const {
        if (alone()) return;
        std::string refusal;
        if (first()) {
            for (const Connection& c : others_)
                for (const auto& [what, value] : facts)
                    if (const std::string theirs = c.receive(); theirs != value && refusal.empty())
                        refusal = fmt::format("rank {} has another {} than rank 0\n    rank {}: {}\n    rank 0: {}",
                                              c.rank(), what, c.rank(), theirs, value);
        } else {
            for (const auto& [what, value] : facts) others_[0].send(value);
        }
        refusal = share(refusal);
        CHECK_RUN(refusal.empty(), "{}", refusal);
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
    // Runs in a thread: when a connection closes without finish(), its process has died, and this one ends as well.
    void watch() const {
        std::vector<pollfd> all = {{end_[0], POLLIN, 0}};
        for (const Connection& c : others_) all.push_back({c.socket(), POLLRDHUP, 0});
        while (poll(all.data(), all.size(), -1) <= 0) {}
        if (all[0].revents) return;
        // When all processes fail for one reason, each prints it and ends by itself. Two seconds are enough for that.
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
    std::unique_ptr<Collective> group_;
    std::vector<Connection> others_;  // rank 0 holds one per peer; every peer holds one, to rank 0
    int end_[2] = {-1, -1};           // a pipe: closing its second end ends the watcher
    std::thread watcher_;
};
