// threads.h - how many threads and how much memory a process may use on a machine that it shares, and on which cores
// its threads run
//
// Cores are logical ones, as Linux numbers them: the two hardware threads of a physical core count as two.
#pragma once
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace host {

// Calls f(folder, version) for the control group of this process that has a controller, such as cpu, and for those that
// hold it. Version 1 of control groups has a hierarchy of folders for each controller, version 2 has one for all. A
// container may see only its own group, as the root of the hierarchy, although /proc names it by its path on the host.
// So folders may not exist. `root` stands before the paths in /proc and /sys, for tests.
template <class F>
void each_control_group(const std::string& root, const std::string& controller, F f) {
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // number:controllers:path
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == line.npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const int version             = controllers == ",," ? 2 : 1;
        if (version == 1 && controllers.find("," + controller + ",") == controllers.npos) continue;
        const std::string mount = root + "/sys/fs/cgroup" + (version == 1 ? "/" + controller : "");
        for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
            f(mount + path, version);
            if (path.find('/') == path.npos) break;
        }
    }
}

// Returns how many cores' worth of time the control groups of this process allow, as `docker run --cpus` and Slurm set
// it; infinity where nothing limits it. The least limit of a group and of the groups that hold it counts.
inline double cpu_quota(const std::string& root = "") {
    double quota = std::numeric_limits<double>::infinity();
    each_control_group(root, "cpu", [&](const std::string& group, int version) {
        std::string allowed;
        double period = 0;
        if (version == 2) {
            std::ifstream(group + "/cpu.max") >> allowed >> period;
        } else {
            std::ifstream(group + "/cpu.cfs_quota_us") >> allowed;
            std::ifstream(group + "/cpu.cfs_period_us") >> period;
        }
        const double n = std::atof(allowed.c_str());  // "max" and -1 mean that there is no limit
        if (n > 0 && period > 0) quota = std::min(quota, n / period);
    });
    return quota;
}

// Returns how many more bytes the control groups of this process let it take. `docker run --memory` and Slurm set their
// limits; without one, this is the largest number. The contents of files that Linux keeps in memory do not count as
// taken, because Linux gives them up when memory is needed.
inline int64_t memory_of_control_group(const std::string& root = "") {
    int64_t left = std::numeric_limits<int64_t>::max();
    each_control_group(root, "memory", [&](const std::string& group, int version) {
        int64_t limit = 0, used = 0;
        std::ifstream most(group + (version == 2 ? "/memory.max" : "/memory.limit_in_bytes")),
            now(group + (version == 2 ? "/memory.current" : "/memory.usage_in_bytes")), parts(group + "/memory.stat");
        // "max" is no number, and means that there is no limit.
        if (!(most >> limit && now >> used) || limit < 0) return;
        int64_t bytes = 0;
        for (std::string key; parts >> key >> bytes;)
            for (const char* file : {"inactive_file", "active_file"})
                if (key == (version == 2 ? "" : "total_") + std::string(file)) used -= bytes;
        left = std::min(left, limit - std::clamp<int64_t>(used, 0, limit));
    });
    return left;
}

// Returns how many of `online` cores the control groups of this process let it use, as `docker run --cpuset-cpus` and
// Slurm set it. A launcher may have bound this process to fewer.
inline int cores_of_control_group(int online, const std::string& root = "") {
    each_control_group(root, "cpuset", [&](const std::string& group, int version) {
        std::ifstream list(group + (version == 2 ? "/cpuset.cpus.effective" : "/cpuset.effective_cpus"));
        int cores = 0;
        for (std::string range; std::getline(list, range, ',');) {  // such as 0-3,8
            int first = 0, last = 0;
            const int numbers = std::sscanf(range.c_str(), "%d-%d", &first, &last);
            if (numbers > 0) cores += numbers == 1 ? 1 : std::max(0, last - first + 1);
        }
        if (cores > 0) online = std::min(online, cores);
    });
    return online;
}

// Returns `cores`, or the cores that the quota pays for where those are fewer. A part of a core counts as a whole one:
// with a quota of 1.5, two threads do 1.5 times the work of one.
inline int within_quota(int cores, double quota = cpu_quota()) {
    return std::max(1, int(std::min(double(cores), std::ceil(quota))));
}

// Returns how many cores this process may use: those of its affinity mask, within the quota of its control group.
inline int usable_cores() { return within_quota(omp_get_num_procs()); }

// Returns the core that each thread has to move to, or -1 where it stays, so that no two threads share a core. `on` has
// the core of each thread. Threads move only to a core that is `allowed` and that has no thread yet; of those that
// share one, the first stays.
inline std::vector<int> spread(const std::vector<int>& on, const std::vector<int>& allowed) {
    std::vector<int> taken, to(on.size(), -1);
    for (const int core : on) {
        if (std::find(taken.begin(), taken.end(), core) == taken.end()) taken.push_back(core);
    }
    for (size_t t = 0; t < on.size(); t++) {
        if (std::find(on.begin(), on.begin() + int64_t(t), on[t]) == on.begin() + int64_t(t)) continue;
        for (const int core : allowed) {
            if (std::find(taken.begin(), taken.end(), core) != taken.end()) continue;
            taken.push_back(to[t] = core);
            break;
        }
    }
    return to;
}

// Gives each CPU thread of this process a core of its own, where it has as many cores as threads.
//
// When other programs keep the cores busy, Linux may start two threads of one team on the same core. It leaves them
// there, since no core has more threads than the others. Then every parallel loop takes turns: one thread spins and
// goes to sleep before the other can run at all. Two runs on two cores, 1.5 ms a step each when alone, took 12 ms a
// step in this way, and take 6 ms after one move. This is called before each forward pass. It costs one empty loop, 1.5
// us on two cores, as long as no core has two threads. A thread may leave its new core again: its affinity mask is as
// before.
inline void spread_threads() {
    const int threads = omp_get_max_threads();
    if (threads < 2 || threads > omp_get_num_procs()) return;
    std::vector<int> on(size_t(threads), -1);
#pragma omp parallel num_threads(threads)
    on[size_t(omp_get_thread_num())] = sched_getcpu();
    std::vector<int> sorted          = on;
    std::sort(sorted.begin(), sorted.end());
    if (sorted[0] < 0 || std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) return;

    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;  // more cores than a mask of this type has
    std::vector<int> allowed;
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &mask)) allowed.push_back(core);
    const std::vector<int> to = spread(on, allowed);
#pragma omp parallel num_threads(threads)
    if (const int core = to[size_t(omp_get_thread_num())]; core >= 0) {
        cpu_set_t own, one;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        // OMP_PROC_BIND may have bound this thread to other cores, which are its own to keep.
        if (sched_getaffinity(0, sizeof own, &own) == 0 && CPU_ISSET(core, &own) &&
            sched_setaffinity(0, sizeof one, &one) == 0)
            sched_setaffinity(0, sizeof own, &own);
    }
}

}  // namespace host
