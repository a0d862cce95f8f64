// test_threads.cpp - threads.h: how many threads a process may use, and which of them share a core
#include <filesystem>
#include <limits>

#include "kernels/threads.h"
#include "test/programs.h"
#include "test/scratch.h"

namespace {

// A machine whose /proc and /sys/fs/cgroup hold these files.
struct Machine_of_files {
    Scratch s;
    explicit Machine_of_files(const std::vector<std::pair<std::string, std::string>>& files) {
        for (const auto& [name, text] : files) {
            std::filesystem::create_directories(std::filesystem::path(s / name).parent_path());
            write_text(s / name, text);
        }
    }
    double quota() const { return host::cpu_quota(s.path); }
    int64_t memory() const { return host::memory_of_control_group(s.path); }
};
constexpr double none = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("memory that a control group has for files is not used up", "[threads]") {
    const std::string cgroup = "proc/self/cgroup", v2 = "sys/fs/cgroup/", v1 = "sys/fs/cgroup/memory/";
    const int64_t unlimited = std::numeric_limits<int64_t>::max();
    CHECK(Machine_of_files({}).memory() == unlimited);
    CHECK(
        Machine_of_files({{cgroup, "0::/\n"}, {v2 + "memory.max", "max\n"}, {v2 + "memory.current", "5\n"}}).memory() ==
        unlimited);
    const std::vector<std::pair<std::string, std::string>> full{
        {cgroup, "0::/\n"},
        {v2 + "memory.max", "1000\n"},
        {v2 + "memory.current", "990\n"},
        {v2 + "memory.stat", "anon 100\nfile 890\ninactive_file 500\nactive_file 300\nunevictable 0\n"}};
    CHECK(Machine_of_files(full).memory() == 810);
    CHECK(Machine_of_files({full[0], full[1], full[2]}).memory() == 10);
    CHECK(Machine_of_files({full[0], full[1], {v2 + "memory.current", "1001\n"}}).memory() == 0);
    // A group that holds the one of the process has the lower limit.
    CHECK(Machine_of_files({{cgroup, "0::/job/step\n"},
                            {v2 + "job/step/memory.max", "max\n"},
                            {v2 + "job/step/memory.current", "40\n"},
                            {v2 + "job/memory.max", "700\n"},
                            {v2 + "job/memory.current", "50\n"}})
              .memory() == 650);
    CHECK(Machine_of_files({{cgroup, "4:memory:/docker/1f\n0::/\n"},
                            {v1 + "docker/1f/memory.limit_in_bytes", "2000\n"},
                            {v1 + "docker/1f/memory.usage_in_bytes", "1900\n"},
                            {v1 + "docker/1f/memory.stat",
                             "inactive_file 1\nactive_file 1\ntotal_inactive_file 700\ntotal_active_file 100\n"}})
              .memory() == 900);
}

TEST_CASE("the quota of a control group is read in both versions of their files", "[threads]") {
    const std::string cgroup = "proc/self/cgroup", v2 = "sys/fs/cgroup/", v1 = "sys/fs/cgroup/cpu/";
    CHECK(Machine_of_files({}).quota() == none);
    CHECK(Machine_of_files({{cgroup, "0::/\n"}}).quota() == none);
    CHECK(Machine_of_files({{cgroup, "0::/\n"}, {v2 + "cpu.max", "max 100000\n"}}).quota() == none);
    CHECK(Machine_of_files({{cgroup, "0::/\n"}, {v2 + "cpu.max", "150000 100000\n"}}).quota() == 1.5);
    CHECK(Machine_of_files({{cgroup, "0::/job/step\n"}, {v2 + "job/step/cpu.max", "400000 100000\n"}}).quota() == 4);
    CHECK(Machine_of_files({{cgroup, "0::/job/step\n"},
                            {v2 + "job/step/cpu.max", "400000 100000\n"},
                            {v2 + "job/cpu.max", "300000 100000\n"}})
              .quota() == 3);
    CHECK(Machine_of_files({{cgroup, "0::/a\n"}, {v2 + "a/cpu.max", "nonsense"}}).quota() == none);

    const std::string lines = "9:name=systemd:/x\n4:memory:/x\n2:cpuacct,cpu:/docker/1f\n1:cpuset:/x\n0::/\n";
    CHECK(Machine_of_files({{cgroup, lines},
                            {v1 + "docker/1f/cpu.cfs_quota_us", "50000\n"},
                            {v1 + "docker/1f/cpu.cfs_period_us", "100000\n"}})
              .quota() == 0.5);
    // Inside a container the group of the container is the root, whatever /proc says.
    CHECK(
        Machine_of_files({{cgroup, lines}, {v1 + "cpu.cfs_quota_us", "200000\n"}, {v1 + "cpu.cfs_period_us", "100000"}})
            .quota() == 2);
    CHECK(Machine_of_files({{cgroup, lines}, {v1 + "cpu.cfs_quota_us", "-1\n"}, {v1 + "cpu.cfs_period_us", "100000"}})
              .quota() == none);
}

TEST_CASE("the cores of a control group are read in both versions of their files", "[threads]") {
    const std::string cgroup = "proc/self/cgroup", v2 = "sys/fs/cgroup/", v1 = "sys/fs/cgroup/cpuset/";
    const auto cores = [](std::initializer_list<std::pair<std::string, std::string>> files) {
        return host::cores_of_control_group(64, Machine_of_files(files).s.path);
    };
    CHECK(cores({}) == 64);
    CHECK(cores({{cgroup, "0::/\n"}, {v2 + "cpuset.cpus.effective", "0-3,8,10-11\n"}}) == 7);
    CHECK(cores({{cgroup, "0::/job/step\n"}, {v2 + "job/cpuset.cpus.effective", "5\n"}}) == 1);
    CHECK(cores({{cgroup, "0::/\n"}, {v2 + "cpuset.cpus.effective", "0-127\n"}}) == 64);
    for (const char* nonsense : {"", "\n", "x", "7-3", "-"})
        CHECK(cores({{cgroup, "0::/\n"}, {v2 + "cpuset.cpus.effective", nonsense}}) == 64);
    CHECK(cores({{cgroup, "3:cpuset:/slurm/job\n0::/\n"}, {v1 + "slurm/job/cpuset.effective_cpus", "4-7\n"}}) == 4);
}

TEST_CASE("a part of a core in the quota is a thread, and there is always one", "[threads]") {
    CHECK(host::within_quota(8, none) == 8);
    CHECK(host::within_quota(8, 2) == 2);
    CHECK(host::within_quota(8, 1.5) == 2);
    CHECK(host::within_quota(8, 0.1) == 1);
    CHECK(host::within_quota(1, 64) == 1);
}

TEST_CASE("without --threads there are as many as cores in the affinity mask", "[threads]") {
    cpu_set_t all, one;
    REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(host::usable_cores() == 1);
    REQUIRE(sched_setaffinity(0, sizeof all, &all) == 0);
    CHECK(host::usable_cores() == host::within_quota(CPU_COUNT(&all)));
}

TEST_CASE("threads that share a core are given cores that have none", "[threads]") {
    using Cores = std::vector<int>;
    CHECK(host::spread({0, 1}, {0, 1}) == Cores{-1, -1});
    CHECK(host::spread({1, 1}, {0, 1}) == Cores{-1, 0});
    CHECK(host::spread({2, 2, 2, 4}, {2, 3, 4, 5}) == Cores{-1, 3, 5, -1});
    CHECK(host::spread({7, 7, 7}, {6, 7}) == Cores{-1, 6, -1});
    CHECK(host::spread({3, 3}, {}) == Cores{-1, -1});
}

TEST_CASE("after threads were spread, each may run where it could before", "[threads]") {
    const int cores = omp_get_num_procs(), before = omp_get_max_threads();
    for (const int threads : {1, 2, 3}) {
        CAPTURE(threads);
        omp_set_num_threads(threads);
        cpu_set_t all;
        REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
        // All begin on one core.
#pragma omp parallel num_threads(threads)
        {
            cpu_set_t one;
            CPU_ZERO(&one);
            for (int core = 0; core < CPU_SETSIZE && !CPU_COUNT(&one); core++)
                if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
            sched_setaffinity(0, sizeof one, &one);
            sched_setaffinity(0, sizeof all, &all);
        }
        host::spread_threads();
        std::vector<int> may_run_on(static_cast<size_t>(threads));
#pragma omp parallel num_threads(threads)
        {
            cpu_set_t own;
            sched_getaffinity(0, sizeof own, &own);
            may_run_on[size_t(omp_get_thread_num())] = CPU_COUNT(&own);
        }
        CHECK(may_run_on == std::vector<int>(static_cast<size_t>(threads), cores));
    }
    omp_set_num_threads(before);
}
