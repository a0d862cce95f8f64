// bench_tokenizer.cpp - times text to tokens on one core: the encoder, the whole program, and the worst inputs
//
// The encoder is timed on a text that is not repeated, and its cache is empty at first, so the cache helps as much as
// on any text of that size. Times are CPU seconds, because other programs change them little, and the least of five
// runs.
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <functional>

#include "data/tokenizer.h"
#include "gpt/cli.h"
#include "test/scratch.h"

constexpr int repeats = 8;  // the documents are repeated so often that the program's start-up matters little

struct BenchOptions {
    std::string tokenizer, prose, code, python, program;
};

static double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

static double least_of_five(const std::function<double()>& once) {
    double least = once();
    for (int i = 0; i < 4; i++) least = std::min(least, once());
    return least;
}

static std::vector<int32_t> encode_once(const Tokenizer& tokenizer, const std::string& text, double& seconds) {
    const double begin = cpu_seconds();
    auto ids           = tokenizer.encode(text, false);
    seconds            = cpu_seconds() - begin;
    return ids;
}

// What test/bench_tiktoken.py prints: CPU seconds, the number of ids, and their CRC-32. Without tiktoken seconds is 0.
struct Tiktoken {
    double seconds    = 0;
    size_t ids        = 0;
    unsigned long crc = 0;
};
static Tiktoken tiktoken(const BenchOptions& o, const std::string& text) {
    Tiktoken t;
    const std::string line = fmt::format("'{}' test/bench_tiktoken.py '{}' '{}'", o.python, o.tokenizer, text);
    std::FILE* out         = popen(line.c_str(), "r");
    CHECK_RUN(out, "cannot run {}", line);
    if (std::fscanf(out, "%lf %zu %lu", &t.seconds, &t.ids, &t.crc) != 3) t = {};
    pclose(out);
    return t;
}

static void bench_encoding(const BenchOptions& o, const Tokenizer& tokenizer, const char* what,
                           const std::string& file) {
    const std::string text = read_text(file);
    std::vector<int32_t> ids;
    const double ours = least_of_five([&] {
        double seconds;
        ids = encode_once(tokenizer, text, seconds);
        return seconds;
    });
    fmt::print("encoding {:<8} {:>5.1f} MB {:>8.1f} MB/s", what, double(text.size()) / 1e6,
               double(text.size()) / 1e6 / ours);
    if (const Tiktoken theirs = tiktoken(o, file); theirs.seconds > 0) {
        const unsigned long crc = crc32(0, reinterpret_cast<const Bytef*>(ids.data()), unsigned(4 * ids.size()));
        fmt::print("   tiktoken {:.1f} MB/s, so {:.1f} times as fast, {}", double(text.size()) / 1e6 / theirs.seconds,
                   theirs.seconds / ours, theirs.ids == ids.size() && theirs.crc == crc ? "the same ids" : "OTHER IDS");
    }
    fmt::print("\n");
    std::fflush(stdout);
}

// ---- the whole program ----------------------------------------------------------------------------------------------

struct Used {
    double seconds;  // CPU time
    int64_t bytes;   // peak memory
};
static Used run(const std::string& line) {
    const pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", ("exec " + line + " >/dev/null").c_str(), nullptr);
        _exit(127);
    }
    int status;
    rusage used{};
    CHECK_RUN(child > 0 && wait4(child, &status, 0, &used) == child && status == 0, "{} failed", line);
    const auto seconds = [](timeval t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
    return {seconds(used.ru_utime) + seconds(used.ru_stime), int64_t(used.ru_maxrss) * 1024};
}

// The peak memory of a child process includes that of its parent at the fork, so work that takes much memory is done
// in another child.
static void in_child(const std::function<void()>& work) {
    const pid_t child = fork();
    if (child == 0) {
        work();
        _exit(0);
    }
    int status;
    CHECK_RUN(child > 0 && waitpid(child, &status, 0) == child && status == 0, "preparing the documents failed");
}

static std::vector<std::string> documents_of(const BenchOptions& o) {
    std::string text;
    for (const std::string& file : {o.prose, o.code}) text += read_text(file);
    std::vector<std::string> documents;
    for (size_t at = 0, end; at < text.size(); at = end) {
        end = text.find('\n', at + 4000);
        end = end == std::string::npos ? text.size() : end + 1;
        documents.push_back(text.substr(at, end - at));
    }
    return documents;
}

static void write_documents(const BenchOptions& o, const Scratch& scratch) {
    const std::vector<std::string> documents = documents_of(o);
    std::string lines, separated;
    const auto as_json = [](const std::string& document) {
        const nlohmann::json object = {{"text", document}, {"meta", {{"pile_set_name", "Bench"}}}};
        return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    };
    for (int i = 0; i < repeats; i++)
        for (const std::string& document : documents) {
            separated += document + "<|endoftext|>\n";
            lines += as_json(document);
        }
    std::string packed(ZSTD_compressBound(lines.size()), '\0');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 3));
    write_text(scratch / "d.txt", separated);
    write_text(scratch / "d.jsonl", lines);
    write_text(scratch / "d.jsonl.zst", packed);
    write_text(scratch / "one.jsonl", as_json(documents[0]));
}

// Times documents of 4 KB from the file to the shard, without the start-up of the program.
static void bench_program(const BenchOptions& o) {
    const Scratch scratch;
    in_child([&] { write_documents(o, scratch); });
    const auto tokenize = [&](const std::string& file) {
        const std::string line = fmt::format("'{}' --tokenizer '{}' --threads 1 --overwrite --input '{}' --output '{}'",
                                             o.program, o.tokenizer, scratch / file, scratch / "out");
        Used least             = run(line);
        for (int i = 0; i < 4; i++) {
            const Used used = run(line);
            least           = {std::min(least.seconds, used.seconds), std::max(least.bytes, used.bytes)};
        }
        return least;
    };
    std::vector<std::pair<std::string, Used>> all;
    for (const char* file : {"d.txt", "d.jsonl", "d.jsonl.zst"}) all.emplace_back(file + 1, tokenize(file));
    const double start  = tokenize("one.jsonl").seconds;
    const Used learning = run(fmt::format("'{}' --train-bpe 8000 --overwrite --input '{}' --output '{}'", o.program,
                                          o.prose, scratch / "tokenizer.json"));

    const Tokenizer tokenizer                = Tokenizer::load(o.tokenizer);
    const std::vector<std::string> documents = documents_of(o);
    double megabytes                         = 0;
    for (const std::string& document : documents) megabytes += 1e-6 * repeats * double(document.size());
    const double encoding = least_of_five([&] {
        Tokenizer::Scratch remembered;
        std::vector<int32_t> ids;
        const double begin = cpu_seconds();
        for (int i = 0; i < repeats; i++)
            for (const std::string& document : documents) {
                ids.clear();
                tokenizer.encode(document, false, ids, remembered);
            }
        return cpu_seconds() - begin;
    });
    fmt::print("documents of 4 KB, {} times prose and code, {:.1f} MB: encoding alone {:.1f} MB/s\n", repeats,
               megabytes, megabytes / encoding);
    for (const auto& [ending, used] : all) {
        const double seconds = used.seconds - start;
        fmt::print("    {:<10} to the shard {:>8.1f} MB/s {:>5.0f} % of it, {:>3.0f} % of plain text   memory {} MB\n",
                   ending, megabytes / seconds, 100 * encoding / seconds,
                   100 * (all[0].second.seconds - start) / seconds, used.bytes / 1000000);
    }
    fmt::print("learning 8000 entries from the prose {:.2f} s, memory {} MB\n", learning.seconds,
               learning.bytes / 1000000);
    std::fflush(stdout);
}

// ---- the worst input ------------------------------------------------------------------------------------------------

// Four times the text takes 4 times as long in linear time, a little more where it no longer fits into a cache, and 16
// times as long in quadratic time.
static void bench_worst(const Tokenizer& tokenizer) {
    for (const auto& [name, unit] : {std::pair{"one letter", "a"},
                                     {"spaces", " "},
                                     {"lines", "\n"},
                                     {"combining marks", "\u0301"},
                                     {"digits", "7"},
                                     {"invalid bytes", "\xff"},
                                     {"emoji", "\U0001f600"}}) {
        double seconds[2];
        for (int i = 0; i < 2; i++) {
            std::string text;
            while (text.size() < size_t(i ? 4'000'000 : 1'000'000)) text += unit;
            seconds[i] =
                least_of_five([&, least = 0.]() mutable { return encode_once(tokenizer, text, least), least; });
        }
        fmt::print("worst    {:<16} {:>8.1f} MB/s   4 MB take {:.1f} times as long as 1 MB\n", name, 4 / seconds[1],
                   seconds[1] / seconds[0]);
    }
}

int main(int argc, char** argv) try {
    BenchOptions o;
    Flags f("bench_tokenizer", "times text to tokens on one core");
    f.group("input");
    f.add("--tokenizer", o.tokenizer, "the tokenizer.json to encode with", "FILE");
    f.add("--prose", o.prose, "a text of prose", "FILE");
    f.add("--code", o.code, "a text of code", "FILE");
    f.add("--program", o.program, "the tokenize program to time", "FILE");
    f.add("--python", o.python, "a python3; tiktoken is timed too if it has it", "FILE");
    if (!f.parse(argc, argv)) return 0;
    bench_program(o);  // this comes first, while this process needs little memory
    const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
    bench_encoding(o, tokenizer, "prose", o.prose);
    bench_encoding(o, tokenizer, "code", o.code);
    bench_worst(tokenizer);
} catch (const std::exception& e) { return complain(e); }
