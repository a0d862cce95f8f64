// main.cpp - runs the emulator's tests: build/emulator/test [NAME or [tag]]
//
// A run of all instruction tests also fails when the table of forms has a row that none of them used.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>

#include "engine/forms.h"

int main(int argc, char** argv) {
    Catch::Session session;
    if (const int error = session.applyCommandLine(argc, argv)) return error;
    const auto& filters = session.configData().testsOrTags;
    const bool lists    = argc > 1 && std::string(argv[1]).rfind("--list", 0) == 0;
    if (const int failed = session.run()) return failed;
    if (lists || !(filters.empty() || (filters.size() == 1 && filters[0] == "~[programs]"))) return 0;
    const auto rows = emu::rows_without_use();
    for (const std::string& row : rows) std::printf("no test vector for %s\n", row.c_str());
    return rows.empty() ? 0 : 1;
}
