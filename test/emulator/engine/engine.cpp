// engine.cpp - the scheduler: which group, warp and block runs next
#include <algorithm>
#include <utility>

#include "bulk.h"
#include "checker.h"
#include "handlers.h"
#include "idle_reads.h"
#include "options.h"
#include "races.h"
#include "wgmma.h"

namespace emu {
namespace {

constexpr uint32_t kPollLimit = 24;       // volatile loads or atomics in one turn before other warps get theirs
constexpr int64_t kTurn       = 1 << 14;  // instructions before other groups of the warp get a turn
constexpr int64_t kForever    = int64_t(1) << 62;

uint64_t next_random(uint64_t& state) {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z          = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z          = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

void join_groups(Warp& w) {
    for (size_t x = 0; x < w.groups.size(); x++)
        for (size_t y = x + 1; y < w.groups.size();) {
            Group &g = w.groups[x], &other = w.groups[y];
            if (g.pc == other.pc && g.frame == other.frame && g.state == State::Ready && other.state == State::Ready) {
                g.mask |= other.mask;
                release_frame(*w.worker, other.frame);
                w.groups.erase(w.groups.begin() + long(y));
            } else y++;
        }
}

// Picks the ready group that is deepest in calls, and of those the one that is lowest in the code. `unfair` reverses
// that order, so that a lane that spins on a lock does not starve the lane of the same warp that holds the lock.
int pick_group(Warp& w, bool unfair) {
    int best    = -1;
    auto before = [&](const Group& a, const Group& b) {
        return a.frame->depth != b.frame->depth ? a.frame->depth > b.frame->depth : a.pc < b.pc;
    };
    for (int k = 0; k < int(w.groups.size()); k++) {
        if (w.groups[k].state != State::Ready) continue;
        if (best < 0 || before(w.groups[k], w.groups[best]) != unfair) best = k;
    }
    return best;
}

template <bool Profile>
const Instr* run_group(Warp& w, const Instr* i, const Instr* begin, uintptr_t span, int64_t& budget) {
    int64_t left = budget;
    if constexpr (Profile) {
        auto& counts = *w.worker->profile_now;
        while (uintptr_t(i) - uintptr_t(begin) < span && left > 0) {
            counts[i->index].warps++;
            counts[i->index].lanes += uint64_t(__builtin_popcount(w.mask));
            left--;
            i = i->run(w, i);
        }
    } else {
        while (uintptr_t(i) - uintptr_t(begin) < span && left > 0) {
            left--;
            i = i->run(w, i);
        }
    }
    budget = left;
    return i;
}

}  // namespace

Frame* new_frame(Worker& worker, Function& f) {
    Frame* frame = nullptr;
    for (size_t k = 0; k < worker.spare_frames.size(); k++)
        if (worker.spare_frames[k]->memory.size >= f.frame_bytes) {
            frame = worker.spare_frames[k];
            worker.spare_frames.erase(worker.spare_frames.begin() + long(k));
            break;
        }
    if (!frame) {
        frame = new Frame;
        frame->memory.resize(f.frame_bytes);
    }
    frame->function   = &f;
    frame->regs       = frame->memory.data.get();
    frame->users      = 1;
    frame->parent     = nullptr;
    frame->depth      = 0;
    frame->local_base = 0;
    frame->allocated  = 0;
    std::memset(frame->regs, 0, f.pred_bytes);
    // Unset registers are NaN in every type, so that they do not look like zeros.
    std::memset(frame->regs + f.pred_bytes, 0xff, f.frame_bytes - f.pred_bytes);
    return frame;
}

void release_frame(Worker& worker, Frame* frame) {
    while (frame && --frame->users == 0) {
        worker.spare_frames.push_back(frame);
        frame = frame->parent;
    }
}

Group& split(Warp& w, uint32_t mask, const Instr* pc) {
    Group& from = w.groups[w.current];
    from.mask &= ~mask;
    from.frame->users++;
    const Group g{mask, pc, from.frame, State::Ready, 0, 0};
    w.groups.push_back(g);
    return w.groups.back();
}

bool gather(Warp& w, const Instr* i, uint32_t members) {
    Group& me = w.groups[w.current];
    for (size_t k = 0; k < w.groups.size(); k++) {  // groups that wait here join this one
        Group& other = w.groups[k];
        if (int(k) == w.current || other.pc != i || other.frame != me.frame || other.state != State::Sync) continue;
        me.mask |= other.mask;
        me.members |= other.members;
        other.mask = 0;
        release_frame(*w.worker, other.frame);
    }
    w.mask = me.mask;
    for (size_t k = w.groups.size(); k-- > 0;)
        if (!w.groups[k].mask) {
            w.groups.erase(w.groups.begin() + long(k));
            if (int(k) < w.current) w.current--;
        }
    Group& g = w.groups[w.current];
    if ((members & w.live & ~g.mask) == 0 || w.forced & g.mask) {
        w.forced &= ~g.mask;
        return true;
    }
    g.state   = State::Sync;
    g.members = members;
    g.pc      = i;
    return false;
}

bool gather_warp(Warp& w, const Instr* i) {
    if (w.mask == kAll) [[likely]] {
        w.forced = 0;
        return true;
    }
    if (!gather(w, i, w.started)) return false;
    if (const uint32_t ended = w.started & ~w.live; ended && options().check != Check::Off)
        report(finding_at(w, i, Kind::AbsentLane, __builtin_ctz(ended),
                          "this lane has ended, and the instruction needs all lanes of the warp"));
    return true;
}

const Instr* give_way(Warp& w, const Instr* next) {
    w.polls                = kPollLimit + 1;
    w.groups[w.current].pc = next;
    return kStop;
}

// A barrier with a number of threads counts a warp, as the PTX manual says, when all its lanes have arrived that have
// not ended. The count then grows by the size of a warp.
static void count_warp(Warp& w, int id) {
    if (!w.early[id] || w.live & ~w.early[id]) return;
    w.early[id] = 0;
    w.block->barriers[id].arrived += kLanes;
}

void leave_lanes(Warp& w) {
    Group& g             = w.groups[w.current];
    // Lanes may end before a barrier that is not aligned, if it is the cluster's or for a number of threads.
    const auto wants_all = [&](const Group& waiting) {
        return aligned_barrier(waiting.pc - 1) ||
               (waiting.barrier != Group::kCluster && !w.block->barriers[waiting.barrier].expected);
    };
    for (const Group& other : w.groups)
        if (other.state == State::Barrier && other.mask && &other != &g && wants_all(other))
            each_lane(other.mask & -other.mask, [&](int lane) {
                report(finding_at(w, other.pc - 1, Kind::BarrierDivergence, lane,
                                  "lanes of this warp wait at a barrier while others of it end without reaching it"));
            });
    w.live &= ~w.mask;
    w.block->live -= uint32_t(__builtin_popcount(w.mask));
    for (int id = 0; id < 16; id++) count_warp(w, id);
    for (Group& other : w.groups)  // nobody waits for lanes that have ended
        if (other.state == State::Sync && !(other.members & w.live & ~other.mask)) other.state = State::Ready;
    g.mask &= ~w.mask;
    if (g.mask) return;
    g.state = State::Exited;
    release_frame(*w.worker, g.frame);
}

void arrive(Warp& w, const Instr* i, int id, uint32_t expected, bool waits) {
    Block& b          = *w.block;
    BarrierState& bar = b.barriers[id];
    Group& g          = w.groups[w.current];
    bar.any           = true;
    if (expected) {
        bar.expected = expected;
        w.early[id] |= g.mask;
        count_warp(w, id);
    } else bar.arrived += uint32_t(__builtin_popcount(g.mask));
    g.pc = i + 1;
    if (waits) {
        g.state   = State::Barrier;
        g.barrier = uint16_t(id);
    } else {
        checker_arrival(w, id);
    }
}

namespace {

// The live lanes that have not arrived in this phase of the cluster's barrier.
uint32_t absent_lanes(const Cluster& c, const Warp& w) {
    return w.live & ~(w.in_cluster & (c.phase & 1 ? w.in_odd_phase : ~w.in_odd_phase));
}

// Ends the phase of the cluster's barrier when all threads have arrived that have not ended, and lets those go on that
// wait. Returns whether it has ended.
bool open_cluster_barrier(Cluster& c) {
    if (!c.barrier_used) return false;
    for (const Warp* w : c.warps)
        if (absent_lanes(c, *w)) return false;
    c.barrier_used = false;
    c.phase++;
    c.signals++;
    if (c.warps[0]->block->launch->check_all) clock_cluster_barrier(c);
    for (Warp* w : c.warps) {
        w->arrived_at = nullptr;
        for (Group& g : w->groups)
            if (g.at(Group::kCluster)) {
                g.state = State::Ready;
                w->in_cluster &= ~g.mask;
            }
    }
    if (c.warps[0]->block->launch->profiling) c.warps[0]->worker->counts.barriers++;
    return true;
}

// Opens every barrier whose threads have all arrived, and returns whether one opened.
bool open_barriers(Block& b) {
    bool opened = false;
    for (int id = 0; id < 16; id++) {
        BarrierState& bar = b.barriers[id];
        if (!bar.any) continue;
        const bool all = bar.expected ? bar.arrived >= bar.expected : bar.arrived >= b.live;
        if (!all) continue;
        // The lanes of a warp must arrive at an aligned barrier together, at the same instruction.
        for (Warp& w : b.warps) {
            const Group* first = nullptr;
            for (Group& g : w.groups) {
                if (g.state != State::Barrier || g.barrier != id) continue;
                if (first && first->pc != g.pc && aligned_barrier(g.pc - 1))
                    report(finding_at(w, g.pc - 1, Kind::BarrierDivergence, __builtin_ctz(g.mask),
                                      "lanes of one warp reach the barrier at different places"));
                first = &g;
            }
        }
        const uint32_t result = bar.reduced;
        checker_barrier(b, id);
        for (Warp& w : b.warps)
            for (Group& g : w.groups)
                if (g.state == State::Barrier && g.barrier == id) {
                    g.state = State::Ready;
                    w.early[id] &= ~g.mask;
                    finish_reduction(g, result);
                }
        bar = {};
        if (b.launch->profiling) b.warps[0].worker->counts.barriers++;
        opened = true;
    }
    return opened;
}

bool warp_ready(const Warp& w) {
    for (const Group& g : w.groups)
        if (g.state == State::Ready) return true;
    return false;
}

// Runs the warp until all its groups wait or have ended, the budget is used up, or it polls. Returns whether it polled.
bool run_warp(Warp& w, int64_t& budget) {
    size_t fruitless = 0;  // the number of groups in a row that only polled, and may wait for another warp
    while (budget > 0 && !w.block->launch->stop->load(std::memory_order_relaxed)) {
        if (w.groups.size() > 1) {
            std::erase_if(w.groups, [](const Group& g) { return g.state == State::Exited; });
            join_groups(w);
        }
        w.current = pick_group(w, w.unfair > 0);
        if (w.current < 0) return false;
        Group& g         = w.groups[w.current];
        Function& f      = *g.frame->function;
        const Instr* lo  = f.code.data();
        const Instr* end = lo + f.code.size();
        int64_t turn     = std::min(budget, kTurn);
        bool others      = false;
        for (int k = 0; k < int(w.groups.size()); k++) {  // the turn ends where another group can be joined
            const Group& o = w.groups[k];
            if (k == w.current || o.state != State::Ready) continue;
            others = true;
            if (o.frame == g.frame && o.pc > g.pc && o.pc < end) end = o.pc;
        }
        const int64_t before = turn;
        w.frame              = g.frame;
        w.base[0]            = g.frame->regs;
        w.base[1]            = f.pool.data.get();
        w.mask               = g.mask;
        const uintptr_t span = uintptr_t(end) - uintptr_t(lo);
        if (w.block->launch->profiling) {
            auto& counts = w.worker->profile[&f];
            if (counts.size() < f.code.size()) counts.resize(f.code.size());
            w.worker->profile_now = &counts;
        }
        const auto run_on    = !w.idle.empty()              ? run_following
                               : w.block->launch->profiling ? run_group<true>
                                                            : run_group<false>;
        const Instr* stopped = run_on(w, g.pc, lo, span, turn);
        budget -= before - turn;
        w.issued += uint64_t(before - turn);
        if (stopped) w.groups[w.current].pc = stopped;
        const bool polled  = w.polls > kPollLimit;
        fruitless          = polled ? fruitless + 1 : 0;
        const bool goes_on = budget > 0 || polled;  // otherwise the warp's turn has ended
        w.unfair           = !goes_on ? std::max<int64_t>(0, w.unfair - (before - turn))
                             : others && (polled || turn <= 0) && (budget > 0 || w.unfair == 0) ? kTurn
                                                                                                : 0;
        if (goes_on) w.polls = 0;
        if (polled && (!others || fruitless > w.groups.size())) {
            w.unfair = 0;
            return true;
        }
    }
    return false;
}

// Says where a lane waits that others wait for.
std::string absence_text(const Warp& w, int lane) {
    for (const Group& g : w.groups)
        if (g.mask >> lane & 1) {
            const bool barrier = g.state == State::Barrier;
            return "other lanes wait here for this lane, which waits " +
                   std::string(barrier ? "at a barrier" : "for others") + " at " +
                   place_of(*g.frame->function, barrier ? g.pc - 1 : g.pc);
        }
    return "other lanes wait here for this lane, which never comes";
}

// Called when no warp of the cluster can go on. If lanes wait for others that never come, it reports one group of them
// and lets it go on.
bool resolve_stall(Cluster& c) {
    for (Warp* w : c.warps)
        for (Group& g : w->groups)
            if (g.state == State::Sync) {
                const int lane = __builtin_ctz(g.members & w->live & ~g.mask);
                report(finding_at(*w, g.pc, Kind::AbsentLane, lane, absence_text(*w, lane)));
                w->forced |= g.mask;
                g.state = State::Ready;
                return true;
            }
    return false;
}

const char* name_of(const Cluster& c) { return c.blocks.size() > 1 ? "the cluster" : "the block"; }

std::string waiting_text(const Cluster& c, const Block& b, const Group& g) {
    const std::string place = place_of(*g.frame->function, g.pc - 1);
    if (g.barrier == Group::kCluster) {
        uint32_t live = 0, absent = 0;
        for (const Warp* w : c.warps) {
            live += uint32_t(__builtin_popcount(w->live));
            absent += uint32_t(__builtin_popcount(absent_lanes(c, *w)));
        }
        return "the barrier of the cluster at " + place + " has " + std::to_string(live - absent) + " of " +
               std::to_string(live) + " threads";
    }
    const BarrierState& bar = b.barriers[g.barrier];
    return "barrier " + std::to_string(g.barrier) + " at " + place + " has " + std::to_string(bar.arrived) + " of " +
           std::to_string(bar.expected ? bar.expected : b.live) + " threads";
}

// Returns whether no warp can ever go on, which it then reports: all wait at barriers, or in vain for mbarriers that
// nobody in the cluster can change any more.
bool waits_for_nothing(Cluster& c) {
    constexpr uint64_t kManyTimes = 2000;
    Warp* stuck                   = nullptr;
    int lane                      = 0;
    int reason = -1;  // Others may wait for an mbarrier because of a warp that gets no registers or has ended.
    for (Warp* w : c.warps)
        for (const Group& g : w->groups) {
            if (g.state != State::Ready) continue;
            const FailedWait& f = w->failed;
            if (f.times < kManyTimes || f.signals != c.signals || w->issued - f.issued > FailedWait::kLoop)
                return false;
            const auto opcode = g.frame->function->origin[f.at->index]->mods[0];
            const int better  = opcode == "setmaxnreg" ? 3 : opcode != "wgmma" ? 1 : wgmma_lacks_warp(*w) ? 2 : 0;
            if (better <= reason) continue;
            stuck = w, stuck->frame = g.frame, reason = better, lane = __builtin_ctz(g.mask);
        }
    if (!stuck) return false;
    const Block& b      = *stuck->block;
    const FailedWait& f = stuck->failed;
    const auto opcode   = stuck->frame->function->origin[f.at->index]->mods[0];
    const Kind kind     = opcode == "setmaxnreg" ? Kind::RegisterBudget
                          : opcode == "wgmma"    ? Kind::BarrierDivergence
                                                 : Kind::Deadlock;
    const std::string text =
        std::string(name_of(c)) + " cannot go on: " +
        (kind == Kind::RegisterBudget
             ? "setmaxnreg.inc waits for registers, and those that are free would give each thread of the warp only " +
                   std::to_string(b.spare_registers / kLanes) + " more"
         : kind == Kind::BarrierDivergence ? describe_wgmma(*stuck)
                                           : describe_barrier(b, f.barrier));
    report(finding_at(*stuck, f.at, kind, lane, text));
    fail_launch(*stuck, Fault::Timeout, text);
    return true;
}

}  // namespace

void arrive_in_cluster(Warp& w, const Instr* i, bool aligned) {
    Cluster& c = *w.block->cluster;
    if (const uint32_t again = w.mask & w.in_cluster)
        report(finding_at(w, i, Kind::BarrierDivergence, __builtin_ctz(again),
                          "arrives at the barrier of the cluster once more, without a barrier.cluster.wait between"));
    if (aligned && w.arrived_at && w.arrived_at != i)
        report(finding_at(w, i, Kind::BarrierDivergence, __builtin_ctz(w.mask),
                          "lanes of one warp arrive at the barrier of the cluster at different places"));
    w.arrived_at = i;
    w.in_cluster |= w.mask;
    w.in_odd_phase = (w.in_odd_phase & ~w.mask) | (c.phase & 1 ? w.mask : 0);
    c.barrier_used = true;
}

bool wait_in_cluster(Warp& w, const Instr* i) {
    const Cluster& c = *w.block->cluster;
    if (const uint32_t never = w.mask & ~w.in_cluster) {
        report(finding_at(w, i, Kind::BarrierDivergence, __builtin_ctz(never),
                          "waits at the barrier of the cluster without a barrier.cluster.arrive before"));
        w.mask &= ~never;
    }
    const uint32_t open = w.mask & w.in_cluster & (c.phase & 1 ? w.in_odd_phase : ~w.in_odd_phase);
    w.in_cluster &= ~(w.mask & ~open);
    if (!open) return true;
    Group& g  = w.groups[w.current];
    g.pc      = i + 1;
    g.state   = State::Barrier;
    g.barrier = Group::kCluster;
    return false;
}

// Runs the cluster for about `budget` instructions. Returns whether all its blocks have ended.
static bool run_cluster_inside(Cluster& c, int64_t budget) {
    const Options& o = options();
    const int n      = int(c.warps.size());
    Worker& worker   = *c.warps[0]->worker;
    Launch& launch   = *c.warps[0]->block->launch;
    std::vector<int> order(n);
    for (int k = 0; k < n; k++) order[k] = o.schedule == Schedule::Reverse ? n - 1 - k : k;
    int64_t quantum = kForever;
    if (o.schedule == Schedule::RoundRobin) quantum = int64_t(std::max<uint64_t>(1, o.schedule_arg));
    while (budget > 0) {
        if (launch.stop->load(std::memory_order_relaxed)) return true;
        bool progress = false, polled = false;
        const uint64_t signals = c.signals;
        if (o.schedule == Schedule::Random)
            for (int k = n - 1; k > 0; k--) std::swap(order[k], order[next_random(worker.rng) % uint64_t(k + 1)]);
        const int first = std::exchange(c.next_warp, 0);
        for (int at = 0; at < n; at++) {
            Warp& w = *c.warps[size_t(order[(first + at) % n])];
            if (!warp_ready(w)) continue;
            int64_t turn = std::min(quantum, budget);
            if (o.schedule == Schedule::Random)
                turn = std::min<int64_t>(turn, 1 + int64_t(next_random(worker.rng) % 64));
            const int64_t before = turn;
            polled |= run_warp(w, turn);
            budget -= before - turn;
            w.block->issued += uint64_t(before - turn);
            worker.instructions += uint64_t(before - turn);
            progress = true;
            if (budget > 0) continue;
            c.next_warp = (first + at + 1) % n;  // else a warp that polls would use up the next turn, too
            break;
        }
        bool opened = false, ended = true;
        for (auto& b : c.blocks)
            if (b->live) opened |= open_barriers(*b), ended = false;
            else end_block(*b);
        if (ended) return true;
        opened |= open_cluster_barrier(c);
        if (polled && !opened && waits_for_nothing(c)) return true;
        if (polled && !opened && c.signals == signals) return false;  // what it waits for may come from another cluster
        if (!progress && !opened && !resolve_stall(c)) {
            std::string text = std::string(name_of(c)) + " cannot go on";
            Warp* stuck      = nullptr;
            const Group* at  = nullptr;
            for (Warp* w : c.warps)
                for (const Group& g : w->groups)
                    if (g.state == State::Barrier) stuck = w, at = &g;
            if (stuck) {
                text += ": " + waiting_text(c, *stuck->block, *at);
                report(finding_at(*stuck, at->pc - 1, Kind::BarrierDivergence, __builtin_ctz(at->mask), text));
            }
            fail_launch(*c.warps[0], Fault::Timeout, text);
            return true;
        }
    }
    return false;
}

bool run_cluster(Cluster& c, int64_t budget) {
    if (run_cluster_inside(c, budget)) return true;
    const Launch& launch = *c.warps[0]->block->launch;
    if (now() <= launch.deadline) return false;
    auto stuck     = std::find_if(c.warps.begin(), c.warps.end(), [](const Warp* x) { return warp_ready(*x); });
    Warp& w        = stuck == c.warps.end() ? *c.warps[0] : **stuck;
    const Group* g = nullptr;
    for (const Group& x : w.groups)
        if (!g || x.state == State::Ready) g = &x;
    if (g) w.frame = g->frame;
    const std::string text = "the launch runs longer than --timeout; it may wait for something that never happens";
    report(finding_at(w, g ? g->pc : launch.function->code.data(), Kind::Deadlock,
                      g ? __builtin_ctz(g->mask | 1u << 31) : 0, text));
    fail_launch(w, Fault::Timeout, text);
    return true;
}

}  // namespace emu
