// text_parts.h - cuts a document of any length into parts while it is being read
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "data/utf8.h"

// The reader appends to `text` and calls hand_full_parts() now and then, and finish() at the end of the document.
// A document shorter than part_bytes is one part. Parts end where cutting changes no token. Where a part ends depends
// on the bytes of the document alone, not on how many bytes were appended at a time.
class TextParts {
  public:
    // The last position after `from` where the text may be cut, or 0 if there is none.
    using LastCut = std::function<size_t(std::string_view text, size_t from)>;
    using Take    = std::function<void(std::string_view part, bool first, bool last)>;

    TextParts(size_t part_bytes, const LastCut& last_cut, Take take)
        : most_(part_bytes), last_cut_(last_cut), take_(std::move(take)) {}

    std::string text;  // the bytes that have been read and not handed on

    bool empty() const { return parts_ == 0 && text.empty(); }

    void hand_full_parts() {
        while (text.size() >= most_) {
            size_t end = no_cut_in_one_ ? 0 : cut_before(most_, 0);
            if (end == 0) {
                no_cut_in_one_ = true;
                if (text.size() < 2 * most_) return;
                // The searches overlap by 8 bytes, because a place is recognized by the bytes behind it too.
                end = cut_before(2 * most_, most_ - std::min<size_t>(most_, 8));
            }
            // Where two parts have no place to split, as in two megabytes of one letter, a part ends between
            // characters.
            if (end == 0) end = character_begin(2 * most_ - 4);
            hand_on(end, false);
        }
    }
    void finish() {
        hand_full_parts();
        if (!empty()) hand_on(text.size(), true);
    }

  private:
    size_t cut_before(size_t size, size_t from) const {
        return last_cut_(std::string_view(text).substr(0, size), from);
    }
    size_t character_begin(size_t at) const {
        size_t begin = at;
        while (begin > at - 4 && continues_character(text[begin])) begin--;
        return begin;
    }
    void hand_on(size_t size, bool last) {
        take_(std::string_view(text).substr(0, size), parts_++ == 0, last);
        text.erase(0, size);
        no_cut_in_one_ = false;
    }

    const size_t most_;
    const LastCut& last_cut_;
    const Take take_;
    int64_t parts_      = 0;
    bool no_cut_in_one_ = false;  // the first most_ bytes were searched and have no place to cut
};
