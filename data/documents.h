// documents.h - reads text files as documents, in blocks that threads can work on
//
//   text     a file is one document, or several that are separated by lines such as <|endoftext|>
//   jsonl    each line is a JSON object, and one of its fields is the text of a document
//   json     as jsonl, but objects may span lines or be the elements of a list
//
// Documents reads the files one after another and hands on blocks of about a megabyte. A block holds whole documents,
// and parts of those that are longer than part_bytes (text_parts.h), so memory does not grow with the input.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"
#include "data/json_reader.h"
#include "data/sources.h"
#include "data/text_parts.h"
#include "data/text_stream.h"
#include "data/validation.h"

// A document or a part of one, as the file has it.
struct Part {
    enum Kind : uint8_t {
        text,
        json,  // an object from which text_of() reads the text
        fault  // an error message in place of input that could not be read
    };
    size_t begin, end;  // its bytes are TextBlock::bytes[begin, end)
    int64_t line;       // the line of the file where it begins
    int32_t file;       // index in Documents::files()
    Kind kind;
    bool first, last;             // whether it is the first, the last part of its document
    bool for_validation = false;  // this part belongs to a document that is cut into several
};

struct TextBlock {
    std::string bytes;
    std::vector<Part> parts;
    std::string_view bytes_of(const Part& p) const { return std::string_view(bytes).substr(p.begin, p.end - p.begin); }
};

struct ReadSettings {
    std::string format = "auto", field = "text", separator = "<|endoftext|>";
    size_t block_bytes  = 1 << 20;
    size_t part_bytes   = 1 << 20;  // longer documents come in parts
    double val_fraction = 0;        // share of the documents that is held out, by their hash
    bool keep_any_bytes = false;    // take text that is not UTF-8 as it is
    bool objects        = false;    // hand on whole objects, in which conversations.h finds more than one text
    TextParts::LastCut last_cut;    // finds the place to cut a long document
};

// How documents lie in a file of JSON.
enum class JsonForm { none, lines, values };

// begin: the first bytes of a file, or all of them if is_whole. Text such as "[Scene 1]" or "{{Infobox" is not JSON.
inline JsonForm json_form(std::string_view begin, bool is_whole) {
    const std::string nowhere;
    JsonReader json(begin, nowhere, 1);
    const int first = json.skip_space();
    if (first != '{' && first != '[') return JsonForm::none;
    const size_t from = begin.size() - json.rest().size();
    bool is_cut       = false;
    try {
        json.skip_value();
    } catch (const JsonSyntaxError&) {
        is_cut = json.rest().empty() && !is_whole;
        if (!is_cut) return JsonForm::none;
    }
    const size_t to      = begin.size() - json.rest().size();
    const bool spans     = begin.substr(from, to - from).find('\n') != std::string_view::npos;
    const size_t behind  = begin.find_first_not_of(" \t\r", to);
    const bool ends_line = behind == std::string_view::npos || begin[behind] == '\n';
    const int next       = json.skip_space();
    const bool more_json = next < 0 || next == '{' || next == '[';
    if (!is_cut && !more_json) return JsonForm::none;
    return first == '{' && !spans && ends_line ? JsonForm::lines : JsonForm::values;
}

// Whether text begins with an object, or with a list of objects. Such a file is not taken for text, even if it is
// damaged.
inline bool begins_like_json(std::string_view begin) {
    const auto take = [&](char c) {
        const size_t at = begin.find_first_not_of(" \t\r\n");
        if (at == std::string_view::npos || begin[at] != c) return false;
        begin.remove_prefix(at + 1);
        return true;
    };
    take('[');
    return take('{') && take('"');
}

class Documents {
  public:
    using Hand = std::function<void(TextBlock)>;

    Documents(const std::vector<Source>& sources, ReadSettings settings) : settings_(std::move(settings)) {
        CHECK(!sources.empty(), "no input: give --input FILE…, or - for standard input");
        for (const Source& s : sources) {
            sources_.emplace_back();
            sources_.back().weight = s.weight;
            for (const std::string& path : s.files) {
                sources_.back().files.push_back(int32_t(files_.size()));
                std::error_code unknown;
                const auto size = path == "-" || !fs::is_regular_file(path) ? 0 : fs::file_size(path, unknown);
                files_.push_back({path, unknown ? 0 : int64_t(size)});
                total_ += files_.back().size;
            }
        }
    }

    // Reads the sources and passes each block to `hand`. The next document is always from the source that is furthest
    // behind its weight, counted in bytes. Reading ends when the first source does, so the weights hold throughout.
    void read(const Hand& hand) {
        hand_ = hand;
        for (;;) {
            OpenSource& next =
                *std::min_element(sources_.begin(), sources_.end(), [](const OpenSource& a, const OpenSource& b) {
                    return double(a.bytes) / a.weight < double(b.bytes) / b.weight;
                });
            if (!read_document(next)) break;
        }
        if (!block_.parts.empty()) hand_over();
    }

    const std::vector<InputFile>& files() const { return files_; }
    // What the user should know about the files that were read, a sentence each.
    const std::vector<std::string>& notes() const { return notes_; }
    // The share of the input that has been read, 0..1, or -1 if its size is not known.
    double progress() const { return total_ == 0 ? -1 : double(bytes_read_) / double(total_); }

    // The text of a part, or all of an object. `buffer` holds the text if it had to be taken out of JSON. Throws
    // InputError for bad JSON.
    std::string_view text_of(const TextBlock& block, const Part& part, std::string& buffer) const {
        if (part.kind == Part::text || settings_.objects) return block.bytes_of(part);
        buffer.clear();
        JsonReader(block.bytes_of(part), files_[size_t(part.file)].name(), part.line)
            .read_only_object(settings_.field, buffer);
        return buffer;
    }

  private:
    static constexpr size_t chunk = 1 << 18;  // bytes of a long line that are read at a time

    struct OpenSource {
        double weight = 1;
        std::vector<int32_t> files;
        size_t next_file = 0;
        std::unique_ptr<TextStream> stream;  // reads the current file; null before that is open
        std::unique_ptr<Lines> lines;        // is used for text and JSON lines
        std::unique_ptr<JsonReader> json;    // is used for other JSON
        TextParts* document = nullptr;       // the one that `json` is reading
        bool is_jsonl = false, in_list = false, has_read = false;
        int64_t line  = 0;  // lines of the current file that have been read
        int64_t bytes = 0;  // bytes of documents so far

        int32_t file() const { return files[next_file]; }
        void close() {
            lines.reset();
            json.reset();
            stream.reset();
            has_read = false;
            next_file++;
        }
    };

    // Adds the next document of a source to the block. False at the end of the source. An error in a file becomes a
    // fault, and reading goes on with the next file.
    bool read_document(OpenSource& from) {
        for (; from.next_file < from.files.size(); from.close()) {
            try {
                if (!from.stream) open(from);
                const bool found = from.json ? read_json(from) : from.is_jsonl ? read_json_line(from) : read_text(from);
                note_progress(from);
                if (found) return true;
                files_[size_t(from.file())].read_to_end = true;
                note_invalid_bytes(*from.stream);
            } catch (const InputError& e) {
                note_progress(from);
                add_fault(from, e.what());
            }
        }
        return false;
    }

    void open(OpenSource& from) {
        const InputFile& file        = files_[size_t(from.file())];
        const std::string& format    = settings_.format;
        from.line                    = 0;
        from.stream                  = std::make_unique<TextStream>(file.path, settings_.keep_any_bytes);
        const std::string_view begin = from.stream->peek();
        if (from.stream->had_mark())
            notes_.push_back(file.name() + ": the UTF-8 byte-order mark in front was left out");
        const bool named_jsonl  = format == "jsonl" || (format == "auto" && has_jsonl_name(file.path));
        const JsonForm form     = format == "text" ? JsonForm::none : json_form(begin, from.stream->is_whole());
        // What begins like JSON and is damaged is read all the same when it must be JSON: the error then names the
        // line.
        const bool must_be_json = named_jsonl || (settings_.objects && begins_like_json(begin));
        CHECK(!settings_.objects || must_be_json || form != JsonForm::none,
              "{}: conversations are read from JSON: an object per line, or a list of objects", file.name());
        if (form != JsonForm::none && !named_jsonl && !settings_.objects)
            notes_.push_back(file.name() +
                             " is JSON, so the text of its documents was read; --format text takes it as it is");
        CHECK(must_be_json || form != JsonForm::none || format == "text" || !begins_like_json(begin),
              "{} begins like JSON, but is damaged; --format text takes it as it is", file.name());
        from.is_jsonl           = must_be_json || form == JsonForm::lines;
        const bool damaged_list = form == JsonForm::none && must_be_json && begins_like_json(begin) &&
                                  begin[begin.find_first_not_of(" \t\r\n")] == '[';
        if (form == JsonForm::values || damaged_list)
            open_json(from);
        else
            from.lines = std::make_unique<Lines>(*from.stream, !from.is_jsonl);
    }
    void open_json(OpenSource& from) {
        const auto more = [&from] {
            if (from.document) from.document->hand_full_parts();
            return from.stream->next();
        };
        from.json    = std::make_unique<JsonReader>("", files_[size_t(from.file())].name(), 1, more);
        from.in_list = from.json->skip_space() == '[';
        if (from.in_list) from.json->take();
    }

    void note_invalid_bytes(const TextStream& stream) {
        const Utf8Check& c = stream.checked();
        if (c.invalid + c.zeros > 0)
            notes_.push_back(fmt::format("{}: {} {} not UTF-8 or NUL, the first at byte {}, and kept as found",
                                         stream.name(), count_of(c.invalid + c.zeros, "byte"),
                                         c.invalid + c.zeros == 1 ? "is" : "are", c.first));
    }
    void note_progress(const OpenSource& from) {
        if (!from.stream) return;
        InputFile& file = files_[size_t(from.file())];
        bytes_read_ += from.stream->bytes_read() - file.bytes;
        file.bytes = from.stream->bytes_read();
        file.crc   = from.stream->crc();
    }

    bool read_json_line(OpenSource& from) {
        do {
            line_.clear();
            if (!from.lines->next(line_, settings_.objects ? SIZE_MAX : settings_.part_bytes)) return false;
            from.line++;
        } while (from.lines->line_ended() && line_.find_first_not_of(" \t\r\n") == std::string::npos);
        if (from.lines->line_ended())
            add(from, line_, Part::json, from.line, true, true);
        else
            read_long_json_line(from);
        return true;
    }

    // The threads take the text out of JSON lines (text_of), but a long line must be read here to be cut into parts.
    // If the line turns out to be bad, the text before the error stays.
    void read_long_json_line(OpenSource& from) {
        TextParts document = parts_of_document(from, from.line);
        std::string rest;
        const auto next_chunk = [&] {
            document.hand_full_parts();
            rest.clear();
            if (!from.lines->line_ended()) from.lines->next(rest, chunk);
            return std::string_view(rest);
        };
        JsonReader object(line_, files_[size_t(from.file())].name(), from.line, next_chunk);
        try {
            object.read_only_object(settings_.field, document.text);
            document.finish();
        } catch (const InputError& e) {
            document.finish();
            add_fault(from, e.what());
            while (!from.lines->line_ended()) rest.clear(), from.lines->next(rest, chunk);
        }
    }

    // Reads the next object of a list, or of a file in which objects span lines. An object without the field is a
    // fault.
    bool read_json(OpenSource& from) {
        JsonReader& json = *from.json;
        int next         = json.skip_space();
        if (from.in_list) {
            if (from.has_read && next == ',') {
                json.take(), next = json.skip_space();
                if (next == ']') json.bad("an object after ','");
            } else if (from.has_read && next != ']')
                json.bad("',' or ']'");
            if (next == ']') {
                json.take();
                from.in_list = false;
                next         = json.skip_space();
                if (next >= 0) json.bad("nothing after the list");
            }
        }
        if (next < 0 && from.in_list) json.bad("the end of the list");
        if (next < 0) return false;
        from.has_read = true;
        from.line     = json.line();
        if (settings_.objects) return add_object(from), true;
        TextParts document = parts_of_document(from, from.line);
        from.document      = &document;
        try {
            json.read_object(settings_.field, document.text);
        } catch (const JsonSyntaxError&) {
            from.document = nullptr;
            document.finish();
            throw;
        } catch (const InputError& e) {
            document.text.clear();
            add_fault(from, e.what());
        }
        from.document = nullptr;
        document.finish();
        return true;
    }

    void add_object(OpenSource& from) {
        line_.clear();
        from.json->copy_value(line_);
        add(from, line_, Part::json, from.line, true, true);
    }

    // Reads up to a separator line or the end of the file. Empty documents are skipped.
    bool read_text(OpenSource& from) {
        int64_t first_line = from.line + 1;
        TextParts document = parts_of_document(from, first_line);
        try {
            size_t begin = 0;
            for (bool at_line_begin = true; from.lines->next(document.text, chunk); begin = document.text.size()) {
                const bool line_ended = from.lines->line_ended();
                if (at_line_begin && line_ended && is_separator(std::string_view(document.text).substr(begin))) {
                    document.text.resize(begin);
                    from.line++;
                    if (!document.empty()) return document.finish(), true;
                    first_line = from.line + 1;
                    continue;
                }
                at_line_begin = line_ended;
                from.line += line_ended;
                document.hand_full_parts();
            }
        } catch (const InputError&) {
            document.finish();  // the text before the error stays
            throw;
        }
        const bool found = !document.empty();
        document.finish();
        return found;
    }

    bool is_separator(std::string_view line) const {
        if (!line.empty() && line.back() == '\n') line.remove_suffix(1);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        return !settings_.separator.empty() && line == settings_.separator;
    }

    // Cuts a document that begins at first_line into parts, and adds them to the block. The first part of several
    // decides whether the document is held out.
    TextParts parts_of_document(OpenSource& from, const int64_t& first_line) {
        auto take = [this, &from, &first_line, for_validation = false](std::string_view part, bool first,
                                                                       bool last) mutable {
            if (first && !last) for_validation = is_validation(part, settings_.val_fraction);
            add(from, part, Part::text, first_line, first, last, for_validation);
        };
        return TextParts(settings_.part_bytes, settings_.last_cut, take);
    }

    void add(OpenSource& from, std::string_view bytes, Part::Kind kind, int64_t line, bool first, bool last,
             bool for_validation = false) {
        const size_t begin = block_.bytes.size();
        block_.bytes.append(bytes.data(), bytes.size());
        block_.parts.push_back({begin, block_.bytes.size(), line, from.file(), kind, first, last, for_validation});
        from.bytes += kind == Part::fault ? 0 : int64_t(bytes.size());
        if (block_.bytes.size() >= settings_.block_bytes) hand_over();
    }
    void add_fault(OpenSource& from, const std::string& why) { add(from, why, Part::fault, from.line, true, true); }
    void hand_over() {
        hand_(std::move(block_));
        block_ = TextBlock();
    }

    ReadSettings settings_;
    std::vector<OpenSource> sources_;
    std::vector<InputFile> files_;
    int64_t total_ = 0;                   // bytes of all files on disk
    std::atomic<int64_t> bytes_read_{0};  // the writing thread shows it
    Hand hand_;
    TextBlock block_;
    std::string line_;
    std::vector<std::string> notes_;
};
