// fuzz_chat.cpp - lines of conversations, and chat templates in Jinja
#include "data/conversations.h"
#include "test/fuzz/fuzz.h"
#include "test/fuzz/tokenizer.h"

// The first byte chooses: a template, or the form in which a line is encoded.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    const std::string_view text = text_of(data + 1, size - 1);
    return expecting_errors([&] {
        if (data[0] % 3 == 0) return void(recognize_chat_form(text));
        const ChatTemplate chat(chat_forms[data[0] % 3], fuzz_tokenizer(), "tokenizer.json");
        const ExampleReader reader(text, "text", "x line 1");
        const Example& example = reader.example();
        for (const Messages& messages : {example.messages, example.rejected}) {
            const ChatIds all = chat.encode(messages, true, false, true);
            if (all.ids.size() != all.counts.size()) std::abort();
        }
    });
}
