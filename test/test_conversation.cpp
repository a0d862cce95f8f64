// test_conversation.cpp - talking to a model: tokens and cache of a conversation, a context that slides, --chat through
// a pipe and on a terminal
#include <set>

#include "data/bpe_training.h"
#include "gpt/conversation.h"
#include "gpt/hf.h"
#include "gpt/presets.h"
#include "test/close.h"
#include "test/golden.h"
#include "test/programs.h"
#include "test/terminal.h"

namespace {

// Bytes, <|endoftext|>, and the two tokens of chatml: an id for each byte, so an answer that is encoded again has the
// ids that the model wrote.
std::string chat_tokenizer() {
    auto file = nlohmann::json::parse(BpeTraining(WordCounts()).learn(257));
    for (const char* token : {"<|im_start|>", "<|im_end|>"})
        file["added_tokens"].push_back({{"id", 256 + file["added_tokens"].size()},
                                        {"content", token},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false},
                                        {"normalized", false},
                                        {"special", true}});
    return file.dump();
}

struct Talk {
    const Device* dev;
    Tokenizer tokenizer{chat_tokenizer()};
    Model model;
    ChatTemplate form;
    explicit Talk(const Device* dev, const char* form_name = "chatml")
        : dev(dev),
          model(tiny_config(400, 259), DType::F32, {1, 1, false}, *dev),
          form(*find_chat_form(form_name), tokenizer, "tokenizer.json") {
        for (const ParamRow& r : param_rows(model.params, model.config)) {
            std::vector<float> v(size_t(r.shape.numel()), 0.f);
            Random(7, r.name).fill_normal(v.data(), 0, v.size(), 0.4f);
            // The two tokens of chatml are never likely.
            if (r.tensor == &model.params.wte) v[257 * 12] = v[258 * 12] = -50;
            if (r.tensor == &model.params.lnf_b) v[0] = 3;
            from_host(*r.tensor, v, model.stream);
        }
    }
    static Conversation::Settings settings(int64_t context, int64_t tokens) {
        return {context, tokens, Sampling{1.f, 0, 1.f, 3}, {}, false};
    }
    // Without spaces for the form plain, in which a trained model begins its answer with one, and ours does not.
    std::vector<int32_t> comparable(std::vector<int32_t> ids) const {
        const int32_t space = tokenizer.encode(" ").at(0);
        if (form.form().name == std::string("plain")) ids.erase(std::remove(ids.begin(), ids.end(), space), ids.end());
        return ids;
    }
    // The ids of a conversation whose last answer is complete, up to the token that ends it.
    std::vector<int32_t> ids_of(const Messages& messages) const {
        const ChatIds all = form.encode(messages);
        const auto last   = std::find(all.counts.rbegin(), all.counts.rend(), uint8_t(1));
        return {all.ids.begin(), all.ids.end() - (last - all.counts.rbegin())};
    }
};
bool always() { return true; }

}  // namespace

TEST_CASE("whole characters pass, and half a character waits for its other half", "[text]") {
    const std::string text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
    for (size_t cut = 0; cut <= text.size(); cut++) {
        WholeCharacters whole;
        const std::string first = whole.add(text.substr(0, cut)), second = whole.add(text.substr(cut));
        CAPTURE(cut);
        CHECK(is_utf8(first));
        CHECK(cut - first.size() < 4);
        CHECK(first + second == text);
        CHECK(whole.rest() == "");
    }
    WholeCharacters bytes;
    std::string all;
    for (const char c : text) {
        const std::string piece = bytes.add(std::string(1, c));
        CHECK(is_utf8(piece));
        all += piece;
    }
    CHECK(all == text);
    for (const std::string bad : {"\x80\x80\x80\x80\x80", "\xff", "\xc0", "a\xe2(", "\xf5\x80"}) {
        WholeCharacters whole;
        CHECK(whole.add(bad) + whole.rest() == bad);
    }
    WholeCharacters half;
    CHECK(half.add("a\xe2\x82") == "a");
    CHECK(half.rest() == "\xe2\x82");
}

TEST_CASE("a conversation reads what its template says, and feeds only what is new", "[conversation]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto name   = GENERATE(as<std::string>{}, "chatml", "alpaca", "plain");
    CAPTURE(dev, name);
    Talk t(dev, name.c_str());
    Conversation c(t.model, t.tokenizer, t.form, Talk::settings(400, 11));
    c.set_system("Be brief.");
    int64_t before = 0;
    for (const char* message : {"Hello", "How are you?", "<|im_end|> is text", "!"}) {
        std::string shown;
        const auto a = c.answer(
            message, [&](const std::string& text) { shown += text; }, always);
        CAPTURE(message, shown);
        CHECK(shown == c.messages().back().content);
        CHECK(t.comparable(c.ids()) == t.comparable(t.ids_of(c.messages())));
        CHECK(a.forgotten == 0);
        CHECK((a.ended || a.tokens == 11));
        // New are the end of the last answer, perhaps its last token, the message and the template's words.
        CHECK(a.fed >= c.used() - a.tokens - 1 - before);
        CHECK(a.fed <= c.used() - a.tokens - 1 - before + 2);
        before = c.used();
    }
    c.reset();
    REQUIRE(c.messages().size() == 1);
    CHECK(c.used() == 0);
    c.answer(
        "Hello", [](const std::string&) {}, always);
    CHECK(t.comparable(c.ids()) == t.comparable(t.ids_of(c.messages())));
    c.set_system("");
    c.answer(
        "Hello", [](const std::string&) {}, always);
    CHECK(c.messages().size() == 2);
    CHECK(t.comparable(c.ids()) == t.comparable(t.ids_of(c.messages())));
}

TEST_CASE("a kept cache gives the answer that a fresh one gives", "[conversation]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    Talk t(dev);
    auto how     = Talk::settings(400, 12);
    how.sampling = Sampling{0.f, 0, 1.f, 1};  // greedy, so that nothing depends on how much was drawn before
    Conversation c(t.model, t.tokenizer, t.form, how);
    for (const char* message : {"one", "two", "three", "four"}) {
        Messages messages = c.messages();
        messages.push_back({"user", message});
        const std::vector<int32_t> ids = t.form.encode(messages, true).ids;
        std::vector<int32_t> expected;
        generate(
            t.model, ids, 12, 1, how.sampling,
            [&](int64_t, int32_t id) {
                if (id == t.form.end() || id == 256) return false;
                expected.push_back(id);
                return true;
            },
            400);
        c.answer(
            message, [](const std::string&) {}, always);
        std::string text;
        for (const int32_t id : expected) text += t.tokenizer.text_of(id);
        CAPTURE(message);
        CHECK(c.messages().back().content == text);
    }
}

TEST_CASE("an answer ends by its token, by a stop text, and when the user says so", "[conversation]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    Talk t(dev);
    Conversation plain(t.model, t.tokenizer, t.form, Talk::settings(400, 60));
    const auto nothing = [](const std::string&) {};
    int64_t asked      = 0;
    const auto cut     = plain.answer("Hello", nothing, [&] { return ++asked < 5; });
    CHECK(cut.tokens == 5);
    CHECK(!cut.ended);
    CHECK(plain.ids().back() == t.form.end());
    CHECK(t.comparable(plain.ids()) == t.comparable(t.ids_of(plain.messages())));
    plain.answer("And?", nothing, [] { return false; });
    CHECK(t.comparable(plain.ids()) == t.comparable(t.ids_of(plain.messages())));

    // A stop text: the answer ends in front of it, and the next turn reads only what was shown.
    Conversation free(t.model, t.tokenizer, t.form, Talk::settings(400, 40));
    free.answer("Hello", nothing, always);
    const std::string whole = free.messages().back().content;
    REQUIRE(whole.size() > 8);
    auto how = Talk::settings(400, 40);
    how.stop = {whole.substr(5, 3)};
    Conversation stopped(t.model, t.tokenizer, t.form, how);
    const auto a = stopped.answer("Hello", nothing, always);
    CHECK(a.ended);
    CHECK(a.used > a.tokens);  // although the next turn reads the conversation anew
    CHECK(stopped.messages().back().content == whole.substr(0, whole.find(how.stop[0])));
    stopped.answer("And?", nothing, always);
    CHECK(t.comparable(stopped.ids()) == t.comparable(t.ids_of(stopped.messages())));

    // Every token ends an answer: it is empty, and the conversation goes on.
    for (int32_t id = 0; id < 259; id++) t.model.config.ends.push_back(id);
    Conversation mute(t.model, t.tokenizer, t.form, Talk::settings(400, 40));
    for (int turn = 0; turn < 3; turn++) {
        const auto empty = mute.answer("Hello", nothing, always);
        CHECK(empty.ended);
        CHECK(empty.tokens == 0);
        CHECK(mute.messages().back().content == "");
        CHECK(t.comparable(mute.ids()) == t.comparable(t.ids_of(mute.messages())));
    }
}

TEST_CASE("a full context forgets the oldest turns and keeps the system message", "[conversation]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto name   = GENERATE(as<std::string>{}, "chatml", "plain");
    CAPTURE(dev, name);
    Talk t(dev, name.c_str());
    const auto nothing = [](const std::string&) {};
    Conversation c(t.model, t.tokenizer, t.form, Talk::settings(150, 14));
    c.set_system("Be brief.");
    const ChatIds system = t.form.encode({{"system", "Be brief."}});
    int64_t forgotten    = 0;
    for (int turn = 0; turn < 12; turn++) {
        const auto a = c.answer(fmt::format("message {}", turn), nothing, always);
        CAPTURE(turn);
        CHECK(c.used() <= 152);
        CHECK(!a.cut);
        forgotten += a.forgotten;
        CHECK(std::equal(system.ids.begin(), system.ids.end() - 1, c.ids().begin()));
        // What is read is the system message and the newest turns, whole.
        Messages read = {c.messages()[0]};
        read.insert(read.end(), c.messages().begin() + 1 + forgotten, c.messages().end());
        CHECK(t.comparable(c.ids()) == t.comparable(t.ids_of(read)));
    }
    CHECK(c.messages().size() == 25);
    CHECK(forgotten >= 12);
    CHECK(forgotten < 24);
}

TEST_CASE("messages and answers longer than the context leave their end in it", "[conversation]") {
    const Device* dev     = GENERATE(from_range(devices()));
    const int64_t context = GENERATE(8, 9, 31);
    CAPTURE(dev, context);
    Talk t(dev);
    Conversation c(t.model, t.tokenizer, t.form, Talk::settings(context, 100));
    int64_t pieces = 0;
    for (const size_t length : {1, 5, 500, 3}) {
        const auto a = c.answer(
            std::string(length, 'x'), [&](const std::string&) { pieces++; }, always);
        CHECK(c.used() <= context + 2);  // its last token and the end were not read yet
        CHECK((a.ended || a.tokens == 100));
        CHECK((a.cut || a.ended));
    }
    CHECK(pieces > 0);
    // A system message stays in front of what is cut. One that leaves too little to the turns is refused.
    CHECK_REFUSED(c.set_system(std::string(size_t(context), 's')), "/system", "half of the context");
    CHECK(c.messages().size() == 8);
    if (context == 31) {
        c.set_system("s");
        const ChatIds system = t.form.encode({{"system", "s"}});
        const auto a         = c.answer(
                    std::string(500, 'x'), [](const std::string&) {}, always);
        CHECK(a.cut);
        CHECK(std::equal(system.ids.begin(), system.ids.end(), c.ids().begin()));
        CHECK(c.used() <= context + 2);
    }
    CHECK_REFUSED(Conversation(t.model, t.tokenizer, t.form, Talk::settings(7, 1)), "--chat", "7 tokens");
}

// ---- the program ----------------------------------------------------------------------------------------------------

namespace {

struct TalkingRun {
    Scratch s;
    TalkingRun() {
        write_text(s / "tokenizer.json", chat_tokenizer());
        write_shard(s / "train.bin", 3000);
        const Ran r = run(s, "train_gpt",
                          "--model nano --vocab 320 --dtype fp32 --steps 20 --batch 4 --context 16 "
                          "--train-data " +
                              quoted(s / "train.bin") + " --tokenizer " + quoted(s / "tokenizer.json") + " --out " +
                              quoted(s / "run"));
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    std::string words(const std::string& more) const {
        return "--dtype fp32 --model " + quoted(s / "run") + " --chat --chat-template chatml " + more;
    }
    Ran chat(const std::string& in, const std::string& more = "--tokens 8") const {
        return run(s, "infer_gpt", words(more), in);
    }
};
bool has_libedit() { return std::system(("ldd " + build_folder() + "/infer_gpt | grep -q libedit").c_str()) == 0; }

}  // namespace

TEST_CASE("--chat through a pipe: answers on standard output and nothing else", "[programs]") {
    const TalkingRun t;
    const Ran one = t.chat("Hello\n"), two = t.chat("Hello\nHow are you?\r\n\n  \n");
    CAPTURE(one.out, one.err, two.out, two.err);
    CHECK(one.code == 0);
    CHECK(one.err.empty());
    CHECK(one.out.back() == '\n');
    CHECK(one.out.find('\x1b') == std::string::npos);
    CHECK(two.out.rfind(one.out, 0) == 0);
    CHECK(two.out.size() > one.out.size());
    CHECK(t.chat("Hello").out == one.out);  // the last line may lack its end
    CHECK(t.chat("").out == "");

    const Ran saved =
        t.chat("/system Be brief.\nHello\n//slash\n/save " + (t.s / "talk.jsonl") + "\n/quit\nnot read\n");
    CAPTURE(saved.err);
    CHECK(saved.code == 0);
    const auto j = nlohmann::json::parse(read_text(t.s / "talk.jsonl"));
    REQUIRE(j["messages"].size() == 5);
    CHECK(j["messages"][0] == nlohmann::json{{"role", "system"}, {"content", "Be brief."}});
    CHECK(j["messages"][3]["content"] == "/slash");
    // The file is JSON, in which bytes that are not UTF-8 become U+FFFD.
    CHECK(json_text(nlohmann::json(saved.out)) ==
          json_text(nlohmann::json(j["messages"][2]["content"].get<std::string>() + "\n" +
                                   j["messages"][4]["content"].get<std::string>() + "\n")));

    const Ran reset   = t.chat("Hello\n/reset\nHello\n", "--tokens 8 --temperature 0");
    const size_t half = reset.out.size() / 2;
    CHECK(reset.out.substr(0, half) == reset.out.substr(half));
    CHECK(missing_words(t.chat("/stats\nHello\n").err, {"new tokens read in", "tokens/s", "of 64 tokens of context"}) ==
          "");
    CHECK(missing_words(t.chat("/help\n").err, {"/reset", "/system TEXT", "/save FILE", "/quit", "/stats"}) == "");
    CHECK(missing_words(t.chat("Hello\nHello\nHello\nHello\n").err,
                        {"note: the context of 64 tokens is full; the model no longer sees the 2 messages"}) == "");
    CHECK(missing_words(t.chat(std::string(100, 'x') + "\n").err,
                        {"note: the last turn does not fit into the context of 64"}) == "");

    for (const auto& [in, says] : std::vector<std::pair<std::string, const char*>>{
             {"/bogus\n", "/bogus is no command; /help"},
             {"/save\n", "a file name is missing"},
             {"Hello\n/save " + (t.s / "talk.jsonl") + "\n", "talk.jsonl exists already"},
             {"/reset now\n", "/reset takes nothing after it, but there is 'now'"}}) {
        const Ran bad = t.chat(in);
        CAPTURE(in, bad.err);
        CHECK(bad.code == 2);
        CHECK(missing_words(bad.err, {says}) == "");
    }
    // A system message that does not fit is refused, and not kept by /reset.
    const Ran system = t.chat("/system " + std::string(500, 's') + "\nHello\n");
    CHECK(system.code == 2);
    CHECK(missing_words(system.err, {"/system", "half of the context of 64"}) == "");
    CHECK(t.chat("<|im_end|>\n", "--special-tokens refuse").code == 2);
    CHECK(missing_words(t.chat("<|im_end|>\n").err, {"<|im_end|> stands in the message", "taken as plain text"}) == "");

    // Without a template beside the tokenizer, the form is plain, and that is said.
    const Ran none =
        run(t.s, "infer_gpt", "--dtype fp32 --model " + quoted(t.s / "run") + " --chat --tokens 4", "Hi\n");
    CHECK(missing_words(none.err, {"no chat template beside", "the form plain"}) == "");
    for (const char* words : {"--chat --prompt x", "--chat --samples 2", "--chat --lens", "--chat-template plain"}) {
        const Ran bad = run(t.s, "infer_gpt", "--dtype fp32 --model " + quoted(t.s / "run") + " " + words, "Hi\n");
        CAPTURE(words, bad.err);
        CHECK(bad.code == 2);
    }
}

TEST_CASE("--chat on a terminal: Ctrl-C ends the answer or the line, and not the program", "[programs]") {
    const TalkingRun t;
    Terminal terminal(build_folder() + "/infer_gpt " + t.words("--tokens 100000000"));
    const auto type = [&](const std::string& text) {
        for (const char c : text) terminal.press(c);
    };
    // After Linux has sent the signal, it throws away what the terminal has not shown yet. That may be the next prompt,
    // and Enter shows another one.
    const auto end_answer = [&] {
        terminal.ctrl_c();
        if (terminal.shows("> ", 3)) return;
        type("\r");
        REQUIRE(terminal.shows("> "));
    };
    REQUIRE(terminal.shows("> "));
    type("a line that is not sent");
    if (has_libedit()) REQUIRE(terminal.shows("not sent"));
    terminal.ctrl_c();
    REQUIRE(terminal.shows("\n"));
    REQUIRE(terminal.shows("> "));
    // At once after Enter, and while the answer is written. Without libedit the terminal could throw away the next
    // line.
    for (useconds_t delay = 0; delay < (has_libedit() ? 1200 : 100); delay += 100) {
        type("Hello\r");
        REQUIRE(terminal.shows("Hello"));
        REQUIRE(terminal.shows("\n"));
        usleep(delay);
        end_answer();
    }
    type("/bogus\r");
    CHECK(terminal.shows("/bogus is no command"));
    REQUIRE(terminal.shows("> "));
    if (has_libedit()) {
        type("\x1b[A");  // the key with the arrow up
        CHECK(terminal.shows("/bogus"));
        type("\x15");  // Ctrl-U empties the line
    }
    type("/save nosuch/talk.jsonl\r");  // what cannot be done does not end the conversation
    CHECK(terminal.shows("cannot create nosuch/talk.jsonl"));
    REQUIRE(terminal.shows("> "));
    type("/quit\r");
    CAPTURE(terminal.shown());
    CHECK(terminal.end() == 0);
}

TEST_CASE("--chat in tmux", "[programs]") {
    if (std::system("tmux -V >/dev/null 2>&1") != 0) {
        std::fprintf(stderr, "skipped: there is no tmux, in which --chat is tried\n");
        return;
    }
    const TalkingRun t;
    const std::string tmux = "tmux -L gpt-test-" + std::to_string(getpid()) + " -f /dev/null ";
    write_text(t.s / "chat.sh",
               build_folder() + "/infer_gpt " + t.words("--tokens 20 --temperature 0") + "\necho ended $?\nsleep 60\n");
    REQUIRE(shell(t.s, tmux + "new-session -d -x 100 -y 30 sh " + quoted(t.s / "chat.sh")).code == 0);
    std::string screen;
    const auto shows = [&](const std::string& text) {  // looks at the screen until it does
        for (int look = 0; look < 300; look++) {
            screen = shell(t.s, tmux + "capture-pane -p").out;
            if (screen.find(text) != std::string::npos) return true;
            usleep(100000);
        }
        return false;
    };
    const auto keys = [&](const std::string& words) { CHECK(shell(t.s, tmux + "send-keys " + words).code == 0); };
    CHECK(shows(">"));
    keys("-l 'Good m\xc3\xb6rning'");
    CHECK(shows("Good m\xc3\xb6rning"));
    if (has_libedit()) {
        keys("C-a");
        keys("-l 'Hi! '");
        CHECK(shows("> Hi! Good m\xc3\xb6rning"));
    }
    keys("Enter");
    keys("-l '/stats'");
    keys("Enter");
    keys("-l 'again'");
    keys("Enter");
    CHECK(shows("tokens/s"));
    keys("C-d");
    CHECK(shows("ended 0"));
    INFO(screen);
    shell(t.s, tmux + "kill-server");
}
