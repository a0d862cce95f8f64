// chat.h - what tests of conversations share: a tokenizer with chatml's tokens, lines of conversations, shards with a
// loss mask
#pragma once
#include "data/chat_template.h"
#include "test/tokenize.h"

// The tokenizer that test/make_chat.py used: it has the tokens of chatml.
inline Tokenizer chat_tokenizer() {
    json file            = json::parse(read_text("test/golden/tokenizers.json"))["plain"];
    file["added_tokens"] = json::parse(read_text("test/golden/chat.json"))["added"];
    return Tokenizer(file.dump());
}

// Returns the text of the ids that count, with one _ in place of the others before, between and behind them.
inline std::string counted(const ChatIds& c, const Tokenizer& t) {
    std::string text;
    for (size_t i = 0; i < c.ids.size(); i++)
        if (c.counts[i])
            text += t.bytes_of(c.ids[i]);
        else if (text.empty() || text.back() != '_')
            text += '_';
    return text;
}

// Returns a line of JSON: a conversation of one question and its answer.
inline std::string chat_line(const std::string& user, const std::string& assistant) {
    return json{{"messages", {{{"role", "user"}, {"content", user}}, {{"role", "assistant"}, {"content", assistant}}}}}
               .dump() +
           "\n";
}

// Writes a shard with a loss mask, in which 0 separates documents and a negative id counts: -5 is id 5. Returns its
// path.
inline std::string masked_shard(const Scratch& dir, const std::vector<Ids>& documents, const std::string& name = "m") {
    ShardWriter writer(dir / name, 100, 1000, true);
    for (const Ids& document : documents) {
        Ids ids                     = {0};
        std::vector<uint8_t> counts = {0};
        for (const int32_t id : document) ids.push_back(std::abs(id)), counts.push_back(id < 0);
        writer.add(ids.data(), counts.data(), ids.size());
    }
    writer.commit();
    return dir / name + "_000000.bin";
}
