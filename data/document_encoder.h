// document_encoder.h - documents and conversations → token ids with their end-of-text tokens, for training and
// validation
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/chat_template.h"
#include "data/conversations.h"
#include "data/documents.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "data/validation.h"
#include "data/words.h"

struct EncodeSettings {
    enum Eot { before, after, none };  // the place of the end-of-text token of a document
    static constexpr const char* eot_names[] = {"before", "after", "none"};  // the options use these words

    Eot eot                = before;
    int32_t eot_token      = -1;  // Eot::none ignores it
    SpecialTokens specials = SpecialTokens::text;
    std::string separator;  // between documents of a text file
    double val_fraction      = 0;
    bool skip_errors         = false;  // collects the errors of bad documents instead of throwing them
    // Not null: parts are JSON lines with conversations, and the end-of-text token is in front of each of them.
    const ChatTemplate* chat = nullptr;
    std::string field;  // of a line that is a document
};

// Calls use(part, text) for the parts of a block. Returns the errors of bad parts, or throws the first.
template <class F>
std::vector<std::string> each_text(const Documents& documents, const TextBlock& block, bool skip_errors,
                                   std::string& buffer, F use) {
    std::vector<std::string> skipped;
    for (const Part& part : block.parts) {
        try {
            if (part.kind == Part::fault) throw InputError(std::string(block.bytes_of(part)));
            use(part, documents.text_of(block, part, buffer));
        } catch (const InputError& e) {
            if (!skip_errors) throw;
            skipped.push_back(e.what());
        }
    }
    return skipped;
}

// What the lines of a block are to a model that is tuned on dialogue.
struct ExampleCounts {
    int64_t documents = 0, conversations = 0, preferences = 0;
    int64_t unanswered = 0;                 // have no answer that counts, and were left out
    int64_t ties       = 0;                 // preferences with the same answer twice, which were left out
    std::string preference, no_preference;  // where the first of each is, or ""
    std::map<std::string, int64_t> unread;  // how often each field was met that was not read

    void add(const ExampleCounts& o) {
        documents += o.documents;
        conversations += o.conversations;
        preferences += o.preferences;
        unanswered += o.unanswered;
        ties += o.ties;
        for (const auto& [field, times] : o.unread) unread[field] += times;
        if (preference.empty()) preference = o.preference;
        if (no_preference.empty()) no_preference = o.no_preference;
    }
};

// Ids with what counts of them. ends: where each example ends; the two answers of a preference are one example.
struct EncodedExamples : ChatIds {
    std::vector<size_t> ends;
};

// The tokens of a block.
struct Encoded {
    std::vector<int32_t> train, val;
    EncodedExamples train_examples, val_examples;
    ExampleCounts examples;
    int64_t documents = 0, bytes = 0;
    std::vector<std::string> skipped;
};

// Encodes blocks. Each thread needs an encoder of its own.
class DocumentEncoder {
  public:
    DocumentEncoder(const EncodeSettings& settings, const Tokenizer& tokenizer, const Documents& documents)
        : set_(settings),
          tokenizer_(tokenizer),
          documents_(documents),
          separator_is_special_(tokenizer.is_special(tokenizer.id_of(settings.separator))) {}

    // by_tail: the end of each document, or of each part of a long one, is held out; else whole documents are.
    Encoded encode(const TextBlock& block, bool by_tail) {
        Encoded e;
        e.skipped =
            each_text(documents_, block, set_.skip_errors, buffer_, [&](const Part& part, std::string_view text) {
                if (set_.chat) return add_example(e, part, text);
                const bool is_whole = part.first && part.last;
                if (is_whole && text.empty()) return;
                if (set_.specials == SpecialTokens::refuse) refuse_special_tokens(part, text);
                if (by_tail && set_.val_fraction > 0) {
                    const size_t cut = tail_begin(text, set_.val_fraction);
                    if (cut > 0) append(e.train, text.substr(0, cut), true, true);
                    if (cut < text.size()) append(e.val, text.substr(cut), true, true);
                } else {
                    const bool chosen = is_whole ? is_validation(text, set_.val_fraction) : part.for_validation;
                    append(chosen ? e.val : e.train, text, part.first, part.last);
                }
                e.documents += part.first;
                e.bytes += int64_t(text.size());
            });
        return e;
    }

    // What the encoder met in documents.
    const Tokenizer::Scratch& met() const { return scratch_; }
    int64_t separators() const { return separators_; }  // met() counts those that are special tokens

  private:
    // A tokenizer.json may put ids of its own around a text. An end-of-text token among them is not written twice.
    void append(std::vector<int32_t>& ids, std::string_view text, bool begins, bool ends) {
        const std::vector<int32_t>&in_front = tokenizer_.before(), &behind = tokenizer_.after();
        const int32_t eot = set_.eot_token;
        if (begins) {
            if (set_.eot == EncodeSettings::before && (in_front.empty() || in_front.front() != eot)) ids.push_back(eot);
            ids.insert(ids.end(), in_front.begin(), in_front.end());
        }
        tokenizer_.encode(text, set_.specials == SpecialTokens::ids, ids, scratch_);
        if (ends) {
            ids.insert(ids.end(), behind.begin(), behind.end());
            if (set_.eot == EncodeSettings::after && (behind.empty() || behind.back() != eot)) ids.push_back(eot);
        }
        if (!separator_is_special_) separators_ += count_in(text, set_.separator);
    }

    // In front of each conversation stands the end-of-text token.
    void add_example(Encoded& e, const Part& part, std::string_view line) {
        const std::string where = fmt::format("{} line {}", documents_.files()[size_t(part.file)].name(), part.line);
        const ExampleReader reader(line, set_.field, where);
        const Example& example = reader.example();
        const bool is_pair = example.kind == Example::preference, is_document = example.kind == Example::document;
        e.documents++;
        e.bytes += int64_t(line.size());
        std::string& first = is_pair ? e.examples.preference : e.examples.no_preference;
        if (first.empty()) first = where;
        for (const auto& [key, times] : example.unread) e.examples.unread[key] += times;
        const bool unanswered = is_document ? example.text.empty() : !example.has_answer();
        if (unanswered || example.is_tie()) {
            (unanswered ? e.examples.unanswered : e.examples.ties)++;
            return;
        }
        (is_document ? e.examples.documents : is_pair ? e.examples.preferences : e.examples.conversations)++;
        EncodedExamples& to = is_validation(line, set_.val_fraction) ? e.val_examples : e.train_examples;
        const auto add      = [&](const Messages& messages) {
            if (set_.specials == SpecialTokens::refuse)
                for (const Message& m : messages) refuse_special_tokens(part, m.content);
            const ChatIds ids =
                set_.chat->encode(messages, false, is_pair, set_.specials == SpecialTokens::ids, scratch_);
            to.add(set_.eot_token, false);
            const size_t first = to.ids.size();
            to.ids.insert(to.ids.end(), ids.ids.begin(), ids.ids.end());
            to.counts.insert(to.counts.end(), ids.counts.begin(), ids.counts.end());
            to.counts.at(first) = ShardWriter::begins;
        };
        if (is_document) {
            if (set_.specials == SpecialTokens::refuse) refuse_special_tokens(part, example.text);
            to.add(set_.eot_token, false);
            const size_t first = to.ids.size();
            tokenizer_.encode(example.text, set_.specials == SpecialTokens::ids, to.ids, scratch_);
            to.counts.resize(to.ids.size(), ShardWriter::yes);
            to.add(set_.eot_token, true);  // so that its end is learned, too
            to.counts[first] = ShardWriter::begins;
        } else
            add(example.messages);
        if (is_pair) add(example.rejected);
        to.ends.push_back(to.ids.size());
    }

    void refuse_special_tokens(const Part& part, std::string_view text) {
        std::vector<int32_t> ids;
        tokenizer_.encode(text, false, ids, searched_);
        if (searched_.specials.empty()) return;
        const std::string token = tokenizer_.bytes_of(searched_.specials.begin()->first);
        searched_.specials.clear();
        fail(
            "{} line {}: the document that begins here holds the special token {}; --special-tokens text or ids takes "
            "it",
            documents_.files()[size_t(part.file)].name(), part.line, token);
    }

    const EncodeSettings& set_;
    const Tokenizer& tokenizer_;
    const Documents& documents_;
    const bool separator_is_special_;
    int64_t separators_ = 0;
    Tokenizer::Scratch scratch_, searched_;
    std::string buffer_;
};

// What all encoders met in documents, for the report at the end.
struct MetInDocuments {
    std::map<std::string, int64_t> specials;  // the key is the text of the token
    int64_t separators = 0;
    std::array<int64_t, 256> bytes_without_token{};

    MetInDocuments(const std::vector<DocumentEncoder>& encoders, const Tokenizer& tokenizer) {
        for (const DocumentEncoder& e : encoders) {
            for (const auto& [id, count] : e.met().specials) specials[tokenizer.bytes_of(id)] += count;
            separators += e.separators();
            for (size_t b = 0; b < 256; b++) bytes_without_token[b] += e.met().bytes_without_token[b];
        }
    }

    void tell(const EncodeSettings& set, const Tokenizer& tokenizer) const {
        std::map<std::string, int64_t> words = specials;
        if (separators > 0) words[set.separator] += separators;
        for (const auto& [word, count] : words) {
            const bool is_special = specials.count(word) > 0, is_id = is_special && set.specials == SpecialTokens::ids;
            fmt::print(stderr, "note: {} stands in documents {} and was taken as {}\n", word, count_of(count, "time"),
                       is_id ? fmt::format("the token {}", tokenizer.id_of(word)) : "plain text");
            if (is_special && !is_id) fmt::print(stderr, "    --special-tokens ids takes it as a token\n");
            if (word == set.separator && !set.chat)
                fmt::print(stderr, "    documents are separated only by lines that hold nothing but {}\n", word);
        }
        const int64_t lost = std::accumulate(bytes_without_token.begin(), bytes_without_token.end(), int64_t(0));
        if (lost > 0)
            fmt::print(stderr, "note: {} {} no token and {} ({})\n", count_of(lost, "byte"), lost == 1 ? "has" : "have",
                       tokenizer.unknown() >= 0 ? "became " + tokenizer.bytes_of(tokenizer.unknown())
                       : lost == 1              ? "was left out"
                                                : "were left out",
                       most_frequent());
    }

  private:
    std::string most_frequent() const {
        std::array<size_t, 256> bytes;
        std::iota(bytes.begin(), bytes.end(), size_t(0));
        std::stable_sort(bytes.begin(), bytes.end(),
                         [&](size_t a, size_t b) { return bytes_without_token[a] > bytes_without_token[b]; });
        std::string list;
        for (size_t i = 0; i < 3 && bytes_without_token[bytes[i]] > 0; i++)
            list +=
                fmt::format("{}{:02X} {}", i ? ", " : "", bytes[i], count_of(bytes_without_token[bytes[i]], "time"));
        return list;
    }
};

// Holds the first blocks back until the input has shown 100 documents or 32 MB, and then decides how --val-by auto
// works: a hash chooses well among many documents, but of a few, such as one book, the tails are held out.
class FirstBlocks {
  public:
    FirstBlocks(Documents::Hand hand, std::atomic<bool>& are_few) : hand_(std::move(hand)), are_few_(are_few) {}
    void add(TextBlock block) {
        if (decided_) return hand_(std::move(block));
        for (const Part& p : block.parts) documents_ += p.first && p.kind != Part::fault;
        bytes_ += block.bytes.size();
        held_.push_back(std::move(block));
        if (documents_ >= 100 || bytes_ >= (32 << 20)) decide();
    }
    void decide() {
        are_few_ = documents_ < 100;
        decided_ = true;
        for (TextBlock& block : held_) hand_(std::move(block));
        held_.clear();
    }

  private:
    Documents::Hand hand_;
    std::atomic<bool>& are_few_;
    std::vector<TextBlock> held_;
    size_t documents_ = 0, bytes_ = 0;
    bool decided_ = false;
};
