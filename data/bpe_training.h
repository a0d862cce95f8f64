// bpe_training.h - learns a byte-level BPE vocabulary by merging the most frequent pair of neighbours repeatedly
//
// Training needs only the distinct words of the text (the pieces of GPT-2's split pattern) and how often each occurs,
// so memory grows with the distinct words. Every pair has its count and a list of the words it occurs in, and a merge
// visits those words alone. Among pairs of equal count the one with the smaller ids is merged first, as in Hugging Face
// tokenizers, so the same words always give the same vocabulary.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/bpe.h"
#include "data/byte_alphabet.h"
#include "data/tokenizer_json.h"

class WordCounts {
  public:
    void add(std::string_view text) {
        constexpr size_t most = 256;
        for (size_t at = 0; at < text.size();) {
            const size_t end = unicode::next_piece(text, at);
            // Long pieces are counted in parts of 256 bytes, else every merge in such a piece would cost its length.
            for (; at < end; at = std::min(at + most, end))
                count_[std::string(text.substr(at, std::min(end - at, most)))]++;
        }
    }
    void add(const WordCounts& more) {
        for (const auto& [word, n] : more.count_) count_[word] += n;
    }
    const std::unordered_map<std::string, int64_t>& count() const { return count_; }

  private:
    std::unordered_map<std::string, int64_t> count_;
};

class BpeTraining {
  public:
    explicit BpeTraining(const WordCounts& words) {
        int32_t of_byte[256];
        for (const char b : byte_alphabet().in_order()) {
            of_byte[uint8_t(b)] = int32_t(tokens_.size());
            add_token(std::string(1, b));
        }
        for (const auto& [text, count] : words.count()) {
            Word w{{}, count};
            for (const char b : text) w.ids.push_back(of_byte[uint8_t(b)]);
            words_.push_back(std::move(w));
            note_pairs(uint32_t(words_.size() - 1), -1);
        }
        for (const auto& [pair, where] : pairs_) heap_.push({where.count, pair});
    }

    static void check_entries(int entries) {
        CHECK(entries >= 257, "a byte-level vocabulary has 256 bytes and <|endoftext|>, so 257 entries or more, not {}",
              entries);
    }
    // Returns the text of a tokenizer.json with `entries` tokens: the 256 bytes, the merged tokens and <|endoftext|>.
    // Throws InputError if the text has too few pairs that occur twice.
    std::string learn(int entries, const std::function<void(int entries_so_far)>& progress = nullptr) {
        check_entries(entries);
        while (int(tokens_.size()) < entries - 1) {
            const bool merged = merge_best();
            CHECK(merged,
                  "this text gives {} entries, not {}: no pair is left that occurs twice\n"
                  "    use more text, or ask for {} or fewer",
                  tokens_.size() + 1, entries, tokens_.size() + 1);
            if (progress) progress(int(tokens_.size()) + 1);
        }
        return tokenizer_json();
    }

  private:
    struct Word {
        std::vector<int32_t> ids;
        int64_t count;
    };
    struct Pair {
        int64_t count = 0;
        std::vector<uint32_t> words;  // may hold a word twice, or a word that no longer has the pair
    };
    struct Candidate {
        int64_t count;
        uint64_t pair;
        bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : pair > o.pair; }
    };

    int32_t add_token(const std::string& bytes) {
        const auto [found, is_new] = ids_.emplace(bytes, int32_t(tokens_.size()));
        if (is_new) tokens_.push_back(bytes);
        return found->second;  // two different merges can give the same bytes
    }

    // Adds a word to the counts of its pairs, and to the word lists of those pairs that contain `id` (-1: of all).
    void note_pairs(uint32_t word, int32_t id) {
        const Word& w = words_[word];
        for (size_t i = 0; i + 1 < w.ids.size(); i++) {
            Pair& pair = pairs_[pair_key(w.ids[i], w.ids[i + 1])];
            pair.count += w.count;
            if (id < 0 || w.ids[i] == id || w.ids[i + 1] == id) pair.words.push_back(word);
        }
    }

    // Removes the pair with the largest count from the heap and returns it. An entry of the heap may be outdated, but
    // then its pair's count has fallen since, because whatever raises a count pushes a new entry.
    Candidate take_best() {
        while (!heap_.empty()) {
            Candidate best = heap_.top();
            heap_.pop();
            const auto found  = pairs_.find(best.pair);
            const int64_t now = found == pairs_.end() ? 0 : found->second.count;
            if (now == best.count) return best;
            if (now > 0) heap_.push({now, best.pair});
        }
        return {0, 0};
    }

    bool merge_best() {
        const Candidate best = take_best();
        if (best.count < 2) return false;
        const int32_t left = int32_t(best.pair >> 32), right = int32_t(best.pair & 0xffffffff);
        const int32_t result = add_token(tokens_[size_t(left)] + tokens_[size_t(right)]);
        merges_.push_back({left, right, result});

        std::vector<uint32_t> where = std::move(pairs_[best.pair].words);
        std::sort(where.begin(), where.end());
        where.erase(std::unique(where.begin(), where.end()), where.end());
        std::vector<uint64_t> raised;
        for (const uint32_t word : where) {
            std::vector<int32_t>& ids = words_[word].ids;
            for (size_t i = 0; i + 1 < ids.size(); i++)
                pairs_[pair_key(ids[i], ids[i + 1])].count -= words_[word].count;
            size_t kept = 0;
            for (size_t i = 0; i < ids.size(); kept++) {
                const bool here = i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right;
                ids[kept]       = here ? result : ids[i];
                i += here ? 2 : 1;
            }
            ids.resize(kept);
            note_pairs(word, result);
            for (size_t i = 0; i + 1 < kept; i++)
                if (ids[i] == result || ids[i + 1] == result) raised.push_back(pair_key(ids[i], ids[i + 1]));
        }
        pairs_.erase(best.pair);
        std::sort(raised.begin(), raised.end());
        raised.erase(std::unique(raised.begin(), raised.end()), raised.end());
        for (const uint64_t pair : raised) heap_.push({pairs_[pair].count, pair});
        return true;
    }

    std::string tokenizer_json() const {
        nlohmann::json file = empty_tokenizer_json();
        const auto written  = [&](int32_t id) { return byte_alphabet().write(tokens_[size_t(id)]); };
        for (size_t id = 0; id < tokens_.size(); id++) file["model"]["vocab"][written(int32_t(id))] = id;
        file["model"]["vocab"]["<|endoftext|>"] = tokens_.size();
        file["added_tokens"].push_back(added_token("<|endoftext|>", int64_t(tokens_.size()), true));
        for (const Merge& m : merges_) file["model"]["merges"].push_back(written(m.left) + " " + written(m.right));
        return file.dump(1) + "\n";
    }

    std::vector<std::string> tokens_;
    std::unordered_map<std::string, int32_t> ids_;
    std::vector<Merge> merges_;
    std::vector<Word> words_;
    std::unordered_map<uint64_t, Pair> pairs_;
    std::priority_queue<Candidate> heap_;
};
