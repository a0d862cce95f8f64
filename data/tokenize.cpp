// tokenize.cpp - the program that turns text into token shards, shards into text, and text into vocabularies
//
// One thread reads, others encode, and the results are written in the order of the input, so the number of threads
// changes only the time. Memory holds a few blocks of a megabyte per thread. Shards get their final names when all of
// them are complete.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "data/add_tokens.h"
#include "data/bpe_training.h"
#include "data/document_encoder.h"
#include "data/documents.h"
#include "data/in_order.h"
#include "data/lock_file.h"
#include "data/progress.h"
#include "data/shard.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "data/words.h"
#include "gpt/cli.h"
#include "kernels/device.h"
#include "kernels/threads.h"

// ---- options --------------------------------------------------------------------------------------------------------

struct Options {
    std::vector<std::string> input, mix;
    std::string tokenizer, output, eot_token = "auto", on_error = "stop", val_by = "auto", chat_template = "none",
                                   add_tokens;
    ReadSettings read;
    EncodeSettings encode;
    int64_t shard_tokens = 100'000'000;
    int train_bpe        = 0;
    Auto<int> threads;
    bool decode = false, overwrite = false;
};

// The words of an option, which stand for the enum's values 0, 1, 2.
template <class Enum, size_t n>
static Flags::Table<Enum> named(const char* const (&names)[n]) {
    Flags::Table<Enum> table;
    for (size_t i = 0; i < n; i++) table.emplace_back(names[i], Enum(i));
    return table;
}

static void list_options(Flags& f, Options& o) {
    f.group("input");
    f.add("--input", o.input,
          "files of text or JSON, plain, .zst or .gz; folders, of which .txt, .md, .rst and .jsonl files are read; "
          "quoted patterns; - is standard input",
          "FILE…");
    f.add(
        "--mix", o.mix,
        "inputs in place of --input, from which documents are taken in proportion to the weights, until the first ends",
        "WEIGHT:FILES…");
    f.choose("--format", o.read.format, {"auto", "text", "jsonl"},
             "form of the input; auto: jsonl if the name or the content says so, else text");
    f.add("--field", o.read.field, "field of a .jsonl object that holds the text", "NAME");
    f.add("--separator", o.read.separator, any_text(),
          "line that separates two documents of a text file; '': each file is one document");
    f.choose(
        "--on-error", o.on_error, {"stop", "skip", "keep"},
        "what to do about a bad document: stop the run; skip it and count it; keep stops too, but accepts text that is "
        "not UTF-8 as it is");
    f.group("tokens");
    f.add("--tokenizer", o.tokenizer,
          "tokenizer.json, or vocab.json with merges.txt beside it, or their folder; encoding and decoding need it",
          "FILE");
    f.choose("--eot", o.encode.eot, named<EncodeSettings::Eot>(EncodeSettings::eot_names),
             "where each document gets its end-of-text token: in front, behind, or nowhere");
    f.add("--eot-token", o.eot_token,
          "end-of-text token; auto: the eos_token or eos_token_id that a file beside the tokenizer names, else "
          "<|endoftext|>",
          "TOKEN");
    f.choose("--special-tokens", o.encode.specials, named<SpecialTokens>(special_token_words),
             "how special tokens that are written in documents are encoded: as plain text or as their ids; refuse: "
             "they are an error");
    f.choose("--chat-template", o.chat_template, {"none", "model", "chatml", "alpaca", "plain"},
             "form in which conversations become text: the input is then JSON with messages, conversations, "
             "instruction and output, prompt and completion, or preferences, and the shards say which tokens are an "
             "answer's; model: the form of the chat template beside the tokenizer; none: the input is documents");
    f.add("--add-tokens", o.add_tokens,
          "folder to which the tokenizer is written together with the chat template and the tokens that it needs and "
          "the tokenizer lacks; the shards are made with it, and train_gpt --tokenizer DIR --add-tokens gives a model "
          "the tokens",
          "DIR");
    f.group("output");
    f.add("--output", o.output,
          "beginning of the names of the shards: PREFIX_train_000000.bin …, PREFIX_val_000000.bin … and "
          "PREFIX_summary.json",
          "PREFIX");
    f.add("--val-fraction", o.read.val_fraction,
          "share of the text that is held out for validation, 0 or more and less than 1");
    f.choose(
        "--val-by", o.val_by, {"auto", "document", "tail"},
        "what is held out: whole documents, or the tail of each; auto: tails if there are fewer than 100 documents");
    f.add("--shard-tokens", o.shard_tokens, "tokens per shard; the last shard has the rest");
    f.add("--overwrite", o.overwrite, "replace output that exists; left out: it is an error");
    f.group("instead of encoding");
    f.add("--train-bpe", o.train_bpe,
          "learn a vocabulary of N entries from --input and write it to --output, a tokenizer.json; 0: do not");
    f.add("--decode", o.decode, "print the text of the token shards that --input names");
    f.group("machine");
    f.add("--threads", o.threads, at_least(1).at_most(most_cpu_threads),
          "threads that encode; auto: one per core that this process may use");
    f.apart({"--input", "--mix"});
    f.apart({"--decode", "--tokenizer"}, {"--train-bpe"});
    f.apart({"--decode"}, {"--mix", "--output", "--val-fraction", "--val-by", "--shard-tokens", "--overwrite", "--eot",
                           "--eot-token", "--special-tokens", "--format", "--field", "--separator", "--on-error"});
    f.apart({"--train-bpe", "--decode"}, {"--chat-template", "--add-tokens"});
    f.apart({"--chat-template"}, {"--eot", "--separator", "--val-by"});
    f.only_with("--add-tokens", {"--chat-template"});
    f.apart({"--train-bpe"},
            {"--eot", "--eot-token", "--special-tokens", "--val-fraction", "--val-by", "--shard-tokens"});
}

// ---- what the modes share -------------------------------------------------------------------------------------------

static std::vector<Source> sources(const Options& o) {
    std::vector<Source> all;
    for (const std::string& word : o.mix) all.push_back(weighted_source(word));
    for (const std::string& word : o.input) {
        if (all.empty()) all.push_back({1, {}});
        for (std::string& file : files_of(word)) all[0].files.push_back(std::move(file));
    }
    int64_t times = 0;
    for (const Source& source : all) times += std::count(source.files.begin(), source.files.end(), "-");
    CHECK(times <= 1, "{} names standard input {} times, as -, but it can be read only once",
          o.mix.empty() ? "--input" : "--mix", times);
    return all;
}

static std::string names(const Options& o) {
    const std::vector<std::string>& words = o.input.empty() ? o.mix : o.input;
    return words[0] + (words.size() > 1 ? fmt::format(" and {} more", words.size() - 1) : "");
}

static int threads_of(const Options& o) { return o.threads.value_or(host::usable_cores()); }

// ---- encoding -------------------------------------------------------------------------------------------------------

// The id of the end-of-text token, or -1 if no document gets one.
static int32_t end_of_text(const Options& o, const Tokenizer& tokenizer) {
    if (o.encode.eot == EncodeSettings::none) return -1;
    const int32_t id = o.eot_token == "auto" ? tokenizer.eot() : tokenizer.id_of(o.eot_token);
    if (id >= 0) return id;
    std::string list;
    for (const int32_t special : tokenizer.special_ids()) list += " " + tokenizer.bytes_of(special);
    CHECK(o.eot_token == "auto", "--eot-token {}: {} has no such token; its special tokens are:{}", o.eot_token,
          o.tokenizer, list);
    fail(
        "{} has no <|endoftext|>, and no file beside it names an eos_token or eos_token_id; give --eot-token TOKEN or "
        "--eot none\n"
        "    its special tokens are:{}",
        o.tokenizer, list);
}

// The form of the conversations that --chat-template names, or null if the input is documents.
static const ChatForm* chat_form(const Options& o) {
    if (o.chat_template == "none") return nullptr;
    if (o.chat_template != "model") return find_chat_form(o.chat_template);
    const ChatForm* form = chat_form_beside(o.tokenizer);
    CHECK(form,
          "--chat-template model: there is no chat template beside {}; --chat-template chatml, alpaca or plain chooses "
          "one",
          o.tokenizer);
    return form;
}

// The token in front of conversations. It must not be one that their form uses for something else.
static int32_t between_conversations(const Options& o, const Tokenizer& tokenizer, const ChatTemplate& chat) {
    const int32_t eot = end_of_text(o, tokenizer);
    if (!chat.uses(eot)) return eot;
    const int32_t other = tokenizer.id_of("<|endoftext|>");
    CHECK(o.eot_token == "auto" && other >= 0 && !chat.uses(other),
          "{} is the token that ends a message in {}, so another one must stand between conversations; --eot-token "
          "names it",
          tokenizer.bytes_of(eot), chat.form().name);
    return other;
}

// Refuses options with which no shard can be made.
static void check_options(const Options& o) {
    const char* where = "data/fetch.sh gpt2-tokenizer fetches GPT-2's; --train-bpe learns one from your text";
    CHECK(!o.tokenizer.empty(), "--tokenizer FILE is missing; it names the tokenizer.json to encode with\n    {}",
          where);
    CHECK(fs::exists(o.tokenizer), "--tokenizer {}: there is no such file\n    {}", o.tokenizer, where);
    CHECK(!o.output.empty(), "--output PREFIX is missing; it names the shards to write");
    CHECK(o.read.val_fraction >= 0 && o.read.val_fraction < 1, "--val-fraction {}: expected 0 or more and less than 1",
          o.read.val_fraction);
}

// The names of what --output PREFIX stands for.
struct OutputNames {
    std::string train, val;  // the beginnings of the shards' names
    std::string summary;

    explicit OutputNames(const std::string& prefix)
        : train(prefix + "_train"), val(prefix + "_val"), summary(prefix + "_summary.json") {}

    void refuse_existing() const {
        for (const std::string& name : {train, val})
            for (const std::string& path : ShardWriter::existing(name))
                fail("{} exists{}; choose another --output, or replace it with --overwrite", path,
                     fs::exists(summary) ? "" : ", left by a run that did not end, because there is no " + summary);
    }
};

// Makes the shards of one command. The constructor opens everything that the command names. encode() then fills files
// with names that end in .tmp, commit() gives them their final names, and report() says what was done.
class ShardMaker {
  public:
    explicit ShardMaker(Options options)
        : options_(std::move(options)),
          names_(options_.output),
          form_(chat_form(options_)),
          tokenizer_(open_tokenizer()),
          documents_(open_documents()),
          lock_(lock_output()),
          train_(writer(names_.train)),
          val_(writer(names_.val)) {
        try_file("--output", names_.summary);
    }
    ShardMaker(const ShardMaker&)            = delete;
    ShardMaker& operator=(const ShardMaker&) = delete;

    void encode() {
        std::vector<DocumentEncoder> encoders(size_t(threads_of(options_)),
                                              DocumentEncoder(options_.encode, tokenizer_, documents_));
        std::atomic<bool> by_tail{options_.val_by == "tail"};
        const auto read = [&](const Documents::Hand& hand) {
            if (options_.read.val_fraction == 0 || options_.val_by != "auto" || form_) return documents_.read(hand);
            FirstBlocks first(hand, by_tail);
            documents_.read([&](TextBlock block) { first.add(std::move(block)); });
            first.decide();
        };
        const auto encode_block = [&](const TextBlock& block, int thread) {
            return encoders[size_t(thread)].encode(block, by_tail);
        };
        in_order<TextBlock>(threads_of(options_), read, encode_block, [&](const Encoded& e) { write(e); });
        progress_.clear();
        refuse_useless_output();
        tell_notes(documents_.notes());
        met_.emplace(encoders, tokenizer_).tell(options_.encode, tokenizer_);
    }

    // The summary is removed first and written last, so that it belongs to the shards beside it.
    void commit() {
        std::error_code absent;
        fs::remove(names_.summary, absent);
        if (added_) added_->commit();
        train_.commit();
        val_.commit();
        write_file(names_.summary, json_text(summary(), 2) + "\n");
    }

    void report() const {
        progress_.clear();
        fmt::print("{}, {} → {}: {} for training in {}, {} for validation in {}; {:.3f} bytes per token, {:.1f} MB/s\n",
                   count_of(progress_.documents, "document"), count_of(progress_.bytes, "byte"),
                   count_of(progress_.tokens, "token"), train_.tokens(), count_of(int64_t(train_.shards()), "shard"),
                   val_.tokens(), count_of(int64_t(val_.shards()), "shard"),
                   double(progress_.bytes) / double(progress_.tokens), progress_.megabytes_per_second());
        if (form_) report_examples();
        if (skipped_.count() > 0) fmt::print("skipped {}\n", count_of(skipped_.count(), "bad document"));
        for (const InputFile& f : documents_.files())
            if (!options_.mix.empty() && !f.read_to_end)
                fmt::print("the mix ended before {} did; {} of its {} bytes had been read\n", f.name(), f.bytes,
                           f.size);
    }

  private:
    // With --add-tokens the tokenizer is that of the new folder.
    Tokenizer open_tokenizer() {
        Options& o = options_;
        if (o.add_tokens.empty()) return Tokenizer::load(o.tokenizer);
        o.tokenizer = added_.emplace(o.add_tokens, o.tokenizer, *form_, o.overwrite).file();
        return added_->tokenizer();
    }

    // Completes the settings of reading and encoding, which depend on the tokenizer, and finds the files.
    Documents open_documents() {
        Options& o = options_;
        if (form_) o.encode.chat = &chat_.emplace(*form_, tokenizer_, o.tokenizer);
        o.encode.eot_token    = form_ ? between_conversations(o, tokenizer_, *chat_) : end_of_text(o, tokenizer_);
        o.encode.field        = o.read.field;
        o.encode.separator    = o.read.separator;
        o.encode.val_fraction = o.read.val_fraction;
        o.encode.skip_errors  = o.on_error == "skip";
        o.read.objects        = form_ != nullptr;
        o.read.last_cut       = [this](std::string_view text, size_t from) { return tokenizer_.last_cut(text, from); };
        return Documents(sources(o), o.read);
    }

    // From here on no other process writes what --output names. One may have written it a moment ago.
    LockFile lock_output() const {
        LockFile lock("--output " + options_.output, options_.output + ".lock");
        if (!options_.overwrite) names_.refuse_existing();
        return lock;
    }

    ShardWriter writer(const std::string& name) const {
        try_file("--output", name + "_000000.bin");
        return ShardWriter(name, tokenizer_.vocab_size(), options_.shard_tokens, form_ != nullptr,
                           form_ ? options_.encode.eot_token : -1);
    }

    void write(const Encoded& e) {
        train_.add(e.train);
        val_.add(e.val);
        add_examples(train_, e.train_examples, e.examples.preferences > 0);
        add_examples(val_, e.val_examples, e.examples.preferences > 0);
        examples_.add(e.examples);
        skipped_.tell(e.skipped, progress_);
        progress_.documents += e.documents;
        progress_.bytes += e.bytes;
        progress_.tokens = train_.tokens() + val_.tokens();
        progress_.show(documents_.progress());
    }
    static void add_examples(ShardWriter& to, const EncodedExamples& all, bool are_pairs) {
        size_t begin = 0;
        for (const size_t end : all.ends) {
            to.add(all.ids.data() + begin, all.counts.data() + begin, end - begin, are_pairs);
            begin = end;
        }
    }

    // Refuses output that nothing could be trained on, or not in the way that was asked for.
    void refuse_useless_output() const {
        const std::string input   = names(options_);
        const double val_fraction = options_.read.val_fraction;
        CHECK(progress_.tokens > 0 || examples_.unanswered == 0, "no conversation in {} has an answer that counts",
              input);
        CHECK(progress_.tokens > 0 || examples_.ties == 0, "in {}, the two answers of every preference are the same",
              input);
        CHECK(progress_.tokens > 0, "there is no text in {}", input);
        CHECK(examples_.preferences == 0 || examples_.no_preference.empty(),
              "{} is a preference, but {} is not; write preferences to shards of their own, for --objective dpo",
              examples_.preference, examples_.no_preference);
        CHECK(train_.tokens() > 0, "there is no text to train on in {}: --val-fraction {} holds out all of it", input,
              val_fraction);
        CHECK(val_fraction == 0 || val_.tokens() > 0, "--val-fraction {} holds out none of {}; use a larger fraction",
              val_fraction, count_of(progress_.documents, "document"));
    }

    nlohmann::ordered_json summary() const {
        const EncodeSettings& set     = options_.encode;
        nlohmann::ordered_json inputs = nlohmann::json::array(), shards = nlohmann::json::array();
        for (const InputFile& f : documents_.files())
            inputs.push_back({{"file", f.name()},
                              {"bytes", f.bytes},
                              {"crc32", fmt::format("{:08x}", f.crc)},
                              {"read_to_end", f.read_to_end}});
        for (const ShardWriter* w : {&train_, &val_})
            for (const std::string& name : w->names()) shards.push_back(fs::path(name).filename().string());
        nlohmann::ordered_json all = {{"documents", progress_.documents},
                                      {"skipped", skipped_.count()},
                                      {"bytes", progress_.bytes},
                                      {"tokens", progress_.tokens},
                                      {"tokens_per_byte", double(progress_.tokens) / double(progress_.bytes)},
                                      {"train_tokens", train_.tokens()},
                                      {"val_tokens", val_.tokens()},
                                      {"tokenizer", options_.tokenizer},
                                      {"tokenizer_fingerprint", tokenizer_.fingerprint()},
                                      {"eot", EncodeSettings::eot_names[set.eot]},
                                      {"eot_token", set.eot_token < 0 ? "" : tokenizer_.bytes_of(set.eot_token)},
                                      {"special_tokens", special_token_words[int(set.specials)]},
                                      {"special_tokens_met", met_->specials},
                                      {"val_fraction", options_.read.val_fraction},
                                      {"shards", shards},
                                      {"inputs", inputs}};
        if (form_)
            all["chat"] = {{"template", form_->name},
                           {"conversations", examples_.conversations},
                           {"preferences", examples_.preferences},
                           {"documents", examples_.documents},
                           {"left_out_without_an_answer", examples_.unanswered},
                           {"left_out_with_the_same_answers", examples_.ties},
                           {"train_tokens_that_count", train_.counted()},
                           {"val_tokens_that_count", val_.counted()}};
        return all;
    }

    // Says what became of conversations and preferences.
    void report_examples() const {
        const int64_t all = train_.tokens() + val_.tokens(), counted = train_.counted() + val_.counted();
        const ExampleCounts& met = examples_;
        std::string kinds, unread;
        const auto list = [](std::string& words, const std::string& w) { words += (words.empty() ? "" : ", ") + w; };
        for (const auto& [n, kind] : {std::pair(met.conversations, "conversation"),
                                      std::pair(met.preferences, "preference"), std::pair(met.documents, "document")})
            if (n > 0) list(kinds, count_of(n, kind));
        fmt::print("{} as {}: {} in the loss, {:.1f} % of all\n", kinds, form_->name,
                   counted == 1 ? "1 token counts" : fmt::format("{} tokens count", counted),
                   100. * double(counted) / double(all));
        if (met.unanswered > 0)
            fmt::print("left out {} without an answer that counts\n", count_of(met.unanswered, "conversation"));
        if (met.ties > 0)
            fmt::print("left out {} whose chosen and rejected answers are the same\n",
                       count_of(met.ties, "preference"));
        for (const auto& [field, times] : met.unread)
            list(unread, fmt::format("{} ({})", field, count_of(times, "time")));
        if (!unread.empty()) fmt::print(stderr, "note: these fields were not read: {}\n", unread);
    }

    Options options_;
    const OutputNames names_;
    const ChatForm* const form_;          // the form of conversations; null if the input is documents
    std::optional<ChatTokenizer> added_;  // the files of --add-tokens
    const Tokenizer tokenizer_;
    std::optional<ChatTemplate> chat_;
    Documents documents_;
    const LockFile lock_;
    ShardWriter train_, val_;
    ExampleCounts examples_;
    Skipped skipped_;
    Progress progress_;
    std::optional<MetInDocuments> met_;
};

static void make_shards(const Options& o) {
    check_options(o);
    if (!o.overwrite) OutputNames(o.output).refuse_existing();
    ShardMaker maker(o);
    maker.encode();
    maker.commit();
    maker.report();
}

// ---- learning a vocabulary ------------------------------------------------------------------------------------------

// The file that --train-bpe writes: --output itself, or tokenizer.json in the folder that it names.
static std::string tokenizer_path(const std::string& output) {
    CHECK(!output.empty(), "--output FILE is missing; it names the tokenizer.json to write");
    if (output.back() == '/' || fs::is_directory(output)) return (fs::path(output) / "tokenizer.json").string();
    CHECK(fs::path(output).extension() == ".json",
          "--output {}: --train-bpe writes a tokenizer.json: give a name that ends in .json, or a folder's, with / "
          "behind",
          output);
    return output;
}

static void train_bpe(const Options& o) {
    BpeTraining::check_entries(o.train_bpe);  // before all of the input is read
    const std::string path     = tokenizer_path(o.output);
    const auto refuse_existing = [&] {
        CHECK(o.overwrite || !fs::exists(path), "{} exists; choose another --output, or replace it with --overwrite",
              path);
    };
    refuse_existing();
    ReadSettings read = o.read;
    read.last_cut     = unicode::last_split;
    Documents documents(sources(o), read);
    const LockFile lock("--output " + o.output, path + ".lock");
    refuse_existing();  // another process may have written it a moment ago
    try_file("--output", path);
    struct Counted {
        int64_t bytes, separators;
        std::vector<std::string> skipped;
    };
    Skipped skipped;
    Progress progress;
    int64_t separators = 0;
    std::vector<WordCounts> of_thread(size_t(threads_of(o)));
    const auto read_all = [&](const Documents::Hand& hand) { documents.read(hand); };
    const auto count    = [&](const TextBlock& block, int thread) {
        Counted c{};
        std::string buffer;
        c.skipped = each_text(documents, block, o.on_error == "skip", buffer, [&](const Part&, std::string_view text) {
            of_thread[size_t(thread)].add(text);
            c.bytes += int64_t(text.size());
            c.separators += count_in(text, o.read.separator);
        });
        return c;
    };
    in_order<TextBlock>(threads_of(o), read_all, count, [&](const Counted& c) {
        progress.bytes += c.bytes;
        separators += c.separators;
        skipped.tell(c.skipped, progress);
        progress.show(documents.progress());
    });
    WordCounts words;
    for (const WordCounts& part : of_thread) words.add(part);
    progress.clear();
    tell_notes(documents.notes());
    if (separators > 0)
        fmt::print(stderr, "note: {} stands in documents {} and was learned as plain text\n", o.read.separator,
                   count_of(separators, "time"));
    CHECK(!words.count().empty(), "there is no text to learn from in {}", names(o));
    BpeTraining training(words);
    const std::string file = training.learn(o.train_bpe, [&](int entries) {
        if (entries % 64 == 0 && columns_of(2)) fmt::print(stderr, "\r{:>8} of {} entries ", entries, o.train_bpe);
    });
    progress.clear();
    write_file(path, file);
    fmt::print("{}: {} entries from {} in {} of text, {:.1f} s\n", path, o.train_bpe,
               count_of(int64_t(words.count().size()), "distinct word"), count_of(progress.bytes, "byte"),
               progress.seconds());
}

// ---- decoding -------------------------------------------------------------------------------------------------------

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
}

// ---- the program ----------------------------------------------------------------------------------------------------

static int run(int argc, char** argv) {
    Options o;
    Flags f("tokenize", "turns text into token shards, shards into text, and text into vocabularies");
    list_options(f, o);
    if (!f.parse(argc, argv)) return 0;
    o.read.keep_any_bytes = o.on_error == "keep";
    if (!o.tokenizer.empty()) o.tokenizer = tokenizer_at(o.tokenizer);
    if (o.decode)
        decode(o);
    else if (o.train_bpe != 0)
        train_bpe(o);
    else
        make_shards(o);
    expect_printed();
    return 0;
}

int main(int argc, char** argv) {
    return run_main([&] { return run(argc, argv); });
}
