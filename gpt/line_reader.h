// line_reader.h - reads lines that a user types, with editing and history where libedit was there when this was built
//
// libedit (thrysoee.dk/editline) has a BSD licence. Without it, lines are those of the terminal itself.
#pragma once
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>

#include "kernels/check.h"
#ifdef GPT_LIBEDIT
#define Tokenizer LibeditTokenizer  // libedit has a type of that name, which we do not use
#include <histedit.h>
#undef Tokenizer
#endif

// While it lives, Ctrl-C sets a mark instead of ending the program.
class CatchInterrupt {
  public:
    CatchInterrupt() {
        sigaction(SIGINT, nullptr, &before_);
        let_end_calls(false);
    }
    ~CatchInterrupt() { sigaction(SIGINT, &before_, nullptr); }
    CatchInterrupt(const CatchInterrupt&)            = delete;
    CatchInterrupt& operator=(const CatchInterrupt&) = delete;
    // Sets whether Ctrl-C ends system calls that wait. It should end a read() of a line. It must not end a write(),
    // because the rest of the text would be lost.
    static void let_end_calls(bool ends) {
        struct sigaction action = {};
        action.sa_handler       = [](int) { mark() = 1; };
        action.sa_flags         = ends ? 0 : SA_RESTART;
        sigaction(SIGINT, &action, nullptr);
    }
    // Whether Ctrl-C was pressed since take() was called last.
    static bool pressed() { return mark() != 0; }
    static bool take() {
        const bool was = pressed();
        mark()         = 0;
        return was;
    }

  private:
    static volatile sig_atomic_t& mark() {
        static volatile sig_atomic_t pressed = 0;
        return pressed;
    }
    struct sigaction before_ = {};
};

// Reads the next line of a stream, without its end. Returns nothing at the end of the stream.
inline std::optional<std::string> read_plain_line(FILE* in) {
    std::string line;
    int c = 0;
    while ((c = std::getc(in)) != EOF && c != '\n') line += char(c);
    if (c == EOF && line.empty()) return std::nullopt;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
}

// Reads lines from a terminal. Ctrl-C discards the line that is being typed. A Ctrl-C before the prompt is forgotten. A
// Ctrl-C after the end of the line is left for the caller to take().
class LineReader {
  public:
    explicit LineReader(std::string prompt) : prompt_(std::move(prompt)) {
#ifdef GPT_LIBEDIT
        setlocale(LC_CTYPE, "C.UTF-8");  // libedit reads characters by the locale, and our text is UTF-8
        edit_    = el_init("infer_gpt", stdin, stdout, stderr);
        history_ = history_init();
        CHECK_RUN(edit_ && history_, "libedit cannot use this terminal (TERM is {})",
                  std::getenv("TERM") ? std::getenv("TERM") : "not set");
        HistEvent event;
        history(history_, &event, H_SETSIZE, 1000);
        history(history_, &event, H_SETUNIQUE, 1);
        el_set(edit_, EL_CLIENTDATA, this);
        el_set(edit_, EL_SIGNAL, 1);  // a signal that ends the program restores the terminal first
        el_set(
            edit_, EL_PROMPT, +[](EditLine* e) { return of(e).prompt_.data(); });
        el_set(edit_, EL_EDITOR, "emacs");
        el_set(edit_, EL_HIST, history, history_);
        el_set(
            edit_, EL_ADDFN, "discard", "discard the line", +[](EditLine* e, int) -> unsigned char {
                of(e).discarded_ = true;
                return CC_NEWLINE;
            });
        el_set(edit_, EL_SETTY, "-d", "-isig", nullptr);  // Ctrl-C is a key while a line is edited
        el_set(edit_, EL_BIND, "^C", "discard", nullptr);
        el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
#endif
    }
    ~LineReader() {
#ifdef GPT_LIBEDIT
        el_end(edit_);
        history_end(history_);
#endif
    }
    LineReader(const LineReader&)            = delete;
    LineReader& operator=(const LineReader&) = delete;

    // Returns the next line, "" for one that was discarded, and nothing when the user ends the input (Ctrl-D).
    std::optional<std::string> next() {
        CatchInterrupt::take();
#ifdef GPT_LIBEDIT
        int n            = 0;
        discarded_       = false;
        const char* text = el_gets(edit_, &n);
        if (discarded_) {
            fmt::print("\n");
            return "";
        }
        if (!text || n <= 0) return std::nullopt;
        std::string line(text, size_t(n));
        while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
        HistEvent event;
        if (!line.empty()) history(history_, &event, H_ENTER, line.c_str());
        return line;
#else
        fmt::print("{}", prompt_);
        std::fflush(stdout);
        CatchInterrupt::let_end_calls(true);
        auto line = read_plain_line(stdin);
        CatchInterrupt::let_end_calls(false);
        if (!CatchInterrupt::take()) return line;
        std::clearerr(stdin);
        fmt::print("\n");
        return "";
#endif
    }

  private:
    std::string prompt_;
#ifdef GPT_LIBEDIT
    static LineReader& of(EditLine* e) {
        LineReader* self = nullptr;
        el_get(e, EL_CLIENTDATA, &self);
        return *self;
    }
    EditLine* edit_   = nullptr;
    History* history_ = nullptr;
    bool discarded_   = false;
#endif
};
