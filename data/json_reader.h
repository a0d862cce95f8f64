// json_reader.h - reads one string out of each JSON object of a stream, whatever their size
//
// Objects are checked strictly, byte by byte, and nothing but that string is kept. A general parser builds the whole
// object first, which takes several times the memory of a long document, and more time than encoding a short one.
// In other fields NaN, Infinity and -Infinity are accepted, because Python writes them.
#pragma once
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "data/utf8.h"
#include "kernels/check.h"

// The text is no JSON, so what follows cannot be read either.
struct JsonSyntaxError : InputError {
    using InputError::InputError;
};

class JsonReader {
  public:
    // The text is `bytes`, followed by what more() returns until that is empty. file and line are for errors.
    JsonReader(std::string_view bytes, const std::string& file, int64_t line,
               std::function<std::string_view()> more = nullptr)
        : at_(bytes.data()), end_(at_ + bytes.size()), begin_(at_), file_(file), line_(line), more_(std::move(more)) {}

    // Reads one object, and nothing but space may follow it.
    void read_only_object(const std::string& field, std::string& out) {
        read_object(field, out);
        if (skip_space() >= 0) bad("nothing after the object");
    }

    // Reads an object and appends the string in `field` to `out`. more() may empty `out` while this runs.
    // Throws JsonSyntaxError for bad JSON. Throws InputError, having read the object to its end, if the field is
    // missing, repeated or no string.
    void read_object(const std::string& field, std::string& out) {
        const int first    = skip_space();
        const int64_t line = line_;
        if (first < 0) bad("an object");
        if (first != '{') {
            const char* what = kind();
            if (!is_value(first)) bad("an object");
            value(1);
            fail("{} line {}: there is no field \"{}\" in {}, expected an object", file_, line, field, what);
        }
        int found    = 0;
        bool is_chat = false;
        std::string others, other_kind;
        object([&](const std::string& key) {
            if (key != field) {
                is_chat |= key == "messages" || key == "conversations" || key == "instruction" || key == "prompt";
                if (others.size() < 80) others += (others.empty() ? "" : ", ") + key;
                return value(1);
            }
            const int begin = skip_space();
            if (begin < 0) bad("a value");
            if (++found == 1 && begin == '"') return string(out);
            if (found == 1) other_kind = kind();
            value(1);
        });
        CHECK(found > 0, "{} line {}: there is no field \"{}\"; --field names the field with the text: {}{}", file_,
              line, field, others.empty() ? "there are none" : others,
              is_chat ? "\n    if this is a conversation, --chat-template says how it becomes text" : "");
        CHECK(found == 1, "{} line {}: the field \"{}\" appears twice", file_, line, field);
        CHECK(other_kind.empty(), "{} line {}: field \"{}\" is {}, expected a string", file_, line, field, other_kind);
    }

    // Reads a value of any kind and keeps nothing.
    void skip_value() { value(1); }
    // Reads a value of any kind and appends its bytes, as the file has them, to `out`.
    void copy_value(std::string& out) {
        skip_space();
        copy_   = &out;
        copied_ = at_;
        value(1);
        copy_->append(copied_, size_t(at_ - copied_));
        copy_ = nullptr;
    }

    // Skips space, and returns the byte behind it without taking it, or -1 at the end.
    int skip_space() {
        int c         = peek();
        int64_t lines = 0;
        for (; c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = peek()) {
            lines += c == '\n';
            at_++;
        }
        if (c >= 0) line_ += lines;
        return c;
    }
    // Takes the next byte, or returns -1 at the end.
    int take() {
        const int c = peek();
        at_ += c >= 0;
        return c;
    }
    // What is left of the bytes that more() gave last.
    std::string_view rest() const { return {at_, size_t(end_ - at_)}; }
    int64_t line() const { return line_; }

    [[noreturn]] void bad(const char* expected) {
        throw_error<JsonSyntaxError>("{} line {}: not JSON: expected {} at byte {}", file_, line_, expected,
                                     before_ + (at_ - begin_));
    }

  private:
    static constexpr int deepest = 200;

    // The next byte, or -1 at the end.
    int peek() {
        if (at_ != end_) return uint8_t(*at_);
        if (copy_) copy_->append(copied_, size_t(at_ - copied_));
        copied_                      = at_;
        const std::string_view bytes = more_ ? more_() : std::string_view();
        if (bytes.empty()) return -1;
        before_ += at_ - begin_;
        at_ = begin_ = bytes.data();
        end_         = at_ + bytes.size();
        copied_      = at_;
        return uint8_t(*at_);
    }
    static bool is_value(int c) {
        return c == '{' || c == '[' || c == '"' || c == '-' || (c >= '0' && c <= '9') || c == 't' || c == 'f' ||
               c == 'n' || c == 'N' || c == 'I';
    }
    const char* kind() {
        switch (peek()) {
            case -1: return "nothing";
            case '{': return "an object";
            case '[': return "a list";
            case '"': return "a string";
            case 'n': return "null";
            case 't':
            case 'f': return "a boolean";
            case 'N':
            case 'I': return "a number";
            default: return (peek() >= '0' && peek() <= '9') || peek() == '-' ? "a number" : "not JSON";
        }
    }

    template <class F>
    void object(F on_key) {
        take();
        if (skip_space() == '}') return void(take());
        for (std::string key;;) {
            if (skip_space() != '"') bad("a key in quotes");
            key.clear();
            string(key);
            if (skip_space() != ':') bad("':'");
            take();
            on_key(key);
            const int c = skip_space();
            if (c != ',' && c != '}') bad("',' or '}'");
            take();
            if (c == '}') return;
        }
    }
    void value(int depth) {
        if (depth > deepest) bad("at most 200 levels");
        const int c = skip_space();
        if (c == '"') {
            skipped_.clear();
            string(skipped_, false);
        } else if (c == '{') {
            object([&](const std::string&) { value(depth + 1); });
        } else if (c == '[') {
            take();
            if (skip_space() == ']') return void(take());
            for (;;) {
                value(depth + 1);
                const int next = skip_space();
                if (next != ',' && next != ']') bad("',' or ']'");
                take();
                if (next == ']') return;
            }
        } else if (c == 't' || c == 'f' || c == 'n')
            word(c == 't' ? "true" : c == 'f' ? "false" : "null");
        else if (c == 'N' || c == 'I')
            word(c == 'N' ? "NaN" : "Infinity");
        else
            number();
    }
    void word(const char* w) {
        for (; *w; w++)
            if (take() != *w) bad("a value");
    }
    void digits() {
        if (peek() < '0' || peek() > '9') bad("a value");
        while (peek() >= '0' && peek() <= '9') at_++;
    }
    void number() {
        if (peek() == '-') take();
        if (peek() == 'I') return word("Infinity");
        if (peek() == '0')
            take();
        else
            digits();
        if (peek() == '.') take(), digits();
        if (peek() == 'e' || peek() == 'E') {
            take();
            if (peek() == '+' || peek() == '-') take();
            digits();
        }
    }

    // Whether a byte stands for itself in a string: ASCII except control characters, quote and backslash.
    static bool is_plain(char c) { return static_cast<signed char>(c) >= 0x20 && c != '"' && c != '\\'; }
    // Whether eight bytes are plain, tested all at once by the top bit of each byte. A borrow from a lower byte may
    // make a plain byte look special, which only costs time.
    static bool are_plain(const char* bytes) {
        constexpr uint64_t low = 0x0101010101010101u, top = 0x80 * low;
        uint64_t w;
        std::memcpy(&w, bytes, 8);
        const uint64_t quote = w ^ ('"' * low), backslash = w ^ ('\\' * low);
        return ((w | (w - 0x20 * low) | ((quote - low) & ~quote) | ((backslash - low) & ~backslash)) & top) == 0;
    }
    void string(std::string& out, bool keep = true) {
        take();
        for (;;) {
            const char* run = at_;
            while (end_ - at_ >= 8 && are_plain(at_)) at_ += 8;
            while (at_ != end_ && is_plain(*at_)) at_++;
            if (keep) out.append(run, size_t(at_ - run));
            const int c = peek();
            if (c == '"') return void(take());
            if (c == '\\')
                escape(out);
            else if (c >= 0x80)
                character(out);
            else if (c < 0)
                bad("the end of a string");
            else if (!is_plain(char(c)))
                bad("no control character in a string");
            if (!keep) out.clear();
        }
    }
    // Reads one well-formed character of two to four bytes.
    void character(std::string& out) {
        const int first = take();
        Utf8Lead lead   = utf8_lead(uint8_t(first));
        if (lead.more == 0) bad("UTF-8");
        out += char(first);
        for (; lead.more > 0; lead = {lead.more - 1, 0x80, 0xbf}) {
            const int c = take();
            if (c < lead.low || c > lead.high) bad("UTF-8");
            out += char(c);
        }
    }
    void escape(std::string& out) {
        take();
        const int c = take();
        switch (c) {
            case 'n': out += '\n'; return;
            case 't': out += '\t'; return;
            case 'r': out += '\r'; return;
            case 'b': out += '\b'; return;
            case 'f': out += '\f'; return;
            case '"':
            case '\\':
            case '/': out += char(c); return;
            case 'u': break;
            default: bad("one of \"\\/bfnrtu after a backslash");
        }
        uint32_t code = hex();
        if (code >= 0xd800 && code < 0xdc00) {
            const bool follows = take() == '\\' && take() == 'u';
            const uint32_t low = follows ? hex() : 0;
            if (low < 0xdc00 || low > 0xdfff) bad("the second half of a surrogate pair");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        } else if (code >= 0xdc00 && code < 0xe000)
            bad("no lone half of a surrogate pair");
        append_utf8(out, int32_t(code));
    }
    uint32_t hex() {
        uint32_t code = 0;
        for (int i = 0; i < 4; i++) {
            const int c = take(), letter = c | 0x20;
            if (c >= '0' && c <= '9')
                code = code * 16 + uint32_t(c - '0');
            else if (letter >= 'a' && letter <= 'f')
                code = code * 16 + uint32_t(letter - 'a' + 10);
            else
                bad("four hexadecimal digits");
        }
        return code;
    }

    const char *at_, *end_, *begin_;
    int64_t before_ = 0;  // bytes of the object before begin_
    const std::string& file_;
    int64_t line_;
    std::function<std::string_view()> more_;
    std::string skipped_;
    std::string* copy_  = nullptr;  // copy_value() appends to it
    const char* copied_ = nullptr;  // the bytes before this one are in *copy_
};
