// test_pages.cpp - the pages of the repository: code blocks end, links lead somewhere, and commands have options that
// exist
#include <algorithm>
#include <regex>
#include <set>
#include <sstream>

#include "data/files.h"
#include "test/programs.h"

namespace {

const std::vector<std::string> pages = {"README.md",         "CONTRIBUTING.md", "data/README.md",
                                        "kernels/README.md", "docs/scaling.md", "test/emulator/README.md"};

std::vector<std::string> lines_of(const std::string& page) {
    std::vector<std::string> lines;
    std::istringstream in(read_text(page));
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

// A page without its code blocks, and the lines of these.
struct Page {
    std::string text;
    std::vector<std::string> code;
    bool whole;  // every block ends
};
Page read_page(const std::string& name) {
    Page p{"", {}, true};
    for (const std::string& line : lines_of(name)) {
        if (line.rfind("```", 0) == 0)
            p.whole = !p.whole;
        else if (p.whole)
            p.text += line + "\n";
        else
            p.code.push_back(line);
    }
    return p;
}

std::vector<std::string> matches(const std::string& text, const char* pattern) {
    std::vector<std::string> all;
    const std::regex form(pattern);
    for (std::sregex_iterator m(text.begin(), text.end(), form), end; m != end; ++m) all.push_back((*m)[1]);
    return all;
}

// The name that a link has for a heading: small letters, digits and hyphens for spaces.
std::string anchor_of(const std::string& heading) {
    std::string name;
    for (const unsigned char c : heading)
        if (c == ' ' || c == '-' || c == '_' || std::isalnum(c) || c > 127)
            name += c == ' ' ? '-' : char(std::tolower(c));
    return name;
}

// An archive of `make dist` has the tests, but no pages.
bool have_pages() {
    if (fs::exists("CONTRIBUTING.md")) return true;
    std::fprintf(stderr, "skipped: the pages are not in this folder\n");
    return false;
}

}  // namespace

TEST_CASE("in every page code blocks end, rows of a table have its columns, and links lead somewhere", "[pages]") {
    if (!have_pages()) return;
    const std::string page = GENERATE(from_range(pages));
    const Page p           = read_page(page);
    CAPTURE(page);
    CHECK(p.whole);
    ptrdiff_t columns = 0;  // of the table that a line belongs to
    for (const std::string& line : lines_of(page)) {
        const bool row = line.rfind("|", 0) == 0;
        const ptrdiff_t here =
            row ? std::count(line.begin(), line.end(), '|') - ptrdiff_t(matches(line, "(\\\\\\|)").size()) : 0;
        CAPTURE(line);
        if (row && columns) CHECK(here == columns);
        columns = row && columns ? columns : here;
    }
    std::set<std::string> headings;
    for (const std::string& heading : matches(p.text, "(?:^|\n)#+ ([^\n]*)")) headings.insert(anchor_of(heading));
    for (const std::string& link : matches(p.text, "\\]\\(([^)\\s]+)\\)")) {
        CAPTURE(link);
        if (link.find("://") != link.npos) continue;
        if (link[0] == '#')
            CHECK(headings.count(link.substr(1)) == 1);
        else
            CHECK(fs::exists(fs::path(page).parent_path() / link.substr(0, link.find('#'))));
    }
}

TEST_CASE("the map names every file of gpt and of data", "[pages]") {
    if (!have_pages()) return;
    const std::pair<const char*, const char*> maps[] = {{"gpt", "README.md"}, {"data", "data/README.md"}};
    for (const auto& [folder, page] : maps) {
        const std::string text = read_text(page);
        for (const auto& file : fs::directory_iterator(folder)) {
            const std::string name = file.path().filename().string();
            CAPTURE(page, name);
            if (file.is_regular_file() && name != "README.md") CHECK(text.find("[" + name + "]") != text.npos);
        }
    }
}

TEST_CASE("commands in the pages have options that their programs know", "[pages][programs]") {
    if (!have_pages()) return;
    const Scratch scratch;
    const std::string program = GENERATE(values<std::string>({"train_gpt", "infer_gpt", "tokenize"}));
    const std::string help    = run(scratch, program, "--help").out;
    int commands              = 0;
    for (const std::string& page : pages) {
        const Page p                      = read_page(page);
        std::vector<std::string> of_pages = p.code;
        for (const std::string& code : matches(p.text, "`([^`]+)`")) of_pages.push_back(code);
        for (const std::string& line : of_pages) {
            const size_t at = line.find("./" + program + " ");
            if (at == line.npos) continue;
            const std::string words = line.substr(at, line.find_first_of("#|>", at) - at);
            commands++;
            CAPTURE(page, line);
            for (const std::string& option : matches(words, "\\s(--[a-z][a-z0-9-]*)"))
                if (option != "--help" && option != "--version") CHECK(help.find(option + " ") != help.npos);
        }
    }
    CHECK(commands >= 3);
}
