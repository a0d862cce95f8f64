// test_comm.cpp - the processes of a run: what launchers say, how processes find each other, and what happens when one
// is missing, wrong or dead. Sums over GPUs are tested in test_emulated_processes.cpp.
#include <signal.h>
#include <sys/wait.h>

#include <functional>
#include <numeric>

#include "gpt/run_folder.h"
//
#include "test/catch.h"
#include "test/scratch.h"

namespace {

using Environment = std::vector<std::pair<const char*, const char*>>;

Ranks ranks_with(const Environment& all) {
    for (const auto& [name, value] : all) setenv(name, value, 1);
    const auto forget = [&] {
        for (const auto& [name, value] : all) unsetenv(name);
    };
    try {
        const Ranks r = ranks_from_environment();
        forget();
        return r;
    } catch (...) {
        forget();
        throw;
    }
}

// A port on which nobody listens.
std::string free_port() {
    sockaddr_in a{};
    a.sin_family      = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes   = sizeof a;
    const int s       = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(bind(s, reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
    REQUIRE(getsockname(s, reinterpret_cast<sockaddr*>(&a), &bytes) == 0);
    close(s);
    return std::to_string(ntohs(a.sin_port));
}

// Runs work() for each rank in a process of its own. Returns what each returned, or its error, and its exit code.
struct Said {
    int code;
    std::string text;
};
std::vector<Said> together(int world, const std::function<std::string(const Ranks&)>& work) {
    const std::string port = free_port();
    std::vector<std::pair<pid_t, int>> started;
    for (int rank = 0; rank < world; rank++) {
        int ends[2];
        REQUIRE(pipe(ends) == 0);
        const pid_t pid = fork();
        if (pid == 0) {
            dup2(ends[1], 2);
            std::string text;
            int code = 0;
            try {
                text = work({rank, world, rank, world, "127.0.0.1", port});
            } catch (const Error& e) { text = e.what(), code = e.exit_code; }
            if (write(ends[1], text.data(), text.size()) < 0) code = 99;
            std::_Exit(code);
        }
        close(ends[1]);
        started.emplace_back(pid, ends[0]);
    }
    std::vector<Said> all;
    for (const auto& [pid, from] : started) {
        std::string text;
        char bytes[512];
        for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;) text.append(bytes, size_t(n));
        close(from);
        int status = 0;
        waitpid(pid, &status, 0);
        all.push_back({WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text});
    }
    return all;
}

}  // namespace

TEST_CASE("ranks are read from what torchrun, Open MPI and Slurm set", "[comm]") {
    const auto is = [](const Ranks& r, int rank, int world, int local) {
        CHECK(r.rank == rank);
        CHECK(r.world == world);
        CHECK(r.local == local);
    };
    CHECK(ranks_with({}).neighbours == 1);
    CHECK(ranks_with({{"OMPI_COMM_WORLD_SIZE", "4"},
                      {"OMPI_COMM_WORLD_RANK", "3"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}})
              .neighbours == 2);
    is(ranks_with({}), 0, 1, 0);
    is(ranks_with({{"WORLD_SIZE", "1"}, {"RANK", "0"}, {"LOCAL_RANK", "0"}}), 0, 1, 0);
    is(ranks_with({{"WORLD_SIZE", "8"}, {"RANK", "5"}, {"LOCAL_RANK", "1"}}), 5, 8, 1);
    is(ranks_with({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "3"}}),
       3, 4, 3);
    is(ranks_with({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}, {"SLURM_LOCALID", "0"}}), 2, 4, 0);
    is(ranks_with({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}), 0, 1, 0);  // a batch script, not one of its tasks
    const Environment two = {{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "1"}};
    const auto two_and    = [&](const Environment& more) {
        Environment all = two;
        all.insert(all.end(), more.begin(), more.end());
        return ranks_with(all);
    };
    is(two_and({{"CUDA_VISIBLE_DEVICES", "3"}}), 1, 2, 0);
    is(two_and({{"CUDA_VISIBLE_DEVICES", "3,5"}}), 1, 2, 1);
    CHECK(two_and({}).address == "127.0.0.1");
    CHECK(two_and({}).port == "29500");
    CHECK(two_and({{"MASTER_ADDR", "node7"}, {"MASTER_PORT", "1234"}}).address == "node7");
    CHECK(two_and({{"MASTER_PORT", "1234"}}).port == "1234");
    CHECK(two_and({{"MASTER_PORT", "1234"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}}).port == "1235");
    CHECK_REFUSED(ranks_with({{"WORLD_SIZE", "2"}}), "RANK is ''", "0 to 1");
    CHECK_REFUSED(ranks_with({{"WORLD_SIZE", "2"}, {"RANK", "2"}, {"LOCAL_RANK", "0"}}), "RANK is '2'", "0 to 1");
    CHECK_REFUSED(ranks_with({{"WORLD_SIZE", "2"}, {"RANK", "1"}}), "LOCAL_RANK is not set");
    CHECK_REFUSED(ranks_with({{"WORLD_SIZE", "two"}}), "WORLD_SIZE is 'two'");
    CHECK_REFUSED(two_and({{"MASTER_PORT", "-1"}}), "MASTER_PORT is '-1'");
    CHECK_REFUSED(two_and({{"MASTER_PORT", "70000"}}), "MASTER_PORT is 70000", "65535");
}

TEST_CASE("a world of one gives back what it was given", "[comm]") {
    Comm comm({}, 1);
    CHECK(comm.alone());
    CHECK(comm.first());
    CHECK(comm.share("x") == "x");
    CHECK(comm.mean(0.1) == 0.1);
    comm.expect_same("a", "weights");
    comm.finish();
}

TEST_CASE("processes find each other, share, add up in order, and part", "[comm]") {
    const double values[3] = {1e16, 1, -1e16};  // the sum would differ in another order
    const auto all         = together(3, [&](const Ranks& r) {
        if (r.rank == 0) usleep(300000);  // the others connect before rank 0 listens
        Comm comm(r, 7, 60);
        const std::string name = comm.share(r.rank == 0 ? "runs/x-2" : "runs/x"), none = comm.share("");
        std::vector<int> numbers(1000000, r.rank);  // more bytes than a text may have
        if (r.rank == 0) std::iota(numbers.begin(), numbers.end(), 5);
        comm.share(numbers.data(), numbers.size() * sizeof(int));
        const double mean = comm.mean(values[r.rank]);
        comm.expect_same("1234", "the weights");
        comm.finish();
        return fmt::format("{}{} {} {} {}", name, none, mean, numbers[1], numbers.back());
    });
    for (const Said& s : all) {
        CHECK(s.code == 0);
        CHECK(s.text == fmt::format("runs/x-2 {} 6 1000004", (1e16 + 1 - 1e16) / 3));
    }
}

TEST_CASE("all processes say which of them is about to do something else, and what", "[comm]") {
    const auto facts = [](const Ranks& r, int odd) {
        return Comm::Facts{{"commit", "abc"}, {"command", r.rank == odd ? "train --batch 3" : "train --batch 2"}};
    };
    const auto all = together(3, [&](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60);
        comm.agree(facts(r, -1));
        comm.agree(facts(r, 2));
        return "";
    });
    for (const Said& s : all) {
        CHECK(s.code == 1);
        CHECK(s.text == "rank 2 has another command than rank 0\n    rank 2: … --batch 3\n    rank 0: … --batch 2");
    }
    // Of long commands it shows the options that differ.
    const auto said = [](const std::string& of_0, const std::string& of_1) {
        const auto both = together(2, [&](const Ranks& r) -> std::string {
            Comm comm(r, 8, 60);
            comm.agree({{"command", r.rank ? of_1 : of_0}});
            return "";
        });
        return both[0].text.substr(both[0].text.find('\n'));
    };
    CHECK(said("t --a 1 --batch 12 --c 3", "t --a 1 --batch 22 --c 3") ==
          "\n    rank 1: … --batch 22 …\n    rank 0: … --batch 12 …");
    CHECK(said("t --a 1 --b 2 --c 3", "t --a 1 --c 3") == "\n    rank 1: … --c 3\n    rank 0: … --b 2 --c 3");
    CHECK(said("t --a 1", "t --a 1 --save-async") == "\n    rank 1: … --a 1 --save-async\n    rank 0: … --a 1");
    CHECK(said("t --a 1 --a 1", "t --a 1") == "\n    rank 1: … --a 1\n    rank 0: … --a 1 --a 1");
    CHECK(said("abc", "abd") == "\n    rank 1: abd\n    rank 0: abc");
}

TEST_CASE("processes that fail before they meet are heard once", "[comm]") {
    const InputError error("--bacth is unknown");
    // As the trainer does: those that do not fail meet, and end with what they are told.
    const auto fail_in = [&](std::initializer_list<int> ranks) {
        return together(3, [&](const Ranks& r) -> std::string {
            if (std::count(ranks.begin(), ranks.end(), r.rank)) end_before_meeting(r, 7, error);
            try {
                Comm comm(r, 7, 60);
                comm.fail_together("");
                comm.finish();
            } catch (const std::exception& e) { std::_Exit(complain(e)); }
            return "";
        });
    };
    const auto all = fail_in({0, 1, 2});
    CHECK(all[0].text == "error: --bacth is unknown\n");
    for (const int rank : {1, 2}) CHECK(all[rank].text.empty());
    for (const Said& s : all) CHECK(s.code == 2);

    const auto one = fail_in({1});
    CHECK(one[0].text == "error: rank 1: --bacth is unknown\n");
    for (const int rank : {1, 2}) CHECK(one[rank].text.empty());
    for (const Said& s : one) CHECK(s.code == 2);

    const auto first = fail_in({0});
    CHECK(first[0].text == "error: --bacth is unknown\n");
    for (const int rank : {1, 2}) CHECK(first[rank].text.empty());
    for (const Said& s : first) CHECK(s.code == 2);

    // Rank 0 does not come.
    const auto lost = together(2, [&](const Ranks& r) -> std::string {
        if (r.rank == 1) end_before_meeting(r, 7, error, 1);
        return "";
    });
    CHECK(lost[1].text == "error: --bacth is unknown\n");
    CHECK(lost[1].code == 2);

    // Rank 2 dies when it has answered. Rank 0 says so, and rank 1, which has been told the reason, says nothing.
    const auto dying = together(3, [&](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60);
        if (r.rank == 2) std::thread([] { usleep(300'000), _exit(9); }).detach();
        if (r.rank == 0) usleep(1'000'000);
        try {
            comm.fail_together(r.rank == 1 ? "no room" : "", 2);
        } catch (const std::exception& e) { std::_Exit(complain(e)); }
        return "went on";
    });
    CHECK_THAT(dying[0].text, Catch::Contains("rank 2 has ended"));
    CHECK(dying[1].text.empty());

    // A failure of work that all begin together keeps its exit code in all of them.
    for (const int failing : {0, 1}) {
        const auto together_then = together(2, [&](const Ranks& r) -> std::string {
            Comm comm(r, 7, 60);
            try {
                comm.attempt([&] {
                    if (r.rank == failing) throw InputError("no room");
                });
            } catch (const std::exception& e) { std::_Exit(complain(e)); }
            return "went on";
        });
        CHECK(together_then[0].text == (failing ? "error: rank 1: no room\n" : "error: no room\n"));
        CHECK(together_then[1].text.empty());
        for (const Said& s : together_then) CHECK(s.code == 2);
    }
}

TEST_CASE("processes without --out use the folder that rank 0 chooses", "[comm]") {
    const Scratch s;
    fs::create_directories(s / "runs/gpt2/checkpoints");
    const auto folders = [&](const std::string& out, bool resume) {
        return together(2, [&](const Ranks& r) {
            // Rank 1 is on a machine that cannot see rank 0's folders.
            fs::current_path(r.rank == 0 ? s.path : "/");
            Options o;
            o.model  = "gpt2";
            o.resume = resume;
            if (!out.empty()) o.out = out;
            Comm comm(r, 7, 60);
            choose_folder(o, comm);
            comm.finish();
            return std::string(o.out);
        });
    };
    for (const Said& said : folders("", false)) {
        CHECK(said.code == 0);
        CHECK(said.text == "runs/gpt2-2");
    }
    for (const Said& said : folders("runs/gpt2", true)) CHECK(said.text == "runs/gpt2");
    const auto taken = folders("runs/gpt2", false);
    CHECK(taken[0].text.find("--out runs/gpt2 already holds a run") != std::string::npos);
    for (const Said& said : taken) CHECK(said.code != 0);
}

TEST_CASE("a run is not resumed from a checkpoint after which another process has saved one", "[comm]") {
    const Scratch s;
    const std::string run = s / "run";
    for (const int step : {10, 20}) {
        fs::create_directories(checkpoint_path(run, step));
        std::ofstream(checkpoint_path(run, step) + "/COMPLETE");
    }
    const auto resumed_at = [&](int step) {
        return together(1, [&](const Ranks& r) {
            Options o;
            o.resume = true, o.out = run;
            Comm comm(r, 7, 60);
            const auto lock = choose_folder(o, comm, checkpoint_path(run, step));
            return std::string("goes on");
        })[0];
    };
    CHECK(resumed_at(20).text == "goes on");
    CHECK(resumed_at(10).text.find("another process has just saved a checkpoint here") != std::string::npos);
}

TEST_CASE("a process with other weights ends all, and so does one that dies", "[comm]") {
    const auto differ = together(3, [](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60);
        comm.expect_same(r.rank == 2 ? "beef" : "1234", "the weights");
        comm.finish();
        return "";
    });
    CHECK(differ[0].text.find("the weights of rank 2 are beef, but those of rank 0 are 1234") != std::string::npos);
    for (const Said& s : differ) CHECK(s.code == 1);

    const auto dead = together(3, [](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60);
        if (r.rank == 2) _exit(9);
        for (;;) pause();  // stands for a sum that never ends
    });
    CHECK(dead[2].code == 9);
    CHECK(dead[0].code == 1);
    CHECK(dead[0].text == "error: rank 2 has ended, so this process cannot go on\n");
    CHECK(dead[1].code == 1);
    CHECK(dead[1].text == "error: rank 0 has ended, so this process cannot go on\n");
}

TEST_CASE("a process that hangs ends all, and is named with where it was", "[comm]") {
    // Rank 2 stops with all of its threads. Somebody ends it when rank 0 is gone, as a launcher does.
    const auto stopped = together(3, [](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60, 2);
        const int of_first = std::stoi(comm.share(std::to_string(getpid())));
        comm.reach(r.rank == 2 ? 4 : 5, Comm::Phase::queueing);
        if (r.rank != 2)  // the others get on, so that only the silence can end them
            for (int64_t step = 6;; step++) usleep(200000), comm.reach(step, Comm::Phase::queueing);
        sleep(1);  // it tells where it is
        if (fork() == 0) {
            while (kill(of_first, 0) == 0) usleep(100000);
            kill(getppid(), SIGKILL);
            _exit(0);
        }
        raise(SIGSTOP);
        return "";
    });
    char host[256]     = "";
    gethostname(host, sizeof host - 1);
    CAPTURE(stopped[0].text);
    CHECK(stopped[0].code == 1);
    CHECK(stopped[0].text.find(fmt::format("error: rank 2 on {} has not answered for 2 s (--timeout)", host)) == 0);
    CHECK(stopped[0].text.find("it was in step 5 when") != std::string::npos);
    CHECK(stopped[1].code == 1);
    CHECK(stopped[2].code == 128 + SIGKILL);

    // All answer, but rank 1 does not get on, and the others wait for it.
    const auto stuck = together(3, [](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60, 2);
        comm.reach(3, r.rank == 1 ? Comm::Phase::reading_data : Comm::Phase::waiting);
        for (;;) pause();
    });
    CAPTURE(stuck[0].text);
    CHECK(stuck[0].text.find("no process has got on for 2 s") != std::string::npos);
    CHECK(stuck[0].text.find(fmt::format("in step 4, reading the data of the next one: rank 1 on {}", host)) !=
          std::string::npos);
    for (const Said& s : stuck) CHECK(s.code == 1);

    // A process that has done all its work waits for a slower one longer than the timeout, and so does one between
    // two steps.
    const auto slow = together(3, [](const Ranks& r) -> std::string {
        Comm comm(r, 7, 60, 2);
        comm.reach(3, Comm::Phase::between_steps);
        if (r.rank == 1) sleep(3);
        comm.barrier();
        if (r.rank == 2) sleep(3);
        comm.finish();
        return "done";
    });
    for (const Said& s : slow) CHECK(s.text == "done");
}

TEST_CASE("a process that does not come, one of another run, and a port that is taken are named", "[comm]") {
    const auto alone = together(2, [](const Ranks& r) -> std::string {
        if (r.rank == 1) return "";
        Comm comm(r, 7, 1);
        return "";
    });
    CHECK(alone[0].code == 1);
    CHECK(alone[0].text.find("rank 0 of 2 waited 1 s for rank 1") != std::string::npos);
    const auto lost = together(2, [](const Ranks& r) -> std::string {
        if (r.rank == 0) return "";
        Comm comm(r, 7, 1);
        return "";
    });
    CHECK(lost[1].text.find("rank 1 of 2 waited 1 s for rank 0 at 127.0.0.1 port") != std::string::npos);
    CHECK(lost[1].text.find("MASTER_ADDR") != std::string::npos);

    // Two processes say that they are rank 1, the first with other options: rank 0 waits for the right one.
    const auto stranger = together(3, [](const Ranks& r) -> std::string {
        if (r.rank == 2) usleep(500000);
        Comm comm({std::min(r.rank, 1), 2, 0, 1, r.address, r.port}, r.rank == 1 ? 8 : 7, 60);
        comm.finish();
        return "met";
    });
    CHECK(stranger[0].text == "met");
    CHECK(stranger[1].code == 1);
    CHECK(stranger[1].text.find("is rank 0 of another run") != std::string::npos);
    CHECK(stranger[1].text.find("MASTER_PORT") != std::string::npos);
    CHECK(stranger[2].text == "met");

    const auto taken = together(2, [](const Ranks& r) -> std::string {
        if (r.rank == 1) usleep(500000);
        Comm comm({0, 2, 0, 1, r.address, r.port}, 7, 2);
        return "";
    });
    CHECK(taken[1].text.find("cannot listen on port") != std::string::npos);
}
