// text.h - text on its way into a model and out of it: special tokens that stand in it, and texts that end it
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer.h"
#include "data/utf8.h"
#include "data/words.h"

// Encodes texts of the user, in which special tokens may be written. They are taken as --special-tokens says, and
// counted, so that a text for which a model was not trained does not pass unseen.
class TextEncoder {
  public:
    TextEncoder(const Tokenizer& tokenizer, SpecialTokens specials = SpecialTokens::text)
        : tokenizer_(tokenizer), specials_(specials) {}

    const Tokenizer& tokenizer() const { return tokenizer_; }
    std::vector<int32_t> encode(std::string_view text) const {
        return tokenizer_.encode(text, specials_ == SpecialTokens::ids);
    }
    // Counts the special tokens in a text, or refuses them with an InputError that begins with `where`.
    void count(std::string_view text, const std::string& where) {
        for (const int32_t id : tokenizer_.special_ids()) {
            const std::string& token = tokenizer_.bytes_of(id);
            const int64_t times      = count_in(text, token);
            if (times > 0 && specials_ == SpecialTokens::refuse)
                fail("{}: the special token {} stands in the text; --special-tokens text or ids takes it", where,
                     token);
            if (times > 0) met_[id] += times;
        }
    }
    // Prints what was counted. `where` is a file, or "the prompt".
    void tell(const std::string& where) const {
        const bool as_ids = specials_ == SpecialTokens::ids;
        for (const auto& [id, times] : met_)
            fmt::print(stderr, "note: {} stands in {} {} and was taken as {}; --special-tokens {} takes it as {}\n",
                       tokenizer_.bytes_of(id), where, count_of(times, "time"),
                       as_ids ? fmt::format("the token {}", id) : "plain text", as_ids ? "text" : "ids",
                       as_ids ? "plain text" : "a token");
    }

  private:
    const Tokenizer& tokenizer_;
    SpecialTokens specials_;
    std::map<int32_t, int64_t> met_;  // how often each special token was met
};

// Passes a text on as it comes, up to the first of some stop texts. It holds back an end that may become one.
class UntilStop {
  public:
    explicit UntilStop(std::vector<std::string> stops) : stops_(std::move(stops)) {}

    // Appends a piece of the text, and returns what can be passed on now.
    std::string add(const std::string& piece) {
        held_ += piece;
        size_t end = held_.size(), begun = 0;  // begun: bytes at the end with which a stop text may begin
        for (const std::string& stop : stops_) {
            end = std::min(end, held_.find(stop));
            for (size_t n = std::min(stop.size() - 1, held_.size()); n > begun; n--)
                if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) begun = n;
        }
        stopped_        = end < held_.size();
        std::string out = held_.substr(0, stopped_ ? end : held_.size() - begun);
        held_.erase(0, stopped_ ? held_.size() : out.size());
        return out;
    }
    bool stopped() const { return stopped_; }
    // Returns what was held back, when the text has ended without a stop text.
    std::string rest() { return std::exchange(held_, ""); }

  private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

// Passes UTF-8 on as it comes, in whole characters: the first bytes of a character wait for the others. Bytes that are
// not UTF-8 pass.
class WholeCharacters {
  public:
    std::string add(const std::string& piece) {
        held_ += piece;
        size_t lead = held_.size();  // where the last character begins; a character has at most four bytes
        while (lead > 0 && held_.size() - lead < 3 && continues_character(held_[lead - 1])) lead--;
        size_t end = held_.size();
        if (lead > 0 && uint8_t(held_[lead - 1]) >= 0x80) {
            const size_t there = held_.size() - lead, needed = size_t(utf8_lead(uint8_t(held_[lead - 1])).more);
            if (there < needed) end = lead - 1;
        }
        std::string out = held_.substr(0, end);
        held_.erase(0, end);
        return out;
    }
    // Returns what waits, when the text has ended within a character.
    std::string rest() { return std::exchange(held_, ""); }

  private:
    std::string held_;
};
