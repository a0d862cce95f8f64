// added_tokens.h - finds added tokens, such as <|endoftext|>, in a text before it is split into pieces
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Finds the tokens with a trie. Of all matches it takes the leftmost, and of several that begin there the longest.
class AddedTokens {
  public:
    void add(const std::string& content, int32_t id, bool special) {
        if (nodes_.empty()) nodes_.emplace_back();
        size_t n = 0;
        for (const char c : content) {
            if (nodes_[n].next[uint8_t(c)] == 0) {
                nodes_[n].next[uint8_t(c)] = int32_t(nodes_.size());
                nodes_.emplace_back();
            }
            n = size_t(nodes_[n].next[uint8_t(c)]);
        }
        nodes_[n].id      = id;
        nodes_[n].special = special;
        const int first   = uint8_t(content[0]);
        first_byte_       = first_byte_ == no_byte || first_byte_ == first ? first : many_bytes;
    }

    // Appends the id of each token to `ids`, and calls plain(stretch) for the text between tokens, in order.
    // With specials = false, a special token is plain text. special(id) is called for each special token in any case.
    template <class Plain, class Special>
    void split(std::string_view text, bool specials, std::vector<int32_t>& ids, Plain plain, Special special) const {
        size_t from = 0;
        for (size_t at = nodes_.empty() ? text.size() : 0; (at = next_begin(text, at)) < text.size();) {
            const Node* token = nullptr;
            size_t end = at + 1, node = 0;
            for (size_t i = at; i < text.size() && (node = size_t(nodes_[node].next[uint8_t(text[i])])) != 0; i++)
                if (nodes_[node].id >= 0) token = &nodes_[node], end = i + 1;
            if (token && token->special) special(token->id);
            if (token && (specials || !token->special)) {
                if (at > from) plain(text.substr(from, at - from));
                ids.push_back(token->id);
                from = end;
            }
            at = end;
        }
        if (from < text.size()) plain(text.substr(from));
    }

  private:
    static constexpr int no_byte = -1, many_bytes = -2;

    // The next byte that can begin a token. Most texts have few, and memchr is the fastest search for a single one.
    size_t next_begin(std::string_view text, size_t at) const {
        if (first_byte_ >= 0) return std::min(text.find(char(first_byte_), at), text.size());
        while (at < text.size() && nodes_[0].next[uint8_t(text[at])] == 0) at++;
        return at;
    }

    struct Node {
        std::array<int32_t, 256> next{};  // maps a byte to a node; 0 is no edge, because none leads to the root
        int32_t id   = -1;                // the token that ends here, or -1
        bool special = false;
    };
    std::vector<Node> nodes_;
    int first_byte_ = no_byte;  // the byte with which all tokens begin, if they share one
};
