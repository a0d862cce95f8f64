// tokenize.cpp - the program that turns text into token shards, shards into text, and text into vocabularies
//
// One thread reads, others encode, and the results are written in the order of the input, so the number of threads
// changes only the time. Memory holds a few blocks of a megabyte per thread. Shards get their final names when all of
// them are complete.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "data/bpe_training.h"
#include "data/documents.h"
#include "data/in_order.h"
#include "data/shard.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "gpt/cli.h"

struct Options {
    std::vector<std::string> input, mix;
    std::string tokenizer, output, eot = "before", eot_token = "auto", special_tokens = "text";
    std::string on_error = "stop", val_by = "auto";
    ReadSettings read;
    int64_t shard_tokens = 100'000'000;
    int train_bpe = 0, threads = 0;
    bool decode = false, overwrite = false;
};

static void list_options(Flags& f, Options& o) {
    f.group("input");
    f.add("--input", o.input, "text or .jsonl files, plain, .zst or .gz; folders or 'patterns' of them; - for stdin",
          "FILE…");
    f.add("--mix", o.mix, "take documents from several inputs by weight until the first ends, instead of --input",
          "WEIGHT:FILES…");
    f.choose("--format", o.read.format, {"auto", "text", "jsonl"}, "auto decides by the name and takes stdin as text");
    f.add("--field", o.read.field, "field of a .jsonl object that holds the text", "NAME");
    f.add("--separator", o.read.separator, "line between two documents of a text file; '' makes a file one document");
    f.choose("--on-error", o.on_error, {"stop", "skip", "keep"},
             "skip leaves bad documents out and counts them; keep also takes text that is not UTF-8 as it is");
    f.group("tokens");
    f.add("--tokenizer", o.tokenizer, "the tokenizer.json to encode or decode with", "FILE");
    f.choose("--eot", o.eot, {"before", "after", "none"}, "where each document gets its end-of-text token");
    f.add("--eot-token", o.eot_token,
          "the end-of-text token; auto takes the eos_token named beside the tokenizer, else <|endoftext|>", "TOKEN");
    f.choose("--special-tokens", o.special_tokens, {"text", "ids", "refuse"},
             "take special tokens that are written in documents as plain text, as their ids, or as an error");
    f.group("output");
    f.add("--output", o.output, "write PREFIX_train_000000.bin …, PREFIX_val_000000.bin … and PREFIX_summary.json",
          "PREFIX");
    f.add("--val-fraction", o.read.val_fraction, "share of the text that is held out for validation, 0 to 1");
    f.choose("--val-by", o.val_by, {"auto", "document", "tail"},
             "hold out whole documents or the tail of each; auto takes tails of fewer than 100 documents");
    f.add("--shard-tokens", o.shard_tokens, "tokens per shard");
    f.add("--overwrite", o.overwrite, "replace output that exists");
    f.group("instead of encoding");
    f.add("--train-bpe", o.train_bpe, "learn a vocabulary of N entries and write it to --output, a tokenizer.json");
    f.add("--decode", o.decode, "print the text of the shards that --input names");
    f.group("machine");
    f.add("--threads", o.threads, "threads that encode; 0 for one per core");
}

// Counts what has been done, and shows it on a terminal in one line that is rewritten.
class Progress {
  public:
    int64_t documents = 0, bytes = 0, tokens = 0;

    double seconds() const { return since(start_); }
    double megabytes_per_second() const { return double(bytes) / 1e6 / std::max(seconds(), 1e-9); }
    // share: of the input that has been read, 0..1, or -1 if that is not known.
    void show(double share) {
        if (!isatty(2) || since(shown_) < 0.2) return;
        shown_ = Clock::now();
        std::string left;
        if (share > 0.001) {
            const int64_t s = int64_t(seconds() / share * (1 - share));
            left            = fmt::format("{:3.0f} %, {}:{:02}:{:02} left", 100 * share, s / 3600, s / 60 % 60, s % 60);
        }
        fmt::print(stderr, "\r{:>10.1f} MB {:>10.2f} M tokens {:>8.1f} MB/s  {:<24}", double(bytes) / 1e6,
                   double(tokens) / 1e6, megabytes_per_second(), left);
    }
    void clear() const {
        if (isatty(2)) fmt::print(stderr, "\r{:80}\r", "");
    }
    ~Progress() { clear(); }

  private:
    using Clock = std::chrono::steady_clock;
    static double since(Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); }
    Clock::time_point start_ = Clock::now(), shown_ = start_;
};

// Counts the documents that were left out, and prints the reasons for the first ten.
class Skipped {
  public:
    void tell(const std::vector<std::string>& faults, const Progress& progress) {
        for (const std::string& why : faults) {
            if (++count_ > 10) continue;
            progress.clear();
            fmt::print(stderr, "skipped: {}\n{}", why, count_ == 10 ? "    further ones are only counted\n" : "");
        }
    }
    int64_t count() const { return count_; }

  private:
    int64_t count_ = 0;
};

// Calls use(part, text) for the parts of a block. A bad part throws, or with --on-error skip its error is returned.
template <class F>
static std::vector<std::string> each_text(const Options& o, const Documents& documents, const Block& block,
                                          std::string& buffer, F use) {
    std::vector<std::string> skipped;
    for (const Part& part : block.parts) {
        try {
            if (part.kind == Part::fault) throw InputError(std::string(block.bytes_of(part)));
            use(part, documents.text_of(block, part, buffer));
        } catch (const InputError& e) {
            if (o.on_error != "skip") throw;
            skipped.push_back(e.what());
        }
    }
    return skipped;
}

static void make_folder_of(const std::string& path) {
    std::error_code error;
    fs::create_directories(fs::absolute(path).parent_path(), error);
    CHECK(!error, "--output {}: cannot create its folder: {}", path, error.message());
}

static std::vector<Source> sources(const Options& o) {
    CHECK(o.input.empty() || o.mix.empty(), "--input and --mix both name the input; give one of them");
    std::vector<Source> all;
    for (const std::string& word : o.mix) all.push_back(weighted_source(word));
    for (const std::string& word : o.input) {
        if (all.empty()) all.push_back({1, {}});
        for (std::string& file : files_of(word)) all[0].files.push_back(std::move(file));
    }
    return all;
}

static std::string names(const Options& o) {
    const std::vector<std::string>& words = o.input.empty() ? o.mix : o.input;
    return words[0] + (words.size() > 1 ? fmt::format(" and {} more", words.size() - 1) : "");
}

// Prints what the user should know about the files that were read.
static void tell_notes(const std::vector<std::string>& notes) {
    constexpr size_t most = 10;
    for (size_t i = 0; i < std::min(most, notes.size()); i++) fmt::print(stderr, "note: {}\n", notes[i]);
    if (notes.size() > most) fmt::print(stderr, "note: {} more files were like these\n", notes.size() - most);
}

static std::string count_of(size_t n, const std::string& thing) {
    return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

// The tokens of a block.
struct Encoded {
    std::vector<int32_t> train, val;
    int64_t documents = 0, bytes = 0;
    std::vector<std::string> skipped;
};

class Encoder {
  public:
    // eot: the end-of-text token, or -1 for none.
    Encoder(const Options& o, const Tokenizer& tokenizer, int32_t eot, const Documents& documents)
        : o_(o),
          tokenizer_(tokenizer),
          documents_(documents),
          eot_before_(o.eot == "before" && !begins_with(tokenizer.before(), eot) ? eot : -1),
          eot_after_(o.eot == "after" && !ends_with(tokenizer.after(), eot) ? eot : -1),
          separator_counts_(!tokenizer.is_special(tokenizer.id_of(o.read.separator))) {}

    // by_tail: the end of each document, or of each part of a long one, is held out; else whole documents are.
    Encoded encode(const Block& block, bool by_tail) {
        Encoded e;
        const double fraction = o_.read.val_fraction;
        e.skipped             = each_text(o_, documents_, block, buffer_, [&](const Part& part, std::string_view text) {
            const bool is_whole = part.first && part.last;
            if (is_whole && text.empty()) return;
            if (o_.special_tokens == "refuse") refuse_special_tokens(part, text);
            if (by_tail && fraction > 0) {
                const size_t cut = tail_begin(text, fraction);
                if (cut > 0) append(e.train, text.substr(0, cut), true, true);
                if (cut < text.size()) append(e.val, text.substr(cut), true, true);
            } else {
                const bool chosen = is_whole ? is_validation(text, fraction) : part.for_validation;
                append(chosen ? e.val : e.train, text, part.first, part.last);
            }
            e.documents += part.first;
            e.bytes += int64_t(text.size());
        });
        return e;
    }

    // What the encoder met, for the report at the end.
    const Tokenizer::Scratch& met() const { return scratch_; }
    int64_t separators() const { return separators_; }

  private:
    static bool begins_with(const std::vector<int32_t>& ids, int32_t id) { return !ids.empty() && ids.front() == id; }
    static bool ends_with(const std::vector<int32_t>& ids, int32_t id) { return !ids.empty() && ids.back() == id; }

    // A tokenizer.json may put ids of its own around a text. An end-of-text token among them is not written twice.
    void append(std::vector<int32_t>& ids, std::string_view text, bool begins, bool ends) {
        if (begins && eot_before_ >= 0) ids.push_back(eot_before_);
        if (begins) ids.insert(ids.end(), tokenizer_.before().begin(), tokenizer_.before().end());
        tokenizer_.encode(text, o_.special_tokens == "ids", ids, scratch_);
        if (ends) ids.insert(ids.end(), tokenizer_.after().begin(), tokenizer_.after().end());
        if (ends && eot_after_ >= 0) ids.push_back(eot_after_);
        if (separator_counts_ && !o_.read.separator.empty()) count_separators(text);
    }
    void count_separators(std::string_view text) {
        const std::string& separator = o_.read.separator;
        for (size_t at = 0; (at = text.find(separator, at)) != text.npos; at += separator.size()) separators_++;
    }
    void refuse_special_tokens(const Part& part, std::string_view text) {
        std::vector<int32_t> ids;
        tokenizer_.encode(text, false, ids, strict_);
        if (strict_.specials.empty()) return;
        const std::string token = tokenizer_.bytes_of(strict_.specials.begin()->first);
        strict_.specials.clear();
        fail(
            "{} line {}: the document that begins here holds the special token {}; --special-tokens text or ids takes "
            "it",
            documents_.files()[size_t(part.file)].name(), part.line, token);
    }

    const Options& o_;
    const Tokenizer& tokenizer_;
    const Documents& documents_;
    int32_t eot_before_, eot_after_;  // -1: none
    bool separator_counts_;           // it is no special token, so the tokenizer does not count it
    int64_t separators_ = 0;          // inside lines of documents
    Tokenizer::Scratch scratch_, strict_;
    std::string buffer_;
};

// Holds the first blocks back until the input has shown 100 documents or 32 MB, and then decides how --val-by auto
// works: a hash chooses well among many documents, but of a few, such as one book, the tails are held out.
class FirstBlocks {
  public:
    FirstBlocks(Documents::Hand hand, std::atomic<bool>& are_few) : hand_(std::move(hand)), are_few_(are_few) {}
    void add(Block block) {
        if (decided_) return hand_(std::move(block));
        for (const Part& p : block.parts) documents_ += p.first && p.kind != Part::fault;
        bytes_ += block.bytes.size();
        held_.push_back(std::move(block));
        if (documents_ >= 100 || bytes_ >= (32 << 20)) decide();
    }
    void decide() {
        are_few_ = documents_ < 100;
        decided_ = true;
        for (Block& block : held_) hand_(std::move(block));
        held_.clear();
    }

  private:
    Documents::Hand hand_;
    std::atomic<bool>& are_few_;
    std::vector<Block> held_;
    size_t documents_ = 0, bytes_ = 0;
    bool decided_ = false;
};

// What all encoders met in documents.
struct Met {
    std::map<std::string, int64_t> specials;  // by content
    int64_t separators = 0;
    std::array<int64_t, 256> bytes_without_token{};

    Met(const std::vector<Encoder>& encoders, const Tokenizer& tokenizer) {
        for (const Encoder& e : encoders) {
            for (const auto& [id, count] : e.met().specials) specials[tokenizer.bytes_of(id)] += count;
            separators += e.separators();
            for (size_t b = 0; b < 256; b++) bytes_without_token[b] += e.met().bytes_without_token[b];
        }
    }
    void tell(const Options& o, const Tokenizer& tokenizer) const {
        std::map<std::string, int64_t> in_text = specials;
        if (separators > 0) in_text[o.read.separator] += separators;
        for (const auto& [token, count] : in_text) {
            const bool is_id = o.special_tokens == "ids" && specials.count(token);
            fmt::print(stderr, "note: {} stands in documents {} time{} and was taken as {}\n", token, count,
                       count == 1 ? "" : "s",
                       is_id ? fmt::format("the token {}", tokenizer.id_of(token)) : "plain text");
            if (!is_id && specials.count(token)) fmt::print(stderr, "    --special-tokens ids takes it as a token\n");
            if (token == o.read.separator)
                fmt::print(stderr, "    documents are separated only by lines that hold nothing but {}\n", token);
        }
        const int64_t lost = std::accumulate(bytes_without_token.begin(), bytes_without_token.end(), int64_t(0));
        if (lost == 0) return;
        std::vector<int> most(256);
        std::iota(most.begin(), most.end(), 0);
        std::stable_sort(most.begin(), most.end(),
                         [&](int a, int b) { return bytes_without_token[size_t(a)] > bytes_without_token[size_t(b)]; });
        std::string list;
        for (size_t i = 0; i < 3 && bytes_without_token[size_t(most[i])] > 0; i++)
            list += fmt::format("{}{:02X} {} times", i ? ", " : "", most[i], bytes_without_token[size_t(most[i])]);
        fmt::print(stderr, "note: {} bytes have no token and {} ({})\n", lost,
                   tokenizer.unknown() < 0 ? "were left out" : "became " + tokenizer.bytes_of(tokenizer.unknown()),
                   list);
    }
};

// The id of the end-of-text token, or -1 if no document gets one.
static int32_t end_of_text(const Options& o, const Tokenizer& tokenizer) {
    CHECK(!o.eot_token.empty(), "--eot-token '': expected a token, such as </s>");
    if (o.eot == "none") return -1;
    const int32_t id = o.eot_token == "auto" ? tokenizer.eot() : tokenizer.id_of(o.eot_token);
    if (id >= 0) return id;
    std::string list;
    for (const int32_t special : tokenizer.special_ids()) list += " " + tokenizer.bytes_of(special);
    CHECK(o.eot_token == "auto", "--eot-token {}: {} has no such token; its special tokens are:{}", o.eot_token,
          o.tokenizer, list);
    fail(
        "{} has no <|endoftext|>, and no file beside it names an eos_token; say --eot-token TOKEN or --eot none\n"
        "    its special tokens are:{}",
        o.tokenizer, list);
}

static void write_summary(const Options& o, const std::string& path, const Tokenizer& tokenizer, int32_t eot,
                          const Met& met, const Progress& done, int64_t skipped, const Documents& documents,
                          const ShardWriter& train, const ShardWriter& val) {
    nlohmann::ordered_json inputs = nlohmann::json::array(), shards = nlohmann::json::array();
    for (const InputFile& f : documents.files())
        inputs.push_back({{"file", f.name()},
                          {"bytes", f.bytes},
                          {"crc32", fmt::format("{:08x}", f.crc)},
                          {"read_to_end", f.read_to_end}});
    for (const ShardWriter* w : {&train, &val})
        for (const std::string& name : w->names()) shards.push_back(fs::path(name).filename().string());
    const nlohmann::ordered_json summary = {{"documents", done.documents},
                                            {"skipped", skipped},
                                            {"bytes", done.bytes},
                                            {"tokens", done.tokens},
                                            {"tokens_per_byte", double(done.tokens) / double(done.bytes)},
                                            {"train_tokens", train.tokens()},
                                            {"val_tokens", val.tokens()},
                                            {"tokenizer", o.tokenizer},
                                            {"tokenizer_fingerprint", tokenizer.fingerprint()},
                                            {"eot", o.eot},
                                            {"eot_token", eot < 0 ? "" : tokenizer.bytes_of(eot)},
                                            {"special_tokens", o.special_tokens},
                                            {"special_tokens_met", met.specials},
                                            {"val_fraction", o.read.val_fraction},
                                            {"shards", shards},
                                            {"inputs", inputs}};
    write_file(path, summary.dump(2) + "\n");
}

static int threads_of(const Options& o) {
    return o.threads > 0 ? o.threads : std::max(1, int(std::thread::hardware_concurrency()));
}

static void make_shards(const Options& o) {
    CHECK(!o.tokenizer.empty(),
          "--tokenizer FILE is missing; it names the tokenizer.json to encode with\n"
          "    data/fetch.sh gpt2-tokenizer fetches GPT-2's; --train-bpe learns one from your text");
    CHECK(!o.output.empty(), "--output PREFIX is missing; it names the shards to write");
    const double val_fraction = o.read.val_fraction;
    CHECK(val_fraction >= 0 && val_fraction < 1, "--val-fraction {}: expected 0 or more and less than 1", val_fraction);
    const std::string train_name = o.output + "_train", val_name = o.output + "_val";
    const std::string summary = o.output + "_summary.json";
    if (!o.overwrite)
        for (const std::string& name : {train_name, val_name})
            for (const std::string& path : ShardWriter::existing(name))
                fail("{} exists{}; choose another --output, or replace it with --overwrite", path,
                     fs::exists(summary) ? "" : ", left by a run that did not end, because there is no " + summary);

    const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
    const int32_t eot         = end_of_text(o, tokenizer);
    ReadSettings read         = o.read;
    read.last_cut             = [&](std::string_view text, size_t from) { return tokenizer.last_cut(text, from); };
    Documents documents(sources(o), read);
    make_folder_of(o.output);
    ShardWriter train(train_name, tokenizer.vocab_size(), o.shard_tokens);
    ShardWriter val(val_name, tokenizer.vocab_size(), o.shard_tokens);

    std::vector<Encoder> encoders(size_t(threads_of(o)), Encoder(o, tokenizer, eot, documents));
    Skipped skipped;
    Progress progress;
    std::atomic<bool> by_tail{o.val_by == "tail"};
    const auto read_all = [&](const Documents::Hand& hand) {
        if (val_fraction == 0 || o.val_by != "auto") return documents.read(hand);
        FirstBlocks first(hand, by_tail);
        documents.read([&](Block block) { first.add(std::move(block)); });
        first.decide();
    };
    const auto encode = [&](const Block& block, int thread) { return encoders[size_t(thread)].encode(block, by_tail); };
    const auto write  = [&](const Encoded& e) {
        train.add(e.train);
        val.add(e.val);
        skipped.tell(e.skipped, progress);
        progress.documents += e.documents;
        progress.bytes += e.bytes;
        progress.tokens = train.tokens() + val.tokens();
        progress.show(documents.progress());
    };
    in_order<Block>(threads_of(o), read_all, encode, write);
    progress.clear();
    CHECK(progress.tokens > 0, "there is no text in {}", names(o));
    CHECK(train.tokens() > 0, "there is no text to train on in {}: --val-fraction {} holds out all of it", names(o),
          val_fraction);
    CHECK(val_fraction == 0 || val.tokens() > 0,
          "--val-fraction {} holds out none of {} documents; use a larger fraction", val_fraction, progress.documents);
    tell_notes(documents.notes());
    const Met met(encoders, tokenizer);
    met.tell(o, tokenizer);
    // The summary is removed first and written last, so that it belongs to the shards beside it.
    std::error_code absent;
    fs::remove(summary, absent);
    train.commit();
    val.commit();
    write_summary(o, summary, tokenizer, eot, met, progress, skipped.count(), documents, train, val);
    progress.clear();
    fmt::print(
        "{}, {} bytes → {} tokens: {} for training in {}, {} for validation in {}; {:.3f} bytes per token, "
        "{:.1f} MB/s\n",
        count_of(size_t(progress.documents), "document"), progress.bytes, progress.tokens, train.tokens(),
        count_of(train.shards(), "shard"), val.tokens(), count_of(val.shards(), "shard"),
        double(progress.bytes) / double(progress.tokens), progress.megabytes_per_second());
    if (skipped.count() > 0) fmt::print("skipped {}\n", count_of(size_t(skipped.count()), "bad document"));
    for (const InputFile& f : documents.files())
        if (!o.mix.empty() && !f.read_to_end)
            fmt::print("the mix ended before {} did, after {} of its {} bytes\n", f.name(), f.bytes, f.size);
}

// The file that --train-bpe writes: --output itself, or tokenizer.json in the folder that it names.
static std::string tokenizer_path(const std::string& output) {
    CHECK(!output.empty(), "--output FILE is missing; it names the tokenizer.json to write");
    if (output.back() == '/' || fs::is_directory(output)) return (fs::path(output) / "tokenizer.json").string();
    CHECK(fs::path(output).extension() == ".json",
          "--output {}: expected the tokenizer.json that --train-bpe writes, or its folder", output);
    return output;
}

static void train_bpe(const Options& o) {
    CHECK(o.tokenizer.empty(), "--train-bpe makes a tokenizer; name it with --output, and leave --tokenizer out");
    const std::string path = tokenizer_path(o.output);
    CHECK(o.overwrite || !fs::exists(path), "{} exists; choose another --output, or replace it with --overwrite", path);

    ReadSettings read = o.read;
    read.last_cut     = unicode::last_split;
    Documents documents(sources(o), read);
    struct Counted {
        int64_t bytes;
        std::vector<std::string> skipped;
    };
    Skipped skipped;
    Progress progress;
    std::vector<WordCounts> of_thread(size_t(threads_of(o)));
    const auto read_all = [&](const Documents::Hand& hand) { documents.read(hand); };
    const auto count    = [&](const Block& block, int thread) {
        Counted c{};
        std::string buffer;
        c.skipped = each_text(o, documents, block, buffer, [&](const Part&, std::string_view text) {
            of_thread[size_t(thread)].add(text);
            c.bytes += int64_t(text.size());
        });
        return c;
    };
    in_order<Block>(threads_of(o), read_all, count, [&](const Counted& c) {
        progress.bytes += c.bytes;
        skipped.tell(c.skipped, progress);
        progress.show(documents.progress());
    });
    WordCounts words;
    for (const WordCounts& part : of_thread) words.add(part);
    progress.clear();
    tell_notes(documents.notes());
    CHECK(!words.count().empty(), "there is no text to learn from in {}", names(o));
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
    CHECK(!o.tokenizer.empty(),
          "--tokenizer FILE is missing; it names the tokenizer.json that the shards were made with");
    CHECK(!o.input.empty(), "--input FILE… is missing; it names the shards to read");
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
    Flags f("tokenize", "turns text into token shards, shards into text, and text into vocabularies");
    list_options(f, o);
    if (!f.parse(argc, argv)) return 0;
    CHECK(o.threads >= 0, "--threads {}: expected 0 (one per core) or more", o.threads);
    o.read.keep_any_bytes = o.on_error == "keep";
    CHECK(!o.decode || o.train_bpe == 0, "--decode and --train-bpe exclude each other");
    if (o.decode)
        decode(o);
    else if (o.train_bpe != 0)
        train_bpe(o);
    else
        make_shards(o);
} catch (const std::exception& e) { return complain(e); }
