// added_tokens.h - finds added tokens, such as <|endoftext|>, in a text before it is split into pieces
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// A trie of the tokens. Among matches the leftmost is taken, and among those the longest.
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
        all_special_ &= special;
    }

    // Appends the id of each token to `ids`, and calls plain(stretch) for the text between tokens, in order.
    // With specials = false, a special token is plain text.
    template <class F>
    void split(std::string_view text, bool specials, std::vector<int32_t>& ids, F plain) const {
        size_t from     = 0;
        const bool none = nodes_.empty() || (all_special_ && !specials);
        for (size_t at = 0; !none && at < text.size();) {
            // Most bytes of most texts begin no token.
            while (at < text.size() && nodes_[0].next[uint8_t(text[at])] == 0) at++;
            const Node* token = nullptr;
            size_t end = at + 1, node = 0;
            for (size_t i = at; i < text.size() && (node = size_t(nodes_[node].next[uint8_t(text[i])])) != 0; i++)
                if (nodes_[node].id >= 0) token = &nodes_[node], end = i + 1;
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
    struct Node {
        std::array<int32_t, 256> next{};  // by byte; 0 means none, because no edge leads to the root
        int32_t id   = -1;                // of the token that ends here, or -1
        bool special = false;
    };
    std::vector<Node> nodes_;
    bool all_special_ = true;
};
