// tokenize - text to token shards, shards to text, and byte-pair vocabularies out of text
//
// Documents are read one by one and encoded in batches, on all cores; what is held in memory is one batch. Shards get
// their names when all of them are whole.
#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/shard_writer.h"
#include "gpt/bpe_training.h"
#include "gpt/cli.h"
#include "gpt/shard.h"
#include "gpt/tokenizer.h"

struct Options {
    std::vector<std::string> input;
    std::string tokenizer, output, format = "auto", field = "text", eot = "before";
    double val_fraction  = 0;
    int64_t shard_tokens = 100'000'000;
    int train_bpe = 0, threads = 0;
    bool decode = false, overwrite = false;
};

static void list_options(Flags& f, Options& o) {
    f.group("input");
    f.add("--input", o.input, "text, .jsonl, either as .zst; - is standard input", "FILE…");
    f.choose("--format", o.format, {"auto", "text", "jsonl"}, "auto: by the name; standard input is text");
    f.add("--field", o.field, "of a .jsonl object that holds the text", "NAME");
    f.group("tokens");
    f.add("--tokenizer", o.tokenizer, "tokenizer.json to encode or decode with", "FILE");
    f.choose("--eot", o.eot, {"before", "after", "none"}, "where each document gets its <|endoftext|>");
    f.group("output");
    f.add("--output", o.output, "writes PREFIX_train_000000.bin … and PREFIX_val_000000.bin …", "PREFIX");
    f.add("--val-fraction", o.val_fraction, "part of the documents, or of each when they are few, for validation");
    f.add("--shard-tokens", o.shard_tokens, "tokens per file");
    f.add("--overwrite", o.overwrite, "replace output that exists");
    f.group("instead of encoding");
    f.add("--train-bpe", o.train_bpe, "learn a vocabulary of N entries; --output names the tokenizer.json to write");
    f.add("--decode", o.decode, "print the text of the shards that --input names");
    f.group("machine");
    f.add("--threads", o.threads, "0: one per core");
}

// Documents and bytes so far: a line that holds still on a terminal, and the rate at the end.
class Progress {
  public:
    int64_t documents = 0, bytes = 0, tokens = 0;

    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
    double megabytes_per_second() const { return double(bytes) / 1e6 / std::max(seconds(), 1e-9); }
    void show() {
        if (!isatty(2)) return;
        fmt::print(stderr, "\r{:>10} documents {:>10.1f} MB {:>10.2f} M tokens {:>8.1f} MB/s ", documents,
                   double(bytes) / 1e6, double(tokens) / 1e6, megabytes_per_second());
    }
    void clear() {
        if (isatty(2)) fmt::print(stderr, "\r{:80}\r", "");
    }
    ~Progress() { clear(); }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// As many documents as make 32 MB, at least one. Empty at the end of the input.
static std::vector<Document> next_batch(Documents& documents) {
    std::vector<Document> batch;
    Document d;
    for (size_t bytes = 0; bytes < (32 << 20) && documents.next(d); batch.push_back(std::move(d)))
        bytes += d.raw.size();
    return batch;
}

// Calls work(i) for 0 <= i < n on all threads. When some throw, the first in the order of i is thrown again.
template <class F>
static void on_all_cores(size_t n, F work) {
    std::vector<std::exception_ptr> thrown(n);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++) {
        try {
            work(i);
        } catch (...) { thrown[i] = std::current_exception(); }
    }
    for (const auto& e : thrown)
        if (e) std::rethrow_exception(e);
}

static void make_folder_of(const std::string& path) {
    std::error_code error;
    fs::create_directories(fs::absolute(path).parent_path(), error);
    CHECK(!error, "--output {}: cannot make its folder: {}", path, error.message());
}

static std::string names(const std::vector<std::string>& files) {
    return files[0] + (files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : "");
}

static std::string count_of(size_t n, const std::string& thing) {
    return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

static void make_shards(const Options& o) {
    CHECK(!o.tokenizer.empty(), "--tokenizer FILE is missing: the tokenizer.json to encode with");
    CHECK(!o.output.empty(), "--output PREFIX is missing: where the shards go");
    CHECK(o.val_fraction >= 0 && o.val_fraction < 1, "--val-fraction {}: expected 0 or more and less than 1",
          o.val_fraction);
    const std::string train_name = o.output + "_train", val_name = o.output + "_val";
    if (!o.overwrite)
        for (const std::string& name : {train_name, val_name})
            for (const std::string& path : ShardWriter::existing(name))
                fail("{} exists; choose another --output, or replace it with --overwrite", path);

    const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
    CHECK(o.eot == "none" || tokenizer.eot() >= 0, "{} has no <|endoftext|>; say --eot none", o.tokenizer);
    make_folder_of(o.output);
    // specials false: the text of a document is text, and <|endoftext|> inside a line of it ends nothing.
    const auto encode = [&](std::string_view text, std::vector<int32_t>& ids) {
        if (text.empty()) return;
        if (o.eot == "before") ids.push_back(tokenizer.eot());
        tokenizer.encode(text, false, ids);
        if (o.eot == "after") ids.push_back(tokenizer.eot());
    };

    Documents documents(o.input, o.format);
    ShardWriter train(train_name, tokenizer.vocab_size(), o.shard_tokens);
    ShardWriter val(val_name, tokenizer.vocab_size(), o.shard_tokens);
    Progress progress;
    std::vector<Document> batch = next_batch(documents);
    // A hash chooses well among many documents. Of a few, such as one book, each gives its end.
    const bool few              = batch.size() < 100;
    for (; !batch.empty(); batch = next_batch(documents)) {
        std::vector<std::vector<int32_t>> for_train(batch.size()), for_val(batch.size());
        std::vector<size_t> bytes(batch.size());
        on_all_cores(batch.size(), [&](size_t i) {
            const std::string text = std::move(batch[i]).text(o.field);
            size_t cut             = text.size();  // where the validation part begins
            if (o.val_fraction > 0 && few) cut = tail_begin(text, o.val_fraction);
            if (o.val_fraction > 0 && !few && is_validation(text, o.val_fraction)) cut = 0;
            encode(std::string_view(text).substr(0, cut), for_train[i]);
            encode(std::string_view(text).substr(cut), for_val[i]);
            bytes[i] = text.size();
        });
        for (size_t i = 0; i < batch.size(); i++) {
            train.add(for_train[i]);
            val.add(for_val[i]);
            progress.documents += bytes[i] > 0;
            progress.bytes += int64_t(bytes[i]);
        }
        progress.tokens = train.tokens() + val.tokens();
        progress.show();
    }
    CHECK(train.tokens() > 0, "no text to train on in {}", names(o.input));
    CHECK(o.val_fraction == 0 || val.tokens() > 0, "none of {} documents fell to --val-fraction {}; use a larger one",
          progress.documents, o.val_fraction);
    train.commit();
    val.commit();
    progress.clear();
    fmt::print(
        "{}, {} bytes → {} tokens: {} for training in {}, {} for validation in {}; {:.3f} bytes per token, "
        "{:.1f} MB/s\n",
        count_of(size_t(progress.documents), "document"), progress.bytes, progress.tokens, train.tokens(),
        count_of(train.shards(), "shard"), val.tokens(), count_of(val.shards(), "shard"),
        double(progress.bytes) / double(progress.tokens), progress.megabytes_per_second());
}

// Where --train-bpe writes: --output itself, or tokenizer.json in the folder that it names.
static std::string tokenizer_path(const std::string& output) {
    CHECK(!output.empty(), "--output FILE is missing: the tokenizer.json to write");
    if (output.back() == '/' || fs::is_directory(output)) return (fs::path(output) / "tokenizer.json").string();
    CHECK(fs::path(output).extension() == ".json",
          "--output {}: with --train-bpe this is the tokenizer.json to write, or its "
          "folder",
          output);
    return output;
}

static void train_bpe(const Options& o) {
    CHECK(o.tokenizer.empty(), "--train-bpe makes a tokenizer; --output names the file, and --tokenizer is not used");
    const std::string path = tokenizer_path(o.output);
    CHECK(o.overwrite || !fs::exists(path), "{} exists; choose another --output, or replace it with --overwrite", path);

    Documents documents(o.input, o.format);
    Progress progress;
    const int threads = omp_get_max_threads();
    std::vector<WordCounts> of_thread(threads);
    for (auto batch = next_batch(documents); !batch.empty(); batch = next_batch(documents)) {
        for (const Document& d : batch) progress.bytes += int64_t(d.raw.size());
        progress.documents += int64_t(batch.size());
        on_all_cores(batch.size(),
                     [&](size_t i) { of_thread[size_t(omp_get_thread_num())].add(std::move(batch[i]).text(o.field)); });
        progress.show();
    }
    WordCounts words;
    for (const WordCounts& part : of_thread) words.add(part);
    CHECK(!words.count().empty(), "no text to learn from in {}", names(o.input));
    progress.clear();
    BpeTraining training(words);
    const std::string file = training.learn(o.train_bpe, [&](int entries) {
        if (isatty(2) && entries % 64 == 0) fmt::print(stderr, "\r{:>8} of {} entries ", entries, o.train_bpe);
    });
    progress.clear();
    make_folder_of(path);
    write_file(path, file);
    fmt::print("{}: {} entries from {} distinct words in {} bytes of text, {:.1f} s\n", path, o.train_bpe,
               words.count().size(), progress.bytes, progress.seconds());
}

static void decode(const Options& o) {
    CHECK(!o.tokenizer.empty(), "--tokenizer FILE is missing: the tokenizer.json that the shards were made with");
    CHECK(!o.input.empty(), "--input FILE… is missing: the shards to read");
    const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
    for (const std::string& path : o.input) {
        const Shard shard(path, tokenizer.vocab_size());
        std::vector<int32_t> ids;
        for (int64_t at = 0; at < shard.tokens(); at += int64_t(ids.size())) {
            ids.resize(size_t(std::min<int64_t>(shard.tokens() - at, 1 << 20)));
            shard.read(at, int64_t(ids.size()), ids.data());
            const std::string text = tokenizer.decode(ids);
            CHECK_RUN(std::fwrite(text.data(), 1, text.size(), stdout) == text.size(), "cannot write the text: {}",
                      os_error());
        }
    }
    CHECK_RUN(std::fflush(stdout) == 0, "cannot write the text: {}", os_error());
}

int main(int argc, char** argv) try {
    Options o;
    Flags f("tokenize", "text to token shards, shards to text, and byte-pair vocabularies out of text");
    list_options(f, o);
    if (!f.parse(argc, argv)) return 0;
    CHECK(o.threads >= 0, "--threads {}: expected 0 (one per core) or more", o.threads);
    CHECK(!o.decode || o.train_bpe == 0, "--decode and --train-bpe are two different jobs");
    if (o.threads > 0) omp_set_num_threads(o.threads);
    if (o.decode)
        decode(o);
    else if (o.train_bpe != 0)
        train_bpe(o);
    else
        make_shards(o);
} catch (const std::exception& e) { return complain(e); }
