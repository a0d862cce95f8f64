// programs.h - runs the programs as a user does, on small data, and reads what they write
//
// The programs are in the folder $GPT_BUILD, or in build when that is not set.
#pragma once
#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "kernels/collective.h"
#include "test/catch.h"
#include "test/scratch.h"

struct Ran {
    int code;
    std::string out, err;
};
inline std::string build_folder() {
    const char* folder = std::getenv("GPT_BUILD");
    return folder ? folder : "build";
}
inline std::string quoted(const std::string& word) {
    std::string q = "'";
    for (char c : word) q += c == '\'' ? "'\\''" : std::string(1, c);
    return q + "'";
}
// Runs a line of the shell; `in` is its standard input.
inline Ran shell(const Scratch& scratch, const std::string& line, const std::string& in = "") {
    write_text(scratch / "stdin", in);
    const std::string all = "{ " + line + "\n} <" + quoted(scratch / "stdin") + " >" + quoted(scratch / "stdout") +
                            " 2>" + quoted(scratch / "stderr");
    const int status = std::system(all.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text(scratch / "stdout"),
            read_text(scratch / "stderr")};
}
// Runs `program words…` through the shell; `under` is put in front of the command.
inline Ran run(const Scratch& scratch, const std::string& program, const std::string& words, const std::string& in = "",
               const std::string& under = "") {
    return shell(scratch, under + build_folder() + "/" + program + " " + words, in);
}
// Whether processes on CPUs can train together. Where they cannot it says so.
inline bool has_mpirun() {
    if (!Collective::library(Machine::cpu).empty() && std::system("command -v mpirun >/dev/null") == 0) return true;
    std::fprintf(stderr, "skipped: there is no mpirun (apt-get install openmpi-bin), or the build has no MPI\n");
    return false;
}
// The words in front of a command that start `world` processes of it. They must end within two minutes. They meet at a
// port of their own, because other tests may run at the same time.
inline std::string mpirun(int world) {
    return fmt::format(
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 GOMP_SPINCOUNT=0 MASTER_PORT={} timeout 120 mpirun "
        "--oversubscribe --bind-to none -n {} ",
        20000 + getpid() % 20000, world);
}
// A program must end with this exit code and with an error that says these words, and names no line of the source.
inline void refused(const Scratch& s, const std::string& program, const std::string& words,
                    std::initializer_list<const char*> says, int code = 2) {
    const Ran r = run(s, program, words);
    CAPTURE(program, words, r.out, r.err);
    CHECK(r.code == code);
    CHECK(missing_words(r.err, says) == "");
    for (const char* line_of_source : {".h:", ".cu:", ".cpp:"}) CHECK(r.err.find(line_of_source) == std::string::npos);
}
// Writes a shard of ids that repeat with variations.
inline void write_shard(const std::string& path, int64_t tokens, int32_t bad_at = -1, int64_t vocab = 257) {
    std::vector<uint16_t> ids(512 + tokens);
    const int32_t header[3] = {20240520, 1, int32_t(tokens)};
    std::memcpy(ids.data(), header, sizeof header);
    for (int64_t i = 0; i < tokens; i++) ids[512 + i] = uint16_t((i * 7 + i / 13 * 5 + (i * i) % 11) % vocab);
    if (bad_at >= 0) ids[512 + bad_at] = 300;
    write_text(path, std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2));
}
inline std::vector<nlohmann::json> records(const std::string& run_folder, const std::string& event) {
    std::vector<nlohmann::json> all;
    std::ifstream in(run_folder + "/log.jsonl");
    for (std::string line; std::getline(in, line);) {
        const auto j = nlohmann::json::parse(line);
        if (j["event"] == event) all.push_back(j);
    }
    return all;
}
inline std::string losses(const std::string& run_folder) {
    std::string text;
    for (const auto& j : records(run_folder, "step"))
        text += j["step"].dump() + ":" + j["loss"].dump() + "/" + j["norm"].dump() + " ";
    return text;
}
