// inference.h - what the modes of infer_gpt share: the model with its tokenizer, and the prompt
#pragma once
#include <string>
#include <vector>

#include "data/text_stream.h"
#include "gpt/generate.h"
#include "gpt/infer_options.h"
#include "gpt/log.h"
#include "gpt/text.h"

struct Inference {
    const InferOptions& options;
    Model& model;
    const Tokenizer* tokenizer;  // null when there is none
};

inline const Tokenizer& tokenizer_of(const Inference& i) {
    CHECK(i.tokenizer,
          "{} has no tokenizer.json, and no vocab.json with merges.txt; give one with --tokenizer FILE, or token ids "
          "with --ids",
          i.options.model);
    return *i.tokenizer;
}

inline TextEncoder encoder_of(const Inference& i, SpecialTokens otherwise) {
    return {tokenizer_of(i), i.options.special_tokens.value_or(otherwise)};
}

// Rotary positions do not end, but a model has learnt nothing about those beyond its own context.
inline void warn_beyond(const Config& c, int64_t tokens, const char* what) {
    if (tokens <= c.context || c.learned_positions) return;
    fmt::print(stderr, "warning: {} of {} tokens is more than the {} that {} was trained with\n", what, tokens,
               c.context, c.name);
}

// ---- a prompt ------------------------------------------------------------------------------------------------------

struct Prompt {
    std::string text;  // is printed before what continues it
    std::vector<int32_t> ids;
};
// Reads standard input until its end. A user at a terminal is told that the program waits for it.
inline std::string read_standard_input() {
    if (isatty(0)) fmt::print(stderr, "type the prompt; Ctrl-D on an empty line ends it (or give --prompt TEXT)\n");
    const int first = std::getc(stdin);
    if (first == EOF) return "";
    std::ungetc(first, stdin);
    return read_whole_text("-");
}
// Leaves out one line break at the end, which editors and `echo` put there.
inline std::string without_line_break(std::string text) {
    for (const char c : {'\n', '\r'})
        if (!text.empty() && text.back() == c) text.pop_back();
    return text;
}
// Reads the prompt from --ids, --prompt, --prompt-file or standard input. In front of a text come the tokens that the
// tokenizer.json puts there. A prompt without any token becomes the end-of-text token.
inline Prompt read_prompt(const Inference& i) {
    const InferOptions& o = i.options;
    if (o.ids) return {"", parse_ids(*o.ids, i.model.config.vocab)};
    const std::string text =
        o.prompt ? *o.prompt
                 : without_line_break(o.prompt_file ? read_whole_text(*o.prompt_file) : read_standard_input());
    Prompt prompt{text, {}};
    if (i.tokenizer) prompt.ids = i.tokenizer->before();
    if (!text.empty()) {
        TextEncoder encoder = encoder_of(i, SpecialTokens::ids);
        encoder.count(text, "the prompt");
        encoder.tell("the prompt");
        const auto ids = encoder.encode(text);
        prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
    } else if (prompt.ids.empty()) {
        const int64_t eot = i.tokenizer && i.tokenizer->eot() >= 0 ? i.tokenizer->eot() : i.model.config.eot;
        CHECK(eot >= 0, "the prompt is empty, and {} names no end-of-text token to stand for it", i.options.model);
        prompt.ids = {int32_t(eot)};
    }
    i.model.config.check_ids(prompt.ids, "the prompt");
    return prompt;
}

// Returns what a token adds to the text. Without a tokenizer it is the id.
inline std::string text_of(const Tokenizer* tokenizer, int32_t id) {
    return tokenizer ? tokenizer->text_of(id) : fmt::format("{} ", id);
}

// Leaves out what the model cannot read at once of a prompt, and says so.
inline void shorten(Prompt& prompt, const Inference& i) {
    const int64_t all = int64_t(prompt.ids.size()), most = i.options.context;
    if (all <= most) return;
    const bool may_go_beyond = !i.model.config.learned_positions;
    fmt::print(stderr, "note: of the {} tokens of the prompt, {} reads the newest {}{}\n", grouped(all),
               i.options.model, grouped(most), may_go_beyond ? "; --context takes more" : "");
    prompt.ids.erase(prompt.ids.begin(), prompt.ids.end() - most);
    if (!i.tokenizer || i.options.ids) return;
    prompt.text.clear();
    for (const int32_t id : prompt.ids) prompt.text += text_of(i.tokenizer, id);
    size_t cut = 0;  // the first token may begin within a character
    while (cut < prompt.text.size() && continues_character(prompt.text[cut])) cut++;
    prompt.text.erase(0, cut);
}
