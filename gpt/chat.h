// chat.h - talking to a model: lines from a terminal or a pipe, commands, and answers as they are written
//
// On a terminal there are a prompt, line editing and history, and Ctrl-C ends the answer. Through a pipe, every line is
// a message or a command, and nothing but the answers goes to standard output.
#pragma once
#include <string>

#include "data/words.h"
#include "gpt/conversation.h"
#include "gpt/line_reader.h"
#include "gpt/log.h"

namespace chat {

constexpr const char* help =
    "/reset         begin a new conversation with the same system message\n"
    "/system TEXT   begin a new conversation with this system message; without TEXT, with none\n"
    "/save FILE     write the conversation to a new file, as a line of JSON that tokenize reads\n"
    "/stats         print the speed after each answer, or stop that\n"
    "/help          print this list\n"
    "/quit          end, as Ctrl-D does\n"
    "Anything else is a message. One that begins with a slash is written with two. Ctrl-C ends an answer.\n";

inline void save(const Messages& messages, std::string file) {
    CHECK(!file.empty(), "/save: a file name is missing");
    CHECK(!messages.empty(), "/save: nothing has been said yet");
    if (const char* home = std::getenv("HOME"); home && file.substr(0, 2) == "~/") file.replace(0, 1, home);
    CHECK(!fs::exists(file), "/save: {} exists already; give a new name", file);
    auto list = nlohmann::ordered_json::array();
    for (const Message& m : messages) list.push_back({{"role", m.role}, {"content", m.content}});
    write_file(file, json_text(nlohmann::ordered_json{{"messages", list}}) + "\n");
    fmt::print(stderr, "{} in {}\n", count_of(int64_t(messages.size()), "message"), file);
}

// Carries out a command. Returns false when it ends the program.
inline bool command(const std::string& line, Conversation& conversation, bool& stats) {
    const size_t space     = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, space);
    std::string rest       = line.substr(space);
    rest.erase(0, std::min(rest.find_first_not_of(' '), rest.size()));
    const auto alone = [&] { CHECK(rest.empty(), "{} takes nothing after it, but there is '{}'", name, rest); };
    if (name == "/quit" || name == "/reset" || name == "/help" || name == "/stats") alone();
    if (name == "/quit") return false;
    if (name == "/reset")
        conversation.reset();
    else if (name == "/system")
        conversation.set_system(rest);
    else if (name == "/save")
        save(conversation.messages(), rest);
    else if (name == "/stats")
        stats = !stats;
    else if (name == "/help")
        fmt::print(stderr, "{}", help);
    else
        fail("{} is no command; /help lists them, and // begins a message with a slash", name);
    return true;
}

inline void answer(Conversation& conversation, TextEncoder encoder, const std::string& message, bool stats) {
    encoder.count(message, "the message");
    encoder.tell("the message");
    double first_token = 0;  // seconds
    const Stopwatch watch;
    const auto print = [](const std::string& text) {
        fmt::print("{}", text);
        std::fflush(stdout);
    };
    const auto go_on = [&] {
        if (first_token == 0) first_token = watch.seconds();
        return !CatchInterrupt::pressed();
    };
    const auto result = conversation.answer(message, print, go_on);
    print("\n");
    if (result.forgotten)
        fmt::print(stderr, "note: the context of {} tokens is full; the model no longer sees the {} before these\n",
                   conversation.context(), count_of(result.forgotten, "message"));
    if (result.cut)
        fmt::print(stderr, "note: the last turn does not fit into the context of {} tokens; the model saw its end\n",
                   conversation.context());
    if (!stats) return;
    if (first_token == 0) first_token = watch.seconds();  // the first token has ended the answer
    const double rate = double(result.tokens - 1) / (watch.seconds() - first_token);  // without the first token
    fmt::print(stderr, "{} read in {:.3f} s · {}{} · {} of {} tokens of context\n", count_of(result.fed, "new token"),
               first_token, count_of(result.tokens, "token"),
               result.tokens > 1 ? fmt::format(" at {:.1f} tokens/s", rate) : "", result.used, conversation.context());
}

// Talks until the input ends. On a terminal, what a command refuses or cannot do is printed, and the conversation goes
// on.
inline void talk(Conversation& conversation, const TextEncoder& encoder, bool stats) {
    const bool terminal = isatty(0) && isatty(1);
    std::optional<CatchInterrupt> caught;
    std::optional<LineReader> reader;
    if (terminal) {
        caught.emplace();
        reader.emplace("> ");
        fmt::print(stderr, "/help lists the commands; Ctrl-D ends\n");
    }
    for (;;) {
        auto line = terminal ? reader->next() : read_plain_line(stdin);
        if (!line) break;
        if (line->find_first_not_of(" \t") == line->npos) continue;
        try {
            const bool is_command = (*line)[0] == '/' && line->substr(0, 2) != "//";
            if (!is_command)
                answer(conversation, encoder, line->substr((*line)[0] == '/'), stats);
            else if (!command(*line, conversation, stats))
                break;
        } catch (const Error& e) {
            if (!terminal) throw;
            fmt::print(stderr, "{}\n", e.what());
        } catch (const fs::filesystem_error& e) {
            if (!terminal) throw;
            fmt::print(stderr, "{}: {}\n", e.path1().string(), e.code().message());
        }
    }
    if (terminal) fmt::print("\n");
}

}  // namespace chat
